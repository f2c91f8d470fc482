"""What training says against what held-out data say: overfitting, noise, leakage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any

from likelier.insight.diagnose.advice import has_place, may_become, takes
from likelier.insight.diagnose.catalogue import verdict
from likelier.insight.diagnose.facts import MOVED, SIDES, Facts
from likelier.insight.diagnose.statistics import Trend
from likelier.insight.diagnose.words import from_to, interval, number, percent
from likelier.insight.verdicts import Verdict
from likelier.runs.account import Finding, Noise
from likelier.runs.reader import Row
from likelier.utils.statistics import wilson

ROSE = 0.1  # of the loss at the start: a held-out loss wavers by less between evaluations
LEVEL = 0.02  # of it: a held-out loss that close to its best is at its best
FELL = 0.05  # of held-out accuracy, and beyond two standard errors of it
GAP = 0.15  # training accuracy above held-out accuracy, and beyond its interval
NEAR_CEILING = 0.05  # accuracy below the ceiling that counts as at it
CEILING = 0.95  # a ceiling above this is that of any careful data set
CHANCE = 0.65  # an interval around one half that ends below this is that of coin tosses
LEAKED = 0.05  # of the held-out rows: above it the accuracy cannot be believed to a few percent
KEEPS_MAJORITY = ("contradictory-pairs", "contradictory-labels")  # of the findings that an audit drops
FRESH = 30  # items that an accuracy takes at least


# --- overfitting ---------------------------------------------------------------------------------------------------


def overfitting(facts: Facts) -> Iterator[Verdict]:
    """Held-out loss rises, or accuracy falls, from its best while training goes on to improve; or a wide gap."""
    known = _of_equal_rows(facts)
    losses, accuracy = facts.trend("loss"), facts.trend("rewards/accuracies")
    if sum(map(len, known)) < 2 or len(losses) < 4 or facts.latest.get("step", 0) == 0:
        return
    worse = [held for held in known if _loss_rose(facts, held, losses) or _accuracy_fell(facts, held)]
    gap = _gap(facts, accuracy)
    if not worse and not gap:
        return
    held = (worse or known)[0]
    fell, bad = _accuracy_fell(facts, held), bool(worse)
    best = min(held, key=lambda row: row["loss"])
    evidence = [
        ("training loss", from_to(losses.values[0], losses.last.value)),
        _held_out_loss(held, best, len(known) > 1),
        fell,
        gap,
        ("passes over the data", number(facts.run.steps[-1]["epoch"])) if "epoch" in facts.run.steps[-1] else None,
    ]
    title = {} if bad else {"title": "Training pairs are known much better than others"}
    yield verdict("overfitting", "warning" if bad else "info", evidence, _stop_sooner(facts, best, bad), **title)


def _of_equal_rows(facts: Facts) -> list[list[Row]]:
    """The evaluations that scored the same rows as each other, those of most evaluations first: at intervals only some
    rows are scored, so that the numbers cannot be held against those of all rows.
    """
    alike: dict[Any, list[Row]] = {}
    for row in facts.run.evaluations:
        if "loss" in row:
            alike.setdefault(row.get("items"), []).append(row)
    return sorted(alike.values(), key=len, reverse=True)


def _held_out_loss(held: list[Row], best: Row, is_one_of_several: bool) -> tuple[str, str]:
    """The losses of one set of rows; how many they are, where there is more than one set."""
    rows = f" of {held[0]['items']:g} rows" if is_one_of_several and "items" in held[0] else ""
    first, now = held[0], held[-1]
    when = f"step {first['step']}" if first["step"] else "first"
    begun = f"{number(first['loss'])} at {when}"
    then = f"{number(best['loss'])} at its best (step {best['step']}), {number(now['loss'])} at step {now['step']}"
    return f"held-out loss{rows}", f"{begun}, {then}"


def _loss_at_start(facts: Facts, held: list[Row]) -> float:
    """What differences of the held-out loss are measured by."""
    return abs(facts.start.get("loss", held[0]["loss"]))


def _loss_rose(facts: Facts, held: list[Row], training: Trend) -> bool:
    """Whether the held-out loss is well above its best, and training's is not."""
    best, now = min(row["loss"] for row in held), held[-1]["loss"]
    return now - best > ROSE * _loss_at_start(facts, held) and training.rise.value < 0 and training.last.value < now


def _accuracy_fell(facts: Facts, held: list[Row]) -> tuple[str, str] | None:
    """Held-out accuracy now against its best after the first step (before it all rewards are 0), where the held-out
    loss is no longer at its best either.
    """
    known = [(row["step"], right) for row in held if row.get("step", 0) > 0 and (right := _right(row)) is not None]
    lowest = min(row["loss"] for row in held)
    if len(known) < 2 or held[-1]["loss"] - lowest <= LEVEL * _loss_at_start(facts, held):
        return None
    (step, best), now = max(known, key=lambda one: one[1]), known[-1][1]
    count = held[-1].get("items")
    noise = 2 * sqrt(max(best * (1 - best), 0.25 / count) / count) if count else GAP
    if best - now <= max(FELL, noise):
        return None
    of = f", of {count:,.0f} rows" if count else ""
    noise_words = f" (a difference of {percent(noise)} may be chance)" if count else ""
    return "held-out accuracy", f"{percent(best)} at its best (step {step}), {percent(now)} now{of}{noise_words}"


def _right(row: Row) -> float | None:
    """The accuracy of pairs; of labelled rows their own, which also depends on where the baseline stands."""
    return row.get("pair_accuracy", row.get("rewards/accuracies"))


def _gap(facts: Facts, accuracy: Trend) -> tuple[str, str] | None:
    row = facts.latest
    held = row.get("rewards/accuracies")
    if held is None or not accuracy:
        return None
    training, low, high = accuracy.last.value, *(row.get(f"rewards/accuracies_{end}", held) for end in ("low", "high"))
    seen = accuracy.third * (facts.batch_size or 0) * (facts.card.options.logging_steps or 1)
    least, most = wilson(training * seen, seen) if seen else (training, training)
    if training - held < GAP or least <= high:
        return None
    trained = interval(training, least, most, seen)
    return (
        "accuracy",
        f"{trained} in the last steps of training, {interval(held, low, high, row.get('items'))} on held-out data",
    )


def _stop_sooner(facts: Facts, best: Row, bad: bool) -> list[str | None]:
    step = best.get("step", 0)
    return [
        f"--max-steps {step}: the held-out loss was lowest there" if bad and step > 0 else None,
        "--epochs 1" if round(facts.epochs) > 1 else "fewer steps",
        "more pairs, or more kinds of them",
        "--method ipo, which stops at a target" if not facts.method.has_target and may_become(facts, "ipo") else None,
        f"--eval-steps {max(1, facts.steps // 10)} shows sooner where it turns"
        if len(facts.run.evaluations) < 4 and facts.steps >= 10
        else None,
    ]


# --- noise ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Accuracy:
    """A share of right items that were not trained on before, with its interval."""

    where: str
    value: float
    low: float
    high: float
    cases: float

    @property
    def share(self) -> str:
        """The share and its interval, without the count."""
        return interval(self.value, self.low, self.high)

    def __str__(self) -> str:
        return interval(self.value, self.low, self.high, self.cases)


def noisy_data(facts: Facts) -> Iterator[Verdict]:
    """Accuracy at the ceiling that the audit found, or no better than chance although the policy moved."""
    fresh = fresh_accuracies(facts)
    noise, contradictions = facts.run.audit.audit.statistics.noise, _contradictions(facts)
    ceiling = noise.ceiling
    at_ceiling = ceiling is not None and ceiling < CEILING and _on_such_labels(facts) >= ceiling - NEAR_CEILING
    by_chance = _no_better_than_chance(facts, fresh)
    if not at_ceiling and not by_chance and not contradictions:
        return
    evidence = [
        *((f"accuracy, {one.where}", str(one)) for one in fresh),
        ("ceiling: no model agrees with more labels than", percent(ceiling)) if ceiling is not None else None,
        *((one.name, one.summary or str(one.count)) for one in contradictions),
        ("the policy moved", f"{number(facts.moved.value)} {facts.unit} an answer, at most")
        if by_chance and facts.moved
        else None,
    ]
    serious = at_ceiling or by_chance or any(one.severity == "error" for one in contradictions)
    more = {"title": "Judgements that cannot be told from coin tosses", "meaning": _TOSSED} if by_chance else {}
    yield verdict(
        "noisy-data", "warning" if serious else "info", evidence, _less_noise(facts, noise, by_chance), **more
    )


_TOSSED = (
    "The policy moves with every step, and on pairs that it has not seen it is right as often as a coin: either the "
    "labels are random, or what they are about does not show in the text, or this model cannot see it."
)


def fresh_accuracies(facts: Facts) -> list[Accuracy]:
    """Accuracy on what was not trained on before: held-out data, and the later half of the first pass (each pair is
    scored before its step), as far as the policy had moved by then.
    """
    held = held_out_accuracy(facts)
    enough = held is not None and held.cases >= FRESH
    return [one for one in (held if enough else None, first_pass_accuracy(facts)) if one is not None]


def held_out_accuracy(facts: Facts) -> Accuracy | None:
    """The last held-out accuracy by reward, of however few rows; None where none was measured."""
    row = facts.latest
    value, rows = _right(row), row.get("items") or facts.card.data.held_out
    if value is None or not rows or not facts.compares:
        return None
    name = "pair_accuracy" if "pair_accuracy" in row else "rewards/accuracies"
    low, high = wilson(value * rows, rows)  # what a run of an older version did not write
    return Accuracy("held-out data", value, row.get(f"{name}_low", low), row.get(f"{name}_high", high), rows)


def first_pass_accuracy(facts: Facts) -> Accuracy | None:
    """The accuracy of training in the later half of the first pass; None of too few rows."""
    first = [row for row in facts.run.steps if row.get("epoch", 2) <= 1 and "rewards/accuracies" in row]
    later = [row for row in first[len(first) // 2 :] if _has_moved(facts, row)]
    count = len(later) * (facts.batch_size or 0) * (facts.card.options.logging_steps or 1)
    if count < FRESH:
        return None
    value = sum(row["rewards/accuracies"] for row in later) / len(later)
    return Accuracy("later half of the first pass", value, *wilson(value * count, count), count)


def _has_moved(facts: Facts, row: Row) -> bool:
    """Whether the log-ratios of a step were away from 0, so that their order says something."""
    if facts.scale is None:
        return True
    return any(abs(row.get(f"rewards/{side}", 0.0) / facts.scale) >= MOVED / 2 for side in SIDES)


def _on_such_labels(facts: Facts) -> float:
    """Accuracy on labels as noisy as those that are trained on: in the first pass, else of the last third."""
    fresh, accuracy = first_pass_accuracy(facts), facts.trend("rewards/accuracies")
    return fresh.value if fresh else accuracy.last.value if accuracy else 0.0


def _no_better_than_chance(facts: Facts, fresh: list[Accuracy]) -> bool:
    if not fresh or not facts.compares or facts.moved is None or facts.moved.value < MOVED:
        return False
    return any(one.high < CHANCE for one in fresh) and all(one.low <= 0.5 <= one.high for one in fresh)


def findings(facts: Facts, *names: str) -> list[Finding]:
    """Findings of the audit of the run's data."""
    return [one for one in facts.run.audit.audit.findings if one.name in names]


def _contradictions(facts: Facts) -> list[Finding]:
    names = ("contradictory-pairs", "contradictory-labels", "annotator-disagreement", "intransitive-cycles")
    return [one for one in findings(facts, *names) if one.severity != "info"]


def _less_noise(facts: Facts, noise: Noise, by_chance: bool) -> list[str | None]:
    chance = f"--flip-probability {min(noise.flip_rate or 0.1, 0.45):.2g}, which takes the noise out of the loss"
    robust = chance if takes(facts, "flip_probability") else f"--method robust {chance}"
    dropped = ", ".join(one.name for one in _contradictions(facts) if one.name in KEEPS_MAJORITY)
    return [
        "judge twenty pairs without looking at the labels, and see how often you agree" if by_chance else None,
        f"likelier audit DATA --drop {dropped.replace(' ', '')} --write CLEAN.jsonl keeps the majority"
        if dropped
        else None,
        robust if takes(facts, "flip_probability") or may_become(facts, "robust") else None,
        "more votes on each pair" + ("; --use-votes soft where there are votes" if _may_use_votes(facts) else ""),
        "stop where held-out accuracy stops: what is gained after that is memory",
    ]


def _may_use_votes(facts: Facts) -> bool:
    """Whether soft labels have a place: beside a chance of wrong labels or a likelihood term they have none."""
    given = facts.card.hyperparameters
    free = not given.get("label_smoothing") and not given.get("nll_weight")
    return free and facts.card.options.use_votes != "soft" and has_place(facts.run.method, soft=True)


# --- leakage -------------------------------------------------------------------------------------------------------


def leakage(facts: Facts) -> Iterator[Verdict]:
    """Prompts that stand in training and in held-out data."""
    for finding in findings(facts, "eval-overlap"):
        details = finding.details
        evidence = [
            ("audit", finding.summary or f"{finding.count} rows"),
            ("held-out rows that are training rows word for word", f"{details['same_rows']:,}")
            if "same_rows" in details
            else None,
            _held_out_accuracy(facts),
        ]
        advice = [
            "--eval-fraction 0.1 in place of --eval-data: it keeps all rows of a prompt on one side"
            if not facts.card.run.eval_fraction
            else None,
            "likelier audit DATA --eval-data HELDOUT --drop eval-overlap --write CLEAN.jsonl",
        ]
        severity = "error" if _share_leaked(facts, details) >= LEAKED else "warning"
        yield verdict("eval-leakage", severity, evidence, advice)


def _share_leaked(facts: Facts, details: Mapping[str, Any]) -> float:
    """The share of the held-out rows whose prompts were trained on; 1 where it is not known."""
    held_out = facts.card.data.held_out
    return details["evaluation_rows"] / held_out if held_out and "evaluation_rows" in details else 1.0


def _held_out_accuracy(facts: Facts) -> tuple[str, str] | None:
    known = facts.latest.get("rewards/accuracies")
    row = facts.latest
    low, high = (row.get(f"rewards/accuracies_{end}") for end in ("low", "high"))
    if known is None or low is None or high is None:
        return None if known is None else ("held-out accuracy, not to be trusted", percent(known))
    return "held-out accuracy, not to be trusted", interval(known, low, high, row.get("items"))
