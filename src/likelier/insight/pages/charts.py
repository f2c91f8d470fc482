"""Charts for pages: lines over steps and points (`histograms` beside it), drawn by matplotlib as inline SVG.

Each is a `<figure>` with its title and legend as HTML. Colours are variables of the page's style sheet, so that light,
dark and print look right; hovering tells the numbers. A chart in which nothing is to be drawn is empty.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from markupsafe import Markup, escape

from likelier.insight.pages.svg import SERIES_COLOURS, Hover, drawing_style, embedded, new_figure, paint, written
from likelier.utils.console import printable

MOST_POINTS = 120  # of a line, so that a page stays small
_SMOOTHED_FROM = 24
_MARKED_UP_TO = 30
_MARKERS = "os^DvPX*"
TICK_STEPS = [1, 2, 2.5, 5, 10]  # between ticks


@dataclass(frozen=True)
class Series:
    """A line: its name, where it is measured and what was found, and perhaps the band from `low` to `high`.

    `smooth` draws a noisy line faintly and its running mean over it. `colour` numbers one of the page's series colours,
    for lines that go together; by default each line has its own.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    dashed: bool = False
    smooth: bool = False
    colour: int | None = None


@dataclass(frozen=True)
class Point:
    """A named point of `scatter_chart`, with the bounds of its `x` where they are known; points of one `group` look
    alike.
    """

    name: str
    x: float
    y: float
    group: str = ""
    low: float | None = None
    high: float | None = None


def number(value: float, *, percent: bool = False) -> str:
    """A number as a reader wants it: four digits, or a percentage; with a true minus."""
    plain = f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
    words = f"{100 * value:.1f}\N{NO-BREAK SPACE}%" if percent else plain
    return words.replace("-", "\N{MINUS SIGN}")


def line_chart(
    title: str,
    x_label: str,
    y_label: str,
    series: Sequence[Series],
    *,
    note: str = "",
    percent: bool = False,
    level: tuple[float, str] | None = None,
) -> Markup:
    """Lines over a common x axis.

    Args:
        title, x_label, y_label: what it shows and in which units.
        series: the lines; those without a finite point are left out, long ones are thinned to means with a band.
        note: a sentence below.
        percent: the y values are shares, shown as percentages.
        level: a height to compare with, drawn as a thin line, and what it is.
    """
    lines = [_thinned(one) for one in map(_coloured, _finite(series), range(len(series))) if len(one.x)]
    if not lines:
        return Markup("")
    with drawing_style():
        figure, axes = new_figure()
        for one in lines:
            _draw_line(axes, one)
        _set_scales(axes, x_label, lines, percent)
        if level is not None:
            axes.axhline(level[0], color=paint("--soft"), linewidth=1, linestyle=(0, (2, 2)))
        svg = written(figure)
        hovers = _columns(axes, x_label, lines, percent)
    label = "; ".join(f"{one.name} from {number(one.y[0])} to {number(one.y[-1])}" for one in lines)
    keys = [legend_key(one.name, one.colour or 0, "dashed" if one.dashed else "line") for one in lines]
    keys += [legend_key(level[1], None, "dotted")] if level is not None else []
    return captioned(title, y_label, keys, embedded(svg, f"{title}: {label}", hovers), note)


def scatter_chart(
    title: str,
    x_label: str,
    y_label: str,
    points: Sequence[Point],
    *,
    note: str = "",
    percent: bool = False,
) -> Markup:
    """Points whose names hovering tells, such as runs by what they gained and what it cost.

    Args:
        title, x_label, y_label: what it shows and in which units.
        points: those with a number missing are left out; each group has its own colour and shape.
        note: a sentence below.
        percent: the y values are shares, shown as percentages.
    """
    kept = [point for point in points if math.isfinite(point.x) and math.isfinite(point.y)]
    if not kept:
        return Markup("")
    groups = list(dict.fromkeys(point.group for point in kept))
    with drawing_style():
        figure, axes = new_figure(300)
        for point in kept:
            _draw_point(axes, point, groups.index(point.group))
        axes.set_xlabel(printable(x_label))
        axes.margins(0.12)
        _percent_axis(axes, percent)
        svg = written(figure)
        hovers = [_around(axes, point, x_label, y_label, percent) for point in kept]
    keys = [legend_key(group, at, _MARKERS[at % len(_MARKERS)]) for at, group in enumerate(groups) if group]
    label = "; ".join(f"{one.name}: {number(one.x)}, {number(one.y, percent=percent)}" for one in kept)
    return captioned(title, y_label, keys, embedded(svg, f"{title}: {label}", hovers), note)


def captioned(title: str, unit: str, keys: Sequence[Markup], drawing: Markup, note: str) -> Markup:
    """The drawing with its title and unit above, its legend (see `legend_key`) and a note."""
    unit = Markup(' <span class="soft">{}</span>').format(printable(unit)) if unit else Markup("")
    legend = Markup('<p class="legend">{}</p>').format(Markup("").join(keys)) if keys else Markup("")
    below = Markup('<p class="note soft">{}</p>').format(printable(note)) if note else Markup("")
    head = Markup("<figcaption>{}{}</figcaption>").format(printable(title), unit)
    return Markup('<figure class="chart">{}{}{}{}</figure>').format(head, legend, drawing, below)


def legend_key(name: str, colour: int | None, look: str) -> Markup:
    """An entry of the legend; a shape is written as the sign it is."""
    signs = {"o": "●", "s": "■", "^": "▲", "D": "◆", "v": "▼", "P": "✚", "X": "✖", "*": "★"}
    paints = "k-soft" if colour is None else f"k{colour % SERIES_COLOURS}"
    kind = "shape" if look in signs else look
    text = escape(printable(name))
    return Markup(f'<span><i class="key {paints} {kind}">{signs.get(look, "")}</i>{text}</span> ')


# --- lines -----------------------------------------------------------------------------------------------------


def _finite(series: Iterable[Series]) -> list[Series]:
    return [_at(one, [at for at, value in enumerate(one.y) if math.isfinite(value)]) for one in series]


def _at(one: Series, places: Sequence[int]) -> Series:
    """The series at these places only."""
    columns = {name: getattr(one, name) for name in ("x", "y", "low", "high")}
    picked = {name: None if column is None else [column[at] for at in places] for name, column in columns.items()}
    return replace(one, **picked)


def _coloured(one: Series, place: int) -> Series:
    return replace(one, colour=(place if one.colour is None else one.colour) % SERIES_COLOURS)


def _thinned(one: Series) -> Series:
    """At most `MOST_POINTS` points: means of neighbours, with the band of what they cover."""
    if len(one.x) <= MOST_POINTS:
        return one
    size = math.ceil(len(one.x) / MOST_POINTS)
    parts = [_at(one, range(start, min(start + size, len(one.x)))) for start in range(0, len(one.x), size)]
    return replace(
        one,
        name=f"{one.name} (means of {size}, band: least to greatest)",
        x=[part.x[-1] for part in parts],
        y=[_mean(part.y) for part in parts],
        low=[min(part.low or part.y) for part in parts],
        high=[max(part.high or part.y) for part in parts],
    )


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _running_mean(values: Sequence[float]) -> list[float]:
    """Over an eighth of the line around each point."""
    reach = max(1, len(values) // 16)
    return [_mean(values[max(0, at - reach) : at + reach + 1]) for at in range(len(values))]


def _draw_line(axes: Any, one: Series) -> None:
    colour = paint(f"--s{one.colour}")
    if one.low is not None and one.high is not None:
        axes.fill_between(one.x, one.low, one.high, color=colour, alpha=0.18, linewidth=0)
        if len(one.x) == 1:  # a band has no width there
            axes.vlines(one.x, one.low, one.high, color=colour, linewidth=1)
    look = {"color": colour, "linestyle": (0, (4, 2)) if one.dashed else "solid", "solid_capstyle": "round"}
    if one.smooth and len(one.x) >= _SMOOTHED_FROM:
        axes.plot(one.x, one.y, alpha=0.3, linewidth=1, **look)
        axes.plot(one.x, _running_mean(one.y), linewidth=2.2, **look)
        return
    marker = _MARKERS[(one.colour or 0) % len(_MARKERS)] if len(one.x) <= _MARKED_UP_TO else None
    axes.plot(one.x, one.y, linewidth=2, marker=marker, markersize=4.5, **look)


def _set_scales(axes: Any, x_label: str, lines: Sequence[Series], percent: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    whole = all(float(value).is_integer() for one in lines for value in one.x)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=whole, steps=TICK_STEPS))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=TICK_STEPS))
    axes.set_xlabel(printable(x_label))
    axes.margins(x=0.02)
    low, high = axes.get_ylim()
    least = 0.02 * max(abs(low), abs(high))  # so that rounding does not look like a trend
    if high - low < least:
        axes.set_ylim((low + high - least) / 2, (low + high + least) / 2)
    _percent_axis(axes, percent)


def _percent_axis(axes: Any, percent: bool) -> None:
    if percent:
        axes.yaxis.set_major_formatter(
            lambda value, _: f"{100 * value:.6g}\N{NO-BREAK SPACE}%".replace("-", "\N{MINUS SIGN}")
        )


def _columns(axes: Any, x_label: str, lines: Sequence[Series], percent: bool) -> list[Hover]:
    """A column for each place on the x axis, which tells what every line is there."""
    words: dict[float, list[str]] = {}
    for one in lines:
        for at, x in enumerate(one.x):
            words.setdefault(x, []).append(_value_words(one, at, percent))
    places = sorted(words)
    middles = [place_of(axes, x, 0)[0] for x in places]
    left, top, right, bottom = frame_of(axes)
    edges = [left, *((one + two) / 2 for one, two in pairwise(middles)), right]
    return [
        Hover("\n".join([f"{x_label} {number(x)}", *words[x]]), edges[at], top, edges[at + 1] - edges[at], bottom - top)
        for at, x in enumerate(places)
    ]


def _value_words(one: Series, at: int, percent: bool) -> str:
    value = f"{one.name}: {number(one.y[at], percent=percent)}"
    if one.low is None or one.high is None:
        return value
    return f"{value} ({number(one.low[at], percent=percent)} to {number(one.high[at], percent=percent)})"


def place_of(axes: Any, x: float, y: float) -> tuple[float, float]:
    """Where a point of the data lies in the drawing, whose y goes down."""
    across, up = axes.transData.transform((x, y))
    return float(across), float(axes.figure.bbox.height - up)


def frame_of(axes: Any) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the axes in the drawing, whose y goes down."""
    box, height = axes.bbox, axes.figure.bbox.height
    return box.x0, height - box.y1, box.x1, height - box.y0


# --- points ----------------------------------------------------------------------------------------------------


def _draw_point(axes: Any, point: Point, group: int) -> None:
    look = {"color": paint(f"--s{group % SERIES_COLOURS}"), "marker": _MARKERS[group % len(_MARKERS)]}
    axes.errorbar(
        [point.x],
        [point.y],
        xerr=_reach(point.x, point.low, point.high),
        linestyle="none",
        elinewidth=1,
        markersize=7,
        **look,
    )


def _reach(value: float, low: float | None, high: float | None) -> list[list[float]] | None:
    """How far a bound lies to either side, as matplotlib wants it."""
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return None
    return [[max(0.0, value - low)], [max(0.0, high - value)]]


def _around(axes: Any, point: Point, x_label: str, y_label: str, percent: bool) -> Hover:
    across, down = place_of(axes, point.x, point.y)
    words = f"{point.name}\n{x_label}: {number(point.x)}\n{y_label}: {number(point.y, percent=percent)}"
    return Hover(words, across - 8, down - 8, 16, 16)
