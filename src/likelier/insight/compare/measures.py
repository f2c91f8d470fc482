"""The figures by which runs are compared, and their uncertainty: within a run, and over the seeds of a setting."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import fmean, stdev
from typing import Any, Literal

from likelier.insight.compare.subjects import Comparison, Subject
from likelier.insight.kl import ALIKE
from likelier.runs.reader import Run

Kind = Literal["share", "number", "distance", "factor", "time", "count"]


@dataclass(frozen=True)
class Figure:
    """A figure of one run, with the bounds of its 95 % interval or its standard error where they are known."""

    value: float
    low: float | None = None
    high: float | None = None
    error: float | None = None


@dataclass(frozen=True)
class Measure:
    """What is measured: its key, the head of its column, what it means, and how a run's figure is found where it is not
    the metric of that key in the last evaluation.
    """

    key: str
    head: str
    words: str
    kind: Kind
    read: Callable[[Run], Figure | None] | None = None

    def of(self, run: Run) -> Figure | None:
        """A run's figure, where it has one."""
        return _evaluated(run, self.key) if self.read is None else self.read(run)


@dataclass(frozen=True)
class Summary:
    """A subject's figures: one, or several over seeds with their mean and standard deviation."""

    figures: tuple[Figure, ...]

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return fmean(figure.value for figure in self.figures)

    @property
    def deviation(self) -> float | None:
        """The standard deviation over seeds (n - 1); None for one."""
        return stdev(figure.value for figure in self.figures) if len(self.figures) > 1 else None


def final(run: Run) -> Mapping[str, Any]:
    """The last evaluation of a run; empty without one."""
    return run.evaluations[-1] if run.evaluations else {}


def _evaluated(run: Run, name: str) -> Figure | None:
    return _figure(*(final(run).get(f"{name}{part}") for part in ("", "_low", "_high", "_standard_error")))


def _figure(value: Any, low: Any = None, high: Any = None, error: Any = None) -> Figure | None:
    known = [float(one) if isinstance(one, (int, float)) and isfinite(one) else None for one in (low, high, error)]
    return Figure(float(value), *known) if isinstance(value, (int, float)) and isfinite(value) else None


def _pair_accuracy(run: Run) -> Figure | None:
    """Of labelled rows `rewards/accuracies` is something else."""
    if "pair_accuracy" in final(run):
        return _evaluated(run, "pair_accuracy")
    return _evaluated(run, "rewards/accuracies") if "ranking_accuracy" in final(run) else None


def _label_accuracy(run: Run) -> Figure | None:
    of_pairs = "ranking_accuracy" in final(run) or run.card.facts.reads_values
    return None if of_pairs else _evaluated(run, "rewards/accuracies")


def _margin(run: Run) -> Figure | None:
    """From log-ratios, or from rewards that are a multiple of them."""
    row, scale = final(run), run.card.reward_scale
    chosen, rejected = (row.get(f"logratios/{side}") for side in ("chosen", "rejected"))
    if isinstance(chosen, (int, float)) and isinstance(rejected, (int, float)):
        return _figure(chosen - rejected)
    margin = row.get("rewards/margins")
    return _figure(margin / scale) if scale and isinstance(margin, (int, float)) else None


def _items(run: Run) -> Figure | None:
    known = run.column("items")[1]
    return _figure(known[-1]) if known else None


def _of_card(name: str) -> Callable[[Run], Figure | None]:
    return lambda run: _figure(getattr(run.card, name))


MEASURES = (
    Measure(
        "ranking_accuracy",
        "ranking accuracy",
        "share of held-out pairs whose chosen answer the policy itself finds likelier",
        "share",
    ),
    Measure(
        "ranking_accuracy_per_token",
        "per token",
        "ranking accuracy with log-probabilities per token, so that length plays no part",
        "share",
    ),
    Measure(
        "pair_accuracy",
        "reward accuracy",
        "share of held-out pairs whose chosen answer has the higher reward: a reward model's score, or the implicit "
        "one, the way that training moved them",
        "share",
        _pair_accuracy,
    ),
    Measure(
        "label_accuracy",
        "label accuracy",
        "share of held-out labelled answers on the right side of the baseline",
        "share",
        _label_accuracy,
    ),
    Measure(
        "kl",
        "KL, nats",
        "KL(policy || reference) of an answer, from answers that the policy wrote; one below 0 tells no distance",
        "distance",
    ),
    Measure(
        "margin",
        "margin, nats",
        "by how much the log-ratio of the chosen answer is above that of the rejected one",
        "number",
        _margin,
    ),
    Measure(
        "answer_length_ratio", "length", "length of the policy's answers against its answers before training", "factor"
    ),
    Measure("repetition", "repetition", "share of repeated runs of four tokens in the policy's answers", "share"),
    Measure("refusals", "refusals", "share of the policy's answers that refuse", "share"),
    Measure("reward", "judge's reward", "mean reward that the judge gives the answers", "number"),
    Measure(
        "reward_gain", "gain", "by how much held-out answers earn more than the start's to the same prompts", "number"
    ),
    Measure("win_rate", "win rate", "how often the judge prefers the answer to the one before training", "share"),
    Measure("items", "items seen", "pairs or labelled rows trained on", "count", _items),
    Measure("steps", "steps", "optimizer steps", "count", _of_card("steps")),
    Measure("training_seconds", "time", "of training, evaluations left out", "time", _of_card("training_seconds")),
)


def summaries(subject: Subject) -> dict[str, Summary]:
    """The figures of a subject that are known for all of its runs."""
    found = {}
    for measure in MEASURES:
        figures = [measure.of(run) for run in subject.runs]
        known = tuple(figure for figure in figures if figure is not None)
        if len(known) == len(figures):
            found[measure.key] = Summary(known)
    return found


def shown_measures(comparison: Comparison) -> list[Measure]:
    """The measures that are known for anything that is compared; refusals only where there are any."""
    known = [summaries(subject) for subject in comparison.subjects]
    return [
        measure
        for measure in MEASURES
        if any(measure.key in one for one in known)
        and (measure.key != "refusals" or any(one["refusals"].mean for one in known if "refusals" in one))
    ]


# --- in words ---


def value_words(value: float, kind: Kind) -> str:
    """A value with its unit."""
    if kind == "share":
        return f"{value:.1%}"
    if kind == "factor":
        return f"{value:.2f}x"
    if kind == "time":
        return f"{value / 60:.1f} min" if value >= 90 else f"{value:.1f} s"
    return f"{value:,.0f}" if kind == "count" else f"{value:.3g}"


def summary_words(summary: Summary | None, kind: Kind) -> str:
    """A cell: the value with its interval or standard error, or over seeds the mean and the standard deviation."""
    if summary is None:
        return "-"
    value = value_words(summary.mean, kind)
    if summary.deviation is not None:
        return f"{value} ± {_spread(summary.deviation, kind)}" if kind != "count" or summary.deviation else value
    figure = summary.figures[0]
    if kind == "distance" and figure.value < 0:
        return ALIKE
    if figure.low is not None and figure.high is not None:
        scale = 100 if kind == "share" else 1
        return f"{value} ({scale * figure.low:.3g} to {scale * figure.high:.3g})"
    return value if figure.error is None else f"{value} ± {_spread(figure.error, kind)}"


def _spread(value: float, kind: Kind) -> str:
    if kind == "share":
        return f"{100 * value:.1f}"
    return f"{value:.2g}" if kind != "factor" else f"{value:.2f}"


def table(comparison: Comparison, measures: Sequence[Measure]) -> list[list[str]]:
    """The table as words: a head, and a row for each subject."""
    options = comparison.options
    seeds = any(len(subject.runs) > 1 for subject in comparison.subjects)
    named = ["setting"] if comparison.is_sweep else ["run", "method"]
    head = [*named, *options, *(["seeds"] if seeds else []), *(measure.head for measure in measures)]
    rows = []
    for subject in comparison.subjects:
        own = summaries(subject)
        cells = [subject.options.get(option, "-") for option in options]
        cells += [str(len(subject.runs))] if seeds else []
        cells += [summary_words(own.get(measure.key), measure.kind) for measure in measures]
        rows.append([subject.name, *([] if comparison.is_sweep else [subject.method]), *cells])
    return [head, *rows]
