"""What a run's card says, for its report: in a sentence, as figures before and after, as time and memory, and as the
file that would make it again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from likelier.data.builtin import BUILT_IN
from likelier.insight.compare.subjects import SWEEP_FILE
from likelier.insight.diagnose.facts import Facts
from likelier.insight.kl import ALIKE, is_above_zero
from likelier.insight.pages.charts import number
from likelier.insight.rewards import reward_parts
from likelier.runs.card import HeldOut, RunCard
from likelier.runs.model_card import base_model_id
from likelier.runs.reader import Row, Run
from likelier.utils.errors import RunFolderError
from likelier.utils.files import base_names, read_object, refuse_link
from likelier.utils.shell import CODE, names_code, quoted
from likelier.utils.yaml_text import as_yaml, comment

# Metric, its name for a reader, whether it is a share.
_FIGURES = (
    ("pair_accuracy", "pairs right by reward", True),
    ("rewards/accuracies", "items right by reward", True),
    ("ranking_accuracy", "pairs right by the policy itself", True),
    ("ranking_accuracy_per_token", "the same, per token", True),
    ("confidence", "pairs that it claims to get right", True),
    ("calibration_error", "distance of its claims from what is right", True),
    ("rewards/margins", "reward margin", False),
    ("rewards/chosen", "reward of chosen answers", False),
    ("rewards/rejected", "reward of rejected answers", False),
    ("logps/chosen", "log-probability of chosen answers, nats", False),
    ("logps/rejected", "log-probability of rejected answers, nats", False),
    ("loss", "loss", False),
    ("kl", "KL to the reference, nats an answer", False),
    ("reward", "reward of own answers", False),
    ("best_of_n", "the best of several answers to each prompt", False),
    ("win_rate", "own answers better than at the start, by the judge", True),
    ("answer_length", "tokens of own answers", False),
    ("repetition", "repetition in own answers", True),
    ("refusals", "refusals among own answers", True),
    ("cut_answers", "own answers cut at the limit", True),
)
_BY_REWARD = ("pair_accuracy", "rewards/accuracies")


@dataclass(frozen=True)
class Figure:
    """A line of the table of results: before and after in words, each with its interval; empty where not measured."""

    name: str
    before: tuple[str, str]
    after: tuple[str, str]


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def sentence(run: Run) -> str:
    """What was trained, on what and for how long."""
    card = run.card
    said = [f"{run.method.upper()} trained {base_names(_model(card))}"]
    if card.data.train and card.data.train.used:
        said.append(f"on {card.data.train.used:,} {unit(run)}")
    if card.steps or run.steps:
        said.append(f"for {_steps(run)} of {card.options.batch_size or '?'} {unit(run)}")
    if card.training_seconds is not None:
        said.append(f"in {duration(card.training_seconds)} on {card.device or '?'}")
    return " ".join(said) + "."


def _model(card: RunCard) -> str:
    """The policy in words, the built-in one by its full name."""
    words, name, known = card.policy or "a model", card.run.model, base_model_id(card)
    return words.replace(str(name), known, 1) if known and words.split(" ")[0] == name else words


def unit(run: Run) -> str:
    """What a step counts."""
    return run.card.facts.items


def _steps(run: Run) -> str:
    done = int(run.card.steps or (run.steps[-1].get("step", 0) if run.steps else 0))
    return f"{done:,} step" + ("" if done == 1 else "s")


def state(run: Run) -> tuple[str, str]:
    """How it stands: a severity and words; no words for a run that is done."""
    status, error, planned = run.card.status, run.card.with_base_names.error, run.card.total_steps
    where = _steps(run) + ("" if planned is None else f" of {planned:,}")
    if status == "training":
        return "info", f"This run has not ended: {where} so far. Make the report again later for the rest."
    if status in ("failed", "interrupted"):
        return "error", f"This run {'failed' if status == 'failed' else 'was interrupted'} after {where}" + (
            f": {error}" if error else "."
        )
    return "good", ""


# --- figures ---------------------------------------------------------------------------------------------------


def start_and_end(run: Run) -> tuple[Row, Row]:
    """The evaluation before the first step and the last one; empty where there is none."""
    first = run.evaluations[0] if run.evaluations and run.evaluations[0].get("step") == 0 else {}
    last = run.evaluations[-1] if run.evaluations and run.evaluations[-1].get("step") != 0 else {}
    return first, last


def figures(run: Run) -> list[Figure]:
    """The held-out metrics before and after, those that were measured."""
    before, after = start_and_end(run)
    parts = [(f"rewards/{name}/mean", f"reward {name}", False) for name in reward_parts([before, after])]
    several = parts if len(parts) > 1 else []
    keys = [entry for entry in (*several, *_FIGURES) if entry[0] in before or entry[0] in after]
    if "pair_accuracy" in (after or before) and unit(run) == "pairs":
        keys = [entry for entry in keys if entry[0] != "rewards/accuracies"]  # the same pairs, the same rewards
    return [Figure(name, _measured(before, key, share), _measured(after, key, share)) for key, name, share in keys]


def _measured(row: Row, key: str, share: bool) -> tuple[str, str]:
    """A metric's value, and how sure it is."""
    value = row.get(key)
    if not isinstance(value, (int, float)):
        return "", ""
    if key in _BY_REWARD and not row.get("rewards/margins"):
        return "", "no reward differs yet"
    low, high, error = (row.get(f"{key}_{name}") for name in ("low", "high", "standard_error"))
    words = _kl(row) if key == "kl" else number(value, percent=share)
    if isinstance(low, (int, float)) and isinstance(high, (int, float)):
        return words, f"{number(low, percent=share)} to {number(high, percent=share)}"
    if words == ALIKE:
        return words, f"{number(value)} ± {error or 0.0:.2g}"
    return words, f"± {error:.2g}" if isinstance(error, (int, float)) and error else ""


def tiles(run: Run) -> list[tuple[str, str, str]]:
    """The few figures that stand at the top: name, value, and how sure it is, of how many."""
    _, after = start_and_end(run)
    named = [
        ("held-out accuracy", "pair_accuracy" if "pair_accuracy" in after else "rewards/accuracies", True),
        ("held-out margin", "rewards/margins", False),
        ("held-out loss", "loss", False),
        ("KL in nats", "kl", False),
    ]
    if "rewards/margins" in after:
        named = [entry for entry in named if entry[1] != "loss"]  # it says less
    found = [(name, *_tile(run, after, key, share)) for name, key, share in named if key in after]
    found.append(("steps", f"{_steps(run).split()[0]}", ""))
    if run.card.training_seconds is not None:
        found.append(("training time", duration(run.card.training_seconds), ""))
    if run.card.peak_memory_gib:
        found.append(("peak memory", f"{run.card.peak_memory_gib:.3g} GiB", ""))
    return found


def _tile(run: Run, after: Row, key: str, share: bool) -> tuple[str, str]:
    """A metric's value; its interval and of how many it is."""
    if key == "kl":
        answers = len(run.detail("end").samples)
        value, sure = _measured(after, key, share)
        told = [f"{ALIKE}: {sure}" if value == ALIKE else sure, f"n = {answers} answers" if answers else ""]
        return "about 0" if value == ALIKE else value, ", ".join(filter(None, told))
    value, sure = _measured(after, key, share)
    if key == "rewards/margins":
        sure = _margin_interval(run)
    rows = after.get("items")
    return value or sure, ", ".join(filter(None, [sure if value else "", f"n = {rows:,.0f}" if rows else ""]))


def _kl(row: Row) -> str:
    """A KL that cannot be told from 0 is no figure."""
    value, error = row["kl"], row.get("kl_standard_error")
    return number(value) if value == 0 or is_above_zero(value, error) else ALIKE


def _margin_interval(run: Run) -> str:
    """The interval of the held-out margin in rewards; empty where the pairs are not listed one by one."""
    facts, scale = Facts(run), 1.0 if run.card.facts.reads_values else run.card.reward_scale
    margin = facts.items.margin if scale and facts.items is not None and facts.items.is_paired else None
    if margin is None or margin.interval is None or not scale:
        return ""
    low, high = (number(scale * limit) for limit in margin.interval)
    return f"{low} to {high}"


# --- the card --------------------------------------------------------------------------------------------------


def facts(run: Run) -> list[tuple[str, str]]:
    """The card in words, local paths cut down to their last part."""
    return [(name, str(words)) for name, words in _facts(run, run.card.with_base_names) if words]


def _facts(run: Run, card: RunCard) -> Iterator[tuple[str, Any]]:
    yield "model", _model(card) if card.policy else None
    if card.parameters and card.parameters.all:
        trained, every = card.parameters.trainable, card.parameters.all
        yield "trained", f"{trained:,} of {every:,} parameters ({trained / every:.2%})"
    yield "method", f"{run.method}: {card.explained}" if card.explained else run.method
    yield "reference", card.reference.words
    yield "reference checked", card.reference.proof
    yield "learning rate", card.learning_rate
    yield "data", card.run.data
    yield "data format", card.data_format
    yield "held out", _held_out(card)
    yield "arithmetic", card.arithmetic
    yield "scorer", f"{card.scorer.name} ({card.scorer.reason})" if card.scorer else None
    yield "begun", card.started


def _held_out(card: RunCard) -> str | None:
    run, rows = card.run, card.data.held_out
    if not rows:
        return None
    if run.eval_fraction:
        return f"{rows:,} items: {run.eval_fraction:.0%} of the prompts"
    return f"{rows:,} items" + (f" from {run.eval_data}" if run.eval_data else "")


def timing(run: Run) -> list[tuple[str, str]]:
    """Time, speed and memory."""
    return [(name, words) for name, words in _timing(run) if words]


def _timing(run: Run) -> Iterator[tuple[str, str | None]]:
    seconds, last = run.card.training_seconds, run.steps[-1] if run.steps else {}
    spent = seconds if seconds is not None else last.get("seconds")
    yield "training", None if spent is None else duration(float(spent))
    for what, key in ((unit(run), "items"), ("tokens", "num_tokens")):
        rate = float(last.get(key) or 0) / float(spent) if spent else 0.0
        yield f"{what} a second", number(round(rate, 1)) if rate else None
    for key, words in (("seconds/sampling", "writing answers, a step"), ("seconds/rewards", "rewards, a step")):
        taken = run.column(key)[1]
        yield words, duration(fmean(taken)) if taken else None
    sampled = run.column("sampling/tokens_per_second")[1]
    yield "tokens sampled a second", number(round(fmean(sampled), 1)) if sampled else None
    for when, words in (
        ("start", "evaluation before"),
        ("interval", "evaluations between"),
        ("end", "evaluation after"),
    ):
        taken = run.card.evaluation.seconds.get(when)
        yield words, None if taken is None else duration(taken)
    share, memory = run.card.evaluation.share_at_intervals, run.card.peak_memory_gib
    yield "evaluations between, of training time", None if share is None else number(share, percent=True)
    on_gpu = (run.card.device or "").startswith("cuda")
    what = "most held on the GPU" if on_gpu else "largest size of the process"
    yield f"memory ({what})", f"{memory:.3g} GiB" if memory else None


# --- again -----------------------------------------------------------------------------------------------------


def run_file(run: Run) -> str | None:
    """The YAML that makes the run again; None for a run that was not made from files, or not from its own alone.

    That of a run of a sweep is a sweep's file: its seed is the one by which the sweep drew the held-out rows.
    """
    card, held_out = run.card, run.card.held_out
    given = {name: value for name, value in card.block("run").items() if name not in ("resume", "push_to_hub")}
    if not given or BUILT_IN in (card.run.data, card.run.eval_data) or held_out.from_own_data is False:
        return None
    parts = (given, card.lora, card.hyperparameters, card.block("options"), card.chat, {"seed": held_out.seed})
    named = {name: _plain(value) for part in parts for name, value in part.items() if value not in (None, {}, [])}
    text = as_yaml(named)
    return f"{comment(CODE)}\n{text}" if names_code(text) else text


def how_again(run: Run) -> tuple[str, str]:
    """What is to know before the run is made again (of a run of its own nothing), and the command."""
    held_out = run.card.held_out
    if held_out == HeldOut():
        return "", "likelier train run.yaml"
    named = base_names(held_out.named)
    if held_out.from_own_data is False:
        return f"This run is one of a sweep, held to rows of other data than its own ({named}).", _sweep_command(run)
    first, own = held_out.seed, run.card.options.seed
    words = f"This run is one of a sweep, which drew the held-out rows by seed {first} ({named})."
    if first in (None, own):
        return words, "likelier sweep run.yaml"
    return f"{words} The run of that seed is trained before it.", f"likelier sweep run.yaml --seeds {first} {own}"


def _sweep_command(run: Run) -> str:
    """The command of the run's sweep, as far as its record can be read: of no other file than the one beside it."""
    try:
        file = run.folder.resolve().parent / SWEEP_FILE
        refuse_link(file)
        record = read_object(file)
        vary = " ".join(map(quoted, base_names(record["words"])))
        seeds = [int(seed) for seed in record["seeds"]]
    except (OSError, ValueError, KeyError, TypeError, RunFolderError):
        return "likelier sweep FILE"
    several = f" --seeds {' '.join(map(str, seeds))}" if len(seeds) > 1 else ""
    caution = f"  # {CODE}" if names_code(vary) else ""
    return f"likelier sweep FILE{f' --vary {vary}' if vary else ''}{several}{caution}"


def demo_command(run: Run) -> str | None:
    """The command that makes a run on the built-in data again; None for any other run."""
    given, most = run.card.run, run.card.options.max_steps
    if given.data != BUILT_IN:
        return None
    model = "" if given.model == "demo" else f" --model {quoted(str(given.model))}"
    return f"likelier demo{model}" + (f" --max-steps {most}" if most else "")


def _plain(value: Any) -> Any:
    """A value without what was left alone in it."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items() if one is not None}
    return [_plain(one) for one in value] if isinstance(value, list) else value


def identities(run: Run) -> list[tuple[str, str]]:
    """Hashes, seed and versions."""
    card = run.card
    named = [
        ("seed", card.options.seed),
        ("hash of the training rows as tokens", card.data.hash),
        ("hash of the reference's weights", card.reference.weights),
        ("identity of the reference's scores", card.reference.identity),
        ("versions", ", ".join(f"{name} {version}" for name, version in card.versions.items()) or None),
    ]
    return [(name, str(value)) for name, value in named if value is not None]
