"""A comparison as a page: what stands in the way first, the figures, the frontier, the courses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean

from markupsafe import Markup

from likelier.insight.compare.frontier import BEFORE, Frontier, gain_words
from likelier.insight.compare.subjects import Comparison, Subject
from likelier.insight.compare.text import REWARDS, Findings, paired_table
from likelier.insight.kl import ALIKE, is_above_zero
from likelier.insight.pages.charts import Point, Series, line_chart, scatter_chart
from likelier.insight.pages.render import render
from likelier.insight.pages.svg import SERIES_COLOURS
from likelier.runs.reader import Run
from likelier.utils.errors import ConfigError
from likelier.utils.files import base_names, write_output


def as_html(found: Findings) -> str:
    """The whole page, on which local paths are cut down to their last part."""
    comparison = found.comparison
    cards = [dict(run.card.raw) for run in comparison.runs]
    return render(
        "compare.html",
        comparison=comparison,
        found=found,
        cautions=base_names({"cards": cards, "cautions": found.cautions})["cautions"],
        folders={one.name: [base_names(str(run.folder)) for run in one.runs] for one in comparison.subjects},
        tables=by_theme(found),
        paired=in_parts(paired_table(found.paired), 1) if found.paired else [],
        rewards=(REWARDS, [one.words() for one in found.rewards]),
        frontiers=[(_picture(one, len(comparison.subjects)), one) for one in found.frontiers],
        charts=charts(comparison),
    )


_THEMES = (
    ("What was learned", ("ranking_accuracy", "ranking_accuracy_per_token", "pair_accuracy", "label_accuracy")),
    ("What it writes, and how far it went", ("kl", "margin", "answer_length_ratio", "repetition", "refusals")),
    ("What a judge says", ("reward", "reward_gain", "win_rate")),
    ("What it cost", ("items", "steps", "training_seconds")),
)
MOST_COLUMNS = 7  # that stand side by side on a page without scrolling, the name among them
Table = list[list[str]]


def by_theme(found: Findings) -> list[tuple[str, Table]]:
    """The table of figures as several narrow ones with their titles, each behind the subjects' names; what the runs are
    stands in the last.
    """
    keys = [measure.key for measure in found.measures]
    named = len(found.table[0]) - len(keys)
    tables = []
    for title, own in _THEMES:
        places = [named + at for at, key in enumerate(keys) if key in own]
        if places:
            tables.append((title, _columns(found.table, [0, *places])))
    settings = _columns(found.table, range(named))
    return tables + [("Their settings", part) for part in in_parts(settings, 1) if named > 1]


def in_parts(rows: Table, names: int) -> list[Table]:
    """A wide table as several of at most `MOST_COLUMNS` columns, each with the first `names` columns."""
    wide, step = len(rows[0]), MOST_COLUMNS - names
    starts = range(names, max(wide, names + 1), step)
    return [_columns(rows, [*range(names), *range(start, min(start + step, wide))]) for start in starts]


def _columns(rows: Table, places: Iterable[int]) -> Table:
    kept = list(places)
    return [[row[at] for at in kept] for row in rows]


def _picture(frontier: Frontier, subjects: int) -> Markup:
    """Every run a point; of one colour are the runs of a setting, or of a method where settings are too many."""
    by_setting = subjects <= SERIES_COLOURS
    points = []
    for name, run, kl, error, gain in frontier.runs:
        bounds = (None, None) if error is None else (kl - error, kl + error)
        group = name if by_setting else run.method
        words = "" if is_above_zero(kl, error) else f"\nits KL is {ALIKE}"
        points.append(Point(f"{name} ({run.name}){words}", max(kl, 0.0), gain, group, *bounds))
    if len({point.group for point in points}) < SERIES_COLOURS:
        points += [Point(BEFORE, one.kl, one.gain, BEFORE) for one in frontier.places if one.name == BEFORE]
    return scatter_chart(
        frontier.title[0].upper() + frontier.title[1:],
        "KL to the reference, nats an answer",
        gain_words(frontier.measure),
        points,
        percent=frontier.measure.kind == "share",
        note="Every run is a point; the bar is the standard error of its KL. Up and to the left is better. A KL "
        "that was estimated below 0 is drawn at 0.",
    )


def write_page(found: Findings, path: Path) -> None:
    """Write the page. Raises `ConfigError` where it cannot be written."""
    if path.is_dir():
        raise ConfigError(f"--output {path} is a folder; name a file, such as {path / 'compare.html'}")
    write_output(path, as_html(found))


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
        drawn("Reward accuracy in training", "of items", lambda run: run.column("rewards/accuracies"), percent=True),
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


def _margins(run: Run) -> Course:
    scale = run.card.reward_scale
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
