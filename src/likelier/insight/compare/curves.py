"""The courses of several runs over each other: of a setting with several seeds the mean, and the band of its runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

from markupsafe import Markup

from likelier.insight.compare.measures import reward_scale
from likelier.insight.compare.subjects import Comparison, Subject
from likelier.insight.pages.charts import Series, line_chart
from likelier.insight.pages.svg import SERIES_COLOURS
from likelier.runs.reader import Run

Course = tuple[Sequence[float], Sequence[float]]


def charts(comparison: Comparison) -> list[Markup]:
    """The charts for which anything was measured."""
    x_label, scale = _axis(comparison)

    def drawn(title: str, unit: str, of: Callable[[Run], Course], *, percent: bool = False, note: str = "") -> Markup:
        series = [_series(subject, of, scale, number) for number, subject in enumerate(comparison.subjects)]
        return line_chart(title, x_label, unit, series, percent=percent, note=note)

    found = [
        drawn("Ranking accuracy, held out", "of pairs", _evaluated("ranking_accuracy"), percent=True),
        drawn("Ranking accuracy per token", "of pairs", _evaluated("ranking_accuracy_per_token"), percent=True),
        drawn("KL to the reference", "nats an answer", _evaluated("kl")),
        drawn("Chosen answers, held out", "log-ratio, nats", _evaluated("logratios/chosen")),
        drawn("Rejected answers, held out", "log-ratio, nats", _evaluated("logratios/rejected")),
        drawn("Margin in training", "nats", _margins, note="Rewards without their scale, beta."),
        drawn("Reward accuracy in training", "of items", _column("rewards/accuracies"), percent=True),
    ]
    return [chart for chart in found if chart]


def _axis(comparison: Comparison) -> tuple[str, Callable[[Run], int]]:
    """Steps; items where a step is not the same for all."""
    if len({_batch_size(run) for run in comparison.runs}) == 1:
        return "step", lambda run: 1
    return "pairs or rows seen", _batch_size


def _batch_size(run: Run) -> int:
    return run.card.options.batch_size or 32


def _evaluated(name: str) -> Callable[[Run], Course]:
    return lambda run: run.evaluated(name)


def _column(name: str) -> Callable[[Run], Course]:
    return lambda run: run.column(name)


def _margins(run: Run) -> Course:
    scale = reward_scale(run)
    steps, margins = run.column("rewards/margins")
    return (steps, [margin / scale for margin in margins]) if scale else ([], [])


def _series(subject: Subject, of: Callable[[Run], Course], scale: Callable[[Run], int], number: int) -> Series:
    """The mean over a subject's runs where all of them were measured, with the least and the greatest."""
    columns = [dict(zip(*of(run), strict=True)) for run in subject.runs]
    places = [x for x in columns[0] if all(x in column for column in columns)]
    values = [[column[x] for column in columns] for x in places]
    several = len(columns) > 1
    return Series(
        subject.name,
        [x * scale(subject.runs[0]) for x in places],
        [fmean(one) for one in values],
        [min(one) for one in values] if several else None,
        [max(one) for one in values] if several else None,
        dashed=number >= SERIES_COLOURS,
        smooth=not several,
        colour=number % SERIES_COLOURS,
    )
