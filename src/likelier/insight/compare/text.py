"""A comparison at the terminal and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

from rich.cells import cell_len

from likelier.insight.compare.cautions import cautions
from likelier.insight.compare.frontier import Frontier, frontiers
from likelier.insight.compare.measures import (
    MEASURES,
    Measure,
    Summary,
    shown_measures,
    summaries,
    table,
)
from likelier.insight.compare.paired import Paired, compare_pairs
from likelier.insight.compare.paired_rewards import PairedReward, compare_rewards
from likelier.insight.compare.subjects import Comparison, Subject
from likelier.utils.console import printable

_GAP = "  "
REWARDS = "held-out reward, on the prompts that both were asked, with its 95 % interval"


@dataclass(frozen=True)
class Findings:
    """Everything that a comparison tells; made once, shown in several ways."""

    comparison: Comparison
    measures: list[Measure]
    table: list[list[str]]
    cautions: list[str]
    against: Subject
    paired: list[Paired]
    rewards: list[PairedReward]
    frontiers: list[Frontier]

    @staticmethod
    def of(comparison: Comparison) -> Findings:
        """Compare: runs with the first one, settings of a sweep with the one of the best ranking accuracy, or of reward
        models of the best accuracy on pairs.
        """
        measures = shown_measures(comparison)
        against = _best(comparison) if comparison.is_sweep else comparison.subjects[0]
        return Findings(
            comparison,
            measures,
            table(comparison, measures),
            cautions(comparison),
            against,
            compare_pairs(comparison.subjects, against),
            compare_rewards(comparison.subjects, against),
            frontiers(comparison),
        )

    @property
    def uncertainty(self) -> str:
        """Which uncertainty the table tells."""
        within = "in brackets the 95 % interval over held-out rows; after ± the standard error"
        if all(len(subject.runs) == 1 for subject in self.comparison.subjects):
            return f"One run each: {within}."
        over = "mean over seeds ± their standard deviation (n - 1)"
        if all(len(subject.runs) > 1 for subject in self.comparison.subjects):
            return f"{over.capitalize()}. It tells how much the seed does, not how few the held-out rows are."
        return f"{over.capitalize()}; of a single run {within}."

    @property
    def paired_words(self) -> str:
        """What the paired comparison is, in words."""
        chosen = (
            " It was chosen as the best on these very rows, so its lead is a little flattered."
            if self.comparison.is_sweep
            else ""
        )
        seeds = " and seeds" if any(len(subject.runs) > 1 for subject in self.comparison.subjects) else ""
        return (
            f"Each against {self.against.name}, on the held-out rows that both have: the difference in percentage "
            f"points with its 95 % interval over prompts{seeds}, on how many prompts it is better and worse, "
            f"and the sign test on these.{chosen}"
        )

    @property
    def clear_words(self) -> str:
        """Which differences are clear."""
        heads = {measure.key: measure.head for measure in MEASURES}
        clear: dict[str, list[str]] = {}
        for one in self.paired:
            if one.is_clear:
                how = "Clear" if one.runs > 1 else "Clear for these runs; other seeds may differ"
                clear.setdefault(how, []).append(f"{one.name} is {one.words} ({heads[one.measure]})")
        said = [f"{how}: {'; '.join(which)}." for how, which in clear.items()]
        return " ".join(said) or "No difference is clear on these rows."


def _best(comparison: Comparison) -> Subject:
    def accuracy(subject: Subject) -> float:
        known = summaries(subject)
        found = known.get("ranking_accuracy", known.get("pair_accuracy"))
        return -1.0 if found is None else found.mean

    return max(comparison.subjects, key=accuracy)


def as_text(found: Findings, width: int = 120) -> str:
    """The comparison for a terminal of that width."""
    return "\n".join(printable(line) for line in _lines(found, width)) + "\n"


def _lines(found: Findings, width: int) -> Iterator[str]:
    yield from blocks(found.table, width)
    yield from ("", *wrap(found.uncertainty, width))
    if found.paired:
        yield from ("", *wrap(found.paired_words, width))
        yield from blocks(paired_table(found.paired), width)
        yield from wrap(found.clear_words, width)
    told = {REWARDS: [one.words() for one in found.rewards]} if found.rewards else {}
    told |= {one.title: one.words() for one in found.frontiers}
    told |= {"before comparing": found.cautions} if found.cautions else {}
    for title, sentences in told.items():
        yield from ("", title)
        for sentence in sentences:
            yield from wrap(sentence, width, initial_indent="  ", subsequent_indent="    ")


def paired_table(paired: Sequence[Paired]) -> list[list[str]]:
    """The paired comparison as words: a row for each subject, and three columns for each measure."""
    measures = list(dict.fromkeys(one.measure for one in paired))
    heads = {measure.key: measure.head for measure in MEASURES}
    head = [part for key in measures for part in (heads[key], "better / worse", "p")]
    rows: dict[str, list[str]] = {}
    for one in paired:
        points, low, high = (100 * value for value in (one.difference, one.low, one.high))
        cells = [f"{points:+.1f} ({low:+.1f} to {high:+.1f})", f"{one.better} / {one.worse}", f"{one.p:.2g}"]
        rows.setdefault(one.name, []).extend(cells)
    return [[f"prompts: {paired[0].prompts}", *head], *([name, *cells] for name, cells in rows.items())]


def blocks(rows: Sequence[Sequence[str]], width: int) -> Iterator[str]:
    """The table in lines; columns that do not fit follow below, behind the first one again."""
    widths = [max(cell_len(printable(row[at])) for row in rows) for at in range(len(rows[0]))]
    columns, used = [0], widths[0]
    for at in range(1, len(widths)):
        if used + len(_GAP) + widths[at] > width and len(columns) > 1:
            yield from _block(rows, columns, widths)
            yield ""
            columns, used = [0], widths[0]
        columns.append(at)
        used += len(_GAP) + widths[at]
    yield from _block(rows, columns, widths)


def _block(rows: Sequence[Sequence[str]], columns: Sequence[int], widths: Sequence[int]) -> Iterator[str]:
    for row in rows:
        cells = (printable(row[at]) for at in columns)
        padded = [cell + " " * (widths[at] - cell_len(cell)) for at, cell in zip(columns, cells, strict=True)]
        yield _GAP.join(padded).rstrip()


# --- JSON ---


def as_json(found: Findings) -> dict[str, Any]:
    """Every number of the comparison."""
    comparison = found.comparison
    return {
        "title": comparison.title,
        "compared": [_subject(subject) for subject in comparison.subjects],
        "not_compared": [vars(one) for one in comparison.lost],
        "uncertainty": found.uncertainty,
        "paired": [{**vars(one), "words": one.words} for one in found.paired],
        "paired_rewards": [one.as_json() for one in found.rewards],
        "frontiers": [one.as_json() for one in found.frontiers],
        "cautions": found.cautions,
    }


def _subject(subject: Subject) -> dict[str, Any]:
    return {
        "name": subject.name,
        "method": subject.method,
        "options": dict(subject.options),
        "runs": [str(run.folder) for run in subject.runs],
        "figures": {key: _figures(summary) for key, summary in summaries(subject).items()},
    }


def _figures(summary: Summary) -> dict[str, Any]:
    runs = [{name: value for name, value in vars(one).items() if value is not None} for one in summary.figures]
    found = {"mean": summary.mean, "runs": runs}
    return found if summary.deviation is None else {**found, "standard_deviation": summary.deviation}


PIPED = 120  # the width of the table where it is not written to a terminal
