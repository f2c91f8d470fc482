"""How a run stands, on one screen or in one line: progress, time left, the figures that tell, warnings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite
from typing import Any

from likelier.insight.kl import kl_words
from likelier.insight.report.account import duration, unit
from likelier.insight.verdicts import Verdict
from likelier.runs.reader import Row, Run
from likelier.utils.console import printable

_RECENT = 20  # logged steps from which speed is taken
_SPARK = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
_SPARK_WIDTH = 24
_SHOWN = 3  # warnings
_REWARD, _LENGTH, _RATIO = "reward", "completions/mean_length", "ratio/mean"
_EXPLAINED = "value/explained_variance"  # by a critic, where there is one
# Metric, its name in a plain line, and how it is written there: of runs on pairs, and of those that write answers.
_OF_PAIRS = (
    ("loss", "loss", "{:.3f}"),
    ("rewards/margins", "margin", "{:.3f}"),
    ("rewards/accuracies", "accuracy", "{:.3f}"),
    ("kl", "kl", "{:.3f}"),
)
_OF_ANSWERS = (
    (_REWARD, "reward", "{:.3g}"),
    (_LENGTH, "length", "{:.3g}"),
    ("entropy", "entropy", "{:.3g}"),
    ("completions/clipped_ratio", "cut", "{:.0%}"),
    (_RATIO, "ratio", "{:.3f}"),
    ("kl", "kl", "{:.3g}"),
    (_EXPLAINED, "critic", "{:.0%}"),
)
# The same on a whole screen.
_FIGURES_OF_PAIRS = (
    ("loss", "loss", "{:.4g}"),
    ("rewards/margins", "margin", "{:.4g}"),
    ("rewards/accuracies", "accuracy", "{:.1%} in training"),
)
_FIGURES_OF_ANSWERS = (
    (_REWARD, "reward", "{:.4g} in training"),
    (_LENGTH, "length", "{:.4g} tokens an answer"),
    ("completions/clipped_ratio", "cut answers", "{:.1%}"),
    ("entropy", "entropy", "{:.3g} nats a token"),
    ("kl", "KL", "{:.3g} nats an answer in training"),
    (_EXPLAINED, "critic", "{:.0%} of the returns' variance"),
)
_COLOURS = {"training": "cyan", "done": "green", "failed": "red", "interrupted": "yellow"}


@dataclass(frozen=True)
class Pace:
    """Steps and items (pairs or rows) a second."""

    steps: float
    items: float


def pace_of(rows: Sequence[Row]) -> Pace | None:
    """The pace over the last logged steps; None as long as there are not two to compare."""
    timed = [row for row in rows[-_RECENT:] if "seconds" in row and "items" in row]
    if len(timed) < 2:
        return None
    first, last = timed[0], timed[-1]
    seconds = last["seconds"] - first["seconds"]
    if seconds <= 0:
        return None
    return Pace((last["step"] - first["step"]) / seconds, (last["items"] - first["items"]) / seconds)


def seconds_left(run: Run) -> float | None:
    """Until the last step, evaluations at intervals included as far as there were any; None where it is not known."""
    pace, total = pace_of(run.steps), run.card.total_steps
    if pace is None or not pace.steps or not isinstance(total, int):
        return None
    evaluating = sum(row.get("seconds", 0.0) for row in run.evaluations if row.get("step"))
    trained = run.steps[-1]["seconds"]
    return (total - steps_done(run)) / pace.steps * (1 + evaluating / max(trained, 1e-9))


def steps_done(run: Run) -> int:
    """The last step that was logged."""
    return int(run.steps[-1]["step"]) if run.steps else 0


def step_line(row: Row, total: int | None, pace: Pace | None, unit: str) -> str:
    """A logged step in one plain line."""
    parts = [f"step {row['step']}" + (f"/{total}" if total else "")]
    parts += [
        f"{short} {form.format(row[name])}"
        for name, short, form in (_OF_ANSWERS if _RATIO in row or _LENGTH in row else _OF_PAIRS)
        if isinstance(row.get(name), (int, float))
    ]
    if pace is not None:
        parts.append(f"{pace.items:.3g} {unit}/s")
    return "  ".join([*parts, *_sampling(row)])


def _sampling(row: Row) -> list[str]:
    """How fast the policy writes, where it does."""
    tokens = row.get("sampling/tokens_per_second")
    return [] if tokens is None else [f"{tokens:,.0f} tokens/s sampled"]


def evaluation_line(row: Row, step: int) -> str:
    """An evaluation in one plain line."""
    kl = f", KL {_kl(row)}" if _kl(row) else ""
    return f"held out, step {step}: {_outcome(row)}{kl}"


def _accuracy_name(row: Row) -> str:
    """The metric that says how often the better answer has the higher reward; empty where there is none."""
    return next((name for name in ("pair_accuracy", "rewards/accuracies") if name in row), "")


def _accuracy(row: Row) -> str:
    """The held-out accuracy by reward, with its interval."""
    name = _accuracy_name(row)
    if not name:
        return ""
    if row.get("rewards/margins") == 0.0:  # policy and reference are still the same
        return "no reward differs yet"
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    interval = f" ({low:.1%} to {high:.1%})" if low is not None and high is not None else ""
    claims = f", claims {row['confidence']:.1%}" if "confidence" in row else ""
    return f"accuracy {row[name]:.1%}{interval}{claims}"


def _outcome(row: Row) -> str:
    """What an evaluation is about: how often the better answer is ahead, the loss, or what own answers earn."""
    return _accuracy(row) or (f"loss {row['loss']:.4f}" if "loss" in row else _earned(row))


def _earned(row: Row) -> str:
    """The held-out reward with its interval, how many answers it is of, and the gain over the start's to them."""
    if _REWARD not in row:
        return "no answer has a reward"
    known = [f"reward {_with_interval(row, _REWARD)}, of {row['items']:,.0f}"]
    if "reward_gain" in row:
        known.append(f"gain {_with_interval(row, 'reward_gain', '+')}")
    return ", ".join(known)


def _with_interval(row: Row, name: str, sign: str = "") -> str:
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    words = f"{row[name]:{sign}.3g}"
    return words if low is None or high is None else f"{words} ({low:{sign}.3g} to {high:{sign}.3g})"


def _kl(row: Row) -> str:
    """KL to the reference, from the policy's own answers."""
    if "kl_per_token" not in row:
        return ""
    return kl_words(row["kl"], row.get("kl_standard_error"))


def status_words(run: Run) -> str:
    """Training, done, failed, ..., and why."""
    status, error = run.card.status or "unknown", run.card.error
    if status == "training" and not run.steps:
        return "training has not begun: the reference is scored, the start evaluated"
    if status == "done" and run.card.training_seconds is not None:
        return f"done in {duration(run.card.training_seconds)}"
    return printable(f"{status}: {error}" if error and status == "failed" else status)


def view_of(run: Run, warnings: Sequence[Verdict] = (), *, note: str = "", ascii_only: bool = False) -> Any:
    """The whole screen for a rich console. `note` is a line of the viewer's own."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    colour = _COLOURS.get(run.card.status or "", "")
    head = Text.assemble((printable(run.name), "bold"), f"  {run.method}  ", (status_words(run), colour))
    grid = Table.grid(padding=(0, 2))
    for name, value, values in _figures(run):
        spark = "" if ascii_only else sparkline(values)
        grid.add_row(Text(name, style="dim"), Text(value), Text(spark, style="cyan"))
    lines = [head, _bar(run), grid, *_warnings(warnings)]
    return Group(*lines, *([Text(note, style="yellow")] if note else []))


def _bar(run: Run) -> Any:
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    done, total = steps_done(run), run.card.total_steps
    words = [f"step {done}" + (f" of {total}" if total else "")]
    if run.steps and "seconds" in run.steps[-1]:
        words.append(duration(run.steps[-1]["seconds"]))
    left = seconds_left(run)
    if run.is_running and left:
        words.append(f"about {duration(left)} left")
    row = Table.grid(padding=(0, 2))
    row.add_row(ProgressBar(total=total or 1, completed=done, width=30), Text(", ".join(words)))
    return row


def _figures(run: Run) -> list[tuple[str, str, list[float]]]:
    """Name, value and course of everything that is known."""
    found = []
    for metric, name, form in _FIGURES_OF_ANSWERS if run.card.facts.writes_answers else _FIGURES_OF_PAIRS:
        _, values = run.column(metric)
        if values:
            found.append((name, form.format(values[-1]), values))
    return found + _held_out(run) + _speed(run)


def _held_out(run: Run) -> list[tuple[str, str, list[float]]]:
    """The last evaluation, and the last that measured KL."""
    found = []
    if run.evaluations:
        last = run.evaluations[-1]
        course = run.evaluated(_accuracy_name(last) or ("loss" if "loss" in last else _REWARD))[1]
        found.append(("held out", f"{_outcome(last)}, step {last.get('step', 0)}", course))
    measured = [row for row in run.evaluations if "kl_per_token" in row]
    if measured:
        words = f"{_kl(measured[-1])}, step {measured[-1].get('step', 0)}"
        found.append(("KL", words, [row["kl"] for row in measured]))
    return found


def _speed(run: Run) -> list[tuple[str, str, list[float]]]:
    pace, memory = pace_of(run.steps), run.steps[-1].get("memory_gib") if run.steps else None
    parts = [] if pace is None else [f"{pace.items:.3g} {unit(run)}/s"]
    parts += next((told for row in reversed(run.steps[-_RECENT:]) if (told := _sampling(row))), [])
    parts += [] if memory is None else [f"{memory:.2f} GiB at most"]
    return [("speed", ", ".join(parts), [])] if parts else []


def _warnings(warnings: Sequence[Verdict]) -> list[Any]:
    from rich.text import Text

    lines = [
        Text(warning_line(verdict), style="red" if verdict.severity == "error" else "yellow")
        for verdict in warnings[:_SHOWN]
    ]
    more = len(warnings) - _SHOWN
    return [*lines, *([Text(f"and {more} more: likelier diagnose", style="dim")] if more > 0 else [])]


def warning_line(verdict: Verdict) -> str:
    """A warning in one plain line."""
    return printable(f"warning: {verdict.title}")


def sparkline(values: Sequence[float], width: int = _SPARK_WIDTH) -> str:
    """The course of a figure in a few characters, each the mean of its share of the values."""
    finite = [value for value in values if isfinite(value)]
    if len(finite) < 2:
        return ""
    count = min(width, len(finite))
    cuts = [len(finite) * place // count for place in range(count + 1)]
    means = [sum(finite[low:high]) / (high - low) for low, high in pairwise(cuts)]
    low, spread = min(means), max(means) - min(means)
    if spread <= 0:
        return _SPARK[0] * count
    return "".join(_SPARK[int((value - low) / spread * (len(_SPARK) - 1))] for value in means)
