"""How often values occur: charts of counts in bins, from the values or from counts that are known already."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from markupsafe import Markup

from likelier.insight.pages.charts import TICK_STEPS, captioned, frame_of, legend_key, number, place_of
from likelier.insight.pages.svg import Hover, drawing_style, embedded, new_figure, paint, written
from likelier.utils.console import printable


def histogram_chart(
    title: str,
    x_label: str,
    values: Mapping[str, Sequence[float]],
    *,
    note: str = "",
    unit: str = "number of items",
    level: tuple[float, str] | None = None,
    colours: Sequence[int] | None = None,
) -> Markup:
    """How often each value occurs, for one or several lists on the same bins; y is how many lie in a bin.

    `level` is a value to compare with, drawn as a vertical line, and what it is.
    """
    import numpy as np

    kept = {name: [one for one in column if math.isfinite(one)] for name, column in values.items()}
    kept = {name: column for name, column in kept.items() if column}
    if not kept:
        return Markup("")
    edges = _edges([one for column in kept.values() for one in column])
    counts = {
        name: np.histogram(np.clip(column, edges[0], edges[-1]), edges)[0].tolist() for name, column in kept.items()
    }
    label = "; ".join(
        f"{name}: {len(column):,} values, mean {number(sum(column) / len(column))}" for name, column in kept.items()
    )
    return counts_chart(title, x_label, edges, counts, note=note, unit=unit, level=level, colours=colours, label=label)


def counts_chart(
    title: str,
    x_label: str,
    edges: Sequence[float],
    counts: Mapping[str, Sequence[int]],
    *,
    note: str = "",
    unit: str = "number of items",
    level: tuple[float, str] | None = None,
    colours: Sequence[int] | None = None,
    label: str = "",
    places: Sequence[str] | None = None,
) -> Markup:
    """As `histogram_chart`, from the bins' `edges` (bins + 1,) and how many of each list lie in them, (bins,) each.

    `label` tells the drawing to those who cannot see it, `places` are the bins in words, for hovering.
    """
    if not any(map(any, counts.values())):
        return Markup("")
    from matplotlib.ticker import MaxNLocator

    paints = list(colours or range(len(counts)))
    with drawing_style():
        figure, axes = new_figure()
        for column, colour in zip(counts.values(), paints, strict=False):
            axes.stairs(column, edges, fill=True, color=paint(f"--s{colour}"), alpha=0.3, linewidth=0)
            axes.stairs(column, edges, color=paint(f"--s{colour}"), linewidth=1.6)
        axes.set_xlabel(printable(x_label))
        axes.margins(x=0.01)
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True, steps=TICK_STEPS))
        if level is not None:
            axes.axvline(level[0], color=paint("--soft"), linewidth=1, linestyle=(0, (2, 2)))
        svg = written(figure)
        hovers = _bars(axes, edges, counts, places)
    keys = [legend_key(name, colour, "box") for name, colour in zip(counts, paints, strict=False)]
    keys += [legend_key(level[1], None, "dotted")] if level is not None else []
    label = label or "; ".join(f"{name}: at most {max(column):,} in a bar" for name, column in counts.items())
    return captioned(title, unit, keys, embedded(svg, f"{title}: {label}", hovers), note)


def _edges(values: Sequence[float]) -> list[float]:
    """The bounds of at most 30 bins over everything but a few far outliers, which the outermost bins take."""
    import numpy as np

    low, high = float(min(values)), float(max(values))
    inner = [float(one) for one in np.quantile(values, [0.01, 0.99])]
    if high - low > 3 * (inner[1] - inner[0]) > 0:
        low, high = inner
    if high == low:
        low, high = low - 0.5, high + 0.5
    bins = min(30, max(8, round(1.5 * math.sqrt(len(values)))))
    return np.linspace(low, high, bins + 1).tolist()


def _bars(
    axes: Any, edges: Sequence[float], counts: Mapping[str, Sequence[int]], places: Sequence[str] | None
) -> list[Hover]:
    _, top, _, bottom = frame_of(axes)
    found = []
    for at, (low, high) in enumerate(pairwise(edges)):
        place = f"{number(low)} to {number(high)}" if places is None else places[at]
        words = "\n".join(f"{name}: {column[at]:,}" for name, column in counts.items())
        left, right = place_of(axes, low, 0)[0], place_of(axes, high, 0)[0]
        found.append(Hover(f"{place}\n{words}", left, top, right - left, bottom - top))
    return found
