"""An audit as one HTML file: no script, nothing fetched, everything from the data escaped."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from markupsafe import Markup

from likelier.data.audit.catalogue import entry_of
from likelier.data.audit.findings import SEVERITIES, Audit
from likelier.insight.audit.figures import figure_tables
from likelier.insight.pages.histograms import counts_chart
from likelier.insight.pages.render import render

_RULES = "how much simple rules know"


def as_html(audit: Audit) -> str:
    """The whole page."""
    tables = dict(figure_tables(audit))
    return render(
        "audit.html",
        audit=audit,
        entry_of=entry_of,
        tiles=_tiles(audit),
        counts={level: len([one for one in audit.findings if one.severity == level]) for level in SEVERITIES[::-1]},
        charts=_charts(audit.statistics),
        rules=[_rule(row) for row in tables.pop(_RULES, [])[1:]],
        tables=tables,
    )


def _charts(statistics: Mapping[str, Any]) -> list[Markup]:
    """The charts that an audit has figures for."""
    found = []
    if "characters" in statistics:
        found.append(_lengths("Length of the answers", "characters", statistics["characters"]["histogram"]))
    if "tokens" in statistics:
        tokens = statistics["tokens"]
        found.append(_lengths("Length of the rows", "tokens", tokens["histogram"], tokens["max_length"]))
    return found


def _lengths(title: str, unit: str, histogram: Mapping[str, Any], limit: int | None = None) -> Markup:
    """Of {"edges", "counts": {name: [...]}}, whose last bin holds what is longer as well."""
    edges = histogram["edges"]
    ranges = [f"{low:,} to {high - 1:,}" for low, high in pairwise(edges)]
    places = [f"{words} {unit}" for words in [*ranges[:-1], *(f"{low:,} or more" for low in edges[-2:-1])]]
    level = (limit, f"limit: {limit:,} {unit}") if limit is not None and edges and limit < edges[-1] else None
    return counts_chart(title, unit, edges, histogram["counts"], unit="number of rows", level=level, places=places)


def _tiles(audit: Audit) -> list[tuple[str, str]]:
    left_out = audit.rows - audit.usable
    tiles = [
        ("rows", f"{audit.rows:,}"),
        ("usable", f"{audit.usable:,}"),
        ("left out", f"{left_out:,}"),
        (audit.kind, f"{audit.statistics['records']:,}"),
    ]
    if "prompts" in audit.statistics:
        tiles.append(("distinct prompts", f"{audit.statistics['prompts']['distinct']:,}"))
    if "noise" in audit.statistics:
        tiles.append(("noise ceiling", f"{audit.statistics['noise']['ceiling']:.1%}"))
    return tiles


def _rule(row: list[str]) -> dict[str, Any]:
    """A rule's share and interval as places from 0 to 100."""
    name, value, interval, cases = row
    low, high = (float(word.rstrip("%")) for word in interval.split(" to "))
    return {"name": name, "value": float(value.rstrip("%")), "low": low, "high": high, "words": value, "of": cases}
