"""Figures as marks on a plane of 100 by 100, which the page draws as inline SVG of any size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_GAP = 0.15  # of a bin
_TICKS = 5


@dataclass(frozen=True)
class Bar:
    """A rectangle; `series` chooses its colour, `words` is what it says when pointed at."""

    x: float
    y: float
    width: float
    height: float
    series: int
    words: str


@dataclass(frozen=True)
class Chart:
    """Bars over an axis with a few labels; `line` is where a vertical line stands, with its words."""

    title: str
    unit: str
    series: tuple[str, ...]
    bars: tuple[Bar, ...]
    ticks: tuple[str, ...]
    top: int
    line: float | None = None
    line_words: str = ""

    @property
    def words(self) -> str:
        """The chart in a sentence, for those who cannot see it."""
        return f"{self.title}: rows by {self.unit}, at most {self.top:,} in a bar, for {', '.join(self.series)}"


def histogram_chart(title: str, unit: str, histogram: Mapping[str, Any], limit: int | None = None) -> Chart | None:
    """Bars side by side for each series of a histogram {"edges", "counts": {name: [...]}}; None without any."""
    edges: Sequence[int] = histogram["edges"]
    counts: Mapping[str, Sequence[int]] = histogram["counts"]
    top = max((max(values, default=0) for values in counts.values()), default=0)
    if not top:
        return None
    bins, many = len(edges) - 1, len(counts)
    wide = (1 - _GAP) * 100 / bins / many
    bars = [
        Bar(
            round((bin_ + _GAP / 2) * 100 / bins + number * wide, 3),
            round(100 - 100 * value / top, 3),
            round(wide, 3),
            round(100 * value / top, 3),
            number,
            f"{name}: {value:,} with {_range(edges, bin_)} {unit}",
        )
        for number, (name, values) in enumerate(counts.items())
        for bin_, value in enumerate(values)
        if value
    ]
    ticks = tuple(f"{round(edges[-1] * tick / (_TICKS - 1)):,}" for tick in range(_TICKS))
    inside = limit is not None and limit < edges[-1]
    line = round(100 * limit / edges[-1], 3) if limit is not None and inside else None
    words = f"limit: {limit:,} {unit}" if inside else ""
    return Chart(title, unit, tuple(counts), tuple(bars), ticks, top, line, words)


def _range(edges: Sequence[int], bin_: int) -> str:
    if bin_ == len(edges) - 2:
        return f"{edges[bin_]:,} or more"
    return f"{edges[bin_]:,} to {edges[bin_ + 1] - 1:,}"


def charts_of(statistics: Mapping[str, Any]) -> list[Chart]:
    """The charts that an audit has figures for."""
    found = []
    if "characters" in statistics:
        found.append(histogram_chart("Length of the answers", "characters", statistics["characters"]["histogram"]))
    if "tokens" in statistics:
        tokens = statistics["tokens"]
        found.append(histogram_chart("Length of the rows", "tokens", tokens["histogram"], tokens["max_length"]))
    return [chart for chart in found if chart is not None]
