"""Lines as SVG files that stand alone: text stays text, and the colours follow the reader's light or dark setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import Any

from likelier.insight.pages.charts import Series
from likelier.insight.pages.svg import drawing_style, embedded, new_figure, paint, written
from likelier.utils.statistics import Mean

_LIGHT = "--paper: #ffffff; --ink: #1b1f27; --soft: #5b6472; --line: #dde1e8;"
_DARK = "--paper: #1d2128; --ink: #e8eaee; --soft: #a2abb9; --line: #343a44;"
_SERIES = (
    ("#2f6fb3", "#6aaeea"),
    ("#d9742a", "#f0a261"),
    ("#1d8f6d", "#58c9a5"),
    ("#b04a8b", "#e58cc3"),
    ("#8a7a12", "#d3c04f"),
    ("#6b5bc4", "#a99bf0"),
    ("#3f9ac4", "#8fd3f0"),
    ("#7a7f87", "#a6abb3"),
)
_MARKERS = "os^DvPX*<>hp"
_ROW, _WIDE = 18, 24  # of the legend, in the drawing's units; letters of a name that fits beside another
_KIND = 12  # letters of a kind's name in one row


@dataclass(frozen=True)
class Plot:
    """Lines over a common axis, with bands where they have bounds. `name` is the last part of the file's. Where there
    are `kinds`, the places 1, 2, ... are theirs, and points stand beside each other without lines between them.
    """

    name: str
    title: str
    x_label: str
    y_label: str
    lines: Sequence[Series]
    logarithmic: bool = False  # across, with a tick at every point
    kinds: Sequence[str] = ()


def line(name: str, by_place: Mapping[float, Mean | None]) -> Series:
    """Means by where they stand on the axis, those that there are; with a band where several seeds ran."""
    bands, means = {}, {place: mean for place, mean in by_place.items() if mean is not None}
    if all(mean.cases > 1 for mean in means.values()):
        bands = {"low": [mean.low for mean in means.values()], "high": [mean.high for mean in means.values()]}
    return Series(name, list(means), [mean.value for mean in means.values()], **bands)


def _line(axes: Any, plot: Plot, number: int, line: Series) -> None:
    colour = _colour(number, line)
    if line.low is not None and line.high is not None:
        axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.18, linewidth=0)
    look = {"marker": _MARKERS[number % len(_MARKERS)] if len(line.x) <= 20 else None, "markersize": 4.5}
    style = (0, (4, 2)) if line.dashed else "solid"
    axes.plot(line.x, line.y, color=colour, linewidth=2, linestyle=style, label=line.name, **look)


def _points(axes: Any, plot: Plot, number: int, line: Series) -> None:
    """Those of one name, each a little aside of its kind's place, with its interval."""
    aside = (number + 0.5) / len(plot.lines) - 0.5
    bounds = None
    if line.low is not None and line.high is not None:
        bounds = [[mean - low for mean, low in zip(line.y, line.low, strict=True)]]
        bounds.append([high - mean for mean, high in zip(line.y, line.high, strict=True)])
    look = {"fmt": _MARKERS[number % len(_MARKERS)], "markersize": 5.5, "linewidth": 1.5, "label": line.name}
    axes.errorbar([place + 0.7 * aside for place in line.x], line.y, bounds, color=_colour(number, line), **look)


def _colour(number: int, line: Series) -> str:
    return paint(f"--s{number % len(_SERIES) if line.colour is None else line.colour}")


def drawn(plot: Plot) -> str:
    """The plot as an SVG file."""
    with drawing_style():
        columns = 1 if max(len(one.name) for one in plot.lines) > _WIDE else 2
        figure, axes = new_figure(280 + _ROW * -(-len(plot.lines) // columns))
        for number, line in enumerate(plot.lines):
            (_points if plot.kinds else _line)(axes, plot, number, line)
        if plot.kinds:
            axes.set_xticks(range(1, len(plot.kinds) + 1), [fill(kind, _KIND) for kind in plot.kinds])
        if plot.logarithmic:
            places = sorted({place for one in plot.lines for place in one.x})
            axes.set_xscale("log")
            axes.set_xticks(places, [f"{place / 1000:g}k" if place >= 10_000 else f"{place:g}" for place in places])
            axes.minorticks_off()
        axes.set_xlabel(plot.x_label)
        axes.set_ylabel(plot.y_label)
        figure.legend(loc="outside lower center", ncols=columns, frameon=False, fontsize=11)
        svg = str(embedded(written(figure), plot.title))
    dark = "".join(f" --s{number}: {pair[1]};" for number, pair in enumerate(_SERIES))
    light = "".join(f" --s{number}: {pair[0]};" for number, pair in enumerate(_SERIES))
    style = (
        f"<style>svg {{ {_LIGHT}{light} font-family: system-ui, sans-serif; }} "
        f"@media (prefers-color-scheme: dark) {{ svg {{ {_DARK}{dark} }} }}</style>"
    )
    background = '<rect width="100%" height="100%" rx="6" fill="var(--paper)"></rect>'
    head, body = svg.split(">", 1)
    return f'{head} xmlns="http://www.w3.org/2000/svg">{style}{background}{body}\n'
