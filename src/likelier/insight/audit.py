"""An audit for people: at the terminal (a table, what each finding means, the figures, the verdict), and as a page.

The page is one HTML file: no script, nothing fetched, everything from the data escaped. The statistics are small tables
of words, for the terminal and the page alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any, TypeAlias

from markupsafe import Markup
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from likelier.data.audit.catalogue import entry_of
from likelier.data.audit.findings import SEVERITIES, Audit, Finding
from likelier.insight.pages.histograms import counts_chart
from likelier.insight.pages.render import render
from likelier.utils.terminal import printed

# A title, and rows of cells; the first row is the header.
Tables: TypeAlias = "Iterator[tuple[str, list[list[str]]]]"
_QUANTILES = ("min", "p5", "median", "mean", "p95", "p99", "max")
_RULES = "how much simple rules know"
_STYLES = {"error": "bold red", "warning": "yellow", "info": "cyan"}
_PLACES = 3


def as_text(audit: Audit, *, width: int | None = None, colour: bool = False) -> str:
    """The audit for people; data text only where the findings hold it."""
    return printed(_parts(audit), width=width, colour=colour)


def _parts(audit: Audit) -> Iterator[RenderableType]:
    left_out = audit.rows - audit.usable
    told = f"{audit.rows:,} rows, {audit.usable:,} usable" + (f", {left_out:,} not" if left_out else "")
    kind = f"{audit.statistics['records']:,} {audit.kind}" + (f" ({audit.format})" if audit.format else "")
    yield Text(f"{audit.name}: {told}; {kind}" if audit.name else f"{told}; {kind}", style="bold")
    if audit.findings:
        yield _table(audit)
        for finding in audit.findings:
            yield Padding(_explained(audit, finding), (1, 0, 0, 2))
    for title, rows in figure_tables(audit):
        yield Text(f"\n{title}", style="bold")
        yield _plain_table(rows)
    style = _STYLES.get(str(audit.severity), "bold green")
    yield Text.assemble("\n", ("verdict: ", "bold"), (audit.verdict, style))


def _table(audit: Audit) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2), header_style="bold")
    for name, options in (("severity", {}), ("finding", {}), ("count", {"justify": "right"}), ("first places", {})):
        table.add_column(name, **options)  # type: ignore[arg-type]
    for one in audit.findings:
        more = f" and {one.count - _PLACES:,} more" if one.examples and one.count > _PLACES else ""
        where = Text("; ".join(_short(audit, place) for place in one.examples[:_PLACES]) + more)
        table.add_row(Text(one.severity, _STYLES[one.severity]), Text(one.name), f"{one.count:,}", where)
    return table


def _short(audit: Audit, place: str) -> str:
    """A place without the folders of the audited file, which the heading names."""
    folder, slash, _ = audit.name.rpartition("/")
    return place.removeprefix(folder + slash)


def _explained(audit: Audit, finding: Finding) -> RenderableType:
    about = Table.grid(padding=(0, 2))
    about.add_row(Text("why", "dim"), Text(finding.why))
    about.add_row(Text("mend", "dim"), Text(finding.mend))
    for place, other in zip(finding.examples[:_PLACES], finding.related, strict=False):
        about.add_row("", Text(f"{_short(audit, place)} goes with {_short(audit, other)}", "dim"))
    for quote in finding.quotes[:_PLACES]:
        about.add_row("", Text(quote, "dim"))
    heading = Text.assemble((finding.name, _STYLES[finding.severity]), f"  {finding.summary}.")
    return Group(heading, Padding(about, (0, 0, 0, 2)))


def _plain_table(rows: list[list[str]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2), header_style="dim", show_header=any(rows[0]))
    for number, name in enumerate(rows[0]):
        options: dict[str, Any] = {} if number == 0 else {"justify": "right"}
        table.add_column(name, **options)
    for row in rows[1:]:
        table.add_row(*map(Text, row))
    return table


# --- the page --------------------------------------------------------------------------------------------------------


def as_html(audit: Audit) -> str:
    """The whole page."""
    tables = dict(figure_tables(audit))
    return render(
        "audit.html",
        audit=audit,
        entry_of=entry_of,
        unit_of=lambda name: _unit(audit, name),
        is_about_rules=lambda name: name in NO_DEFECTS,
        tiles=_tiles(audit),
        counts={level: len([one for one in audit.findings if one.severity == level]) for level in SEVERITIES[::-1]},
        charts=_charts(audit.statistics),
        rules=[_place_of_rule(row) for row in tables.pop(_RULES, [])[1:]],
        tables=tables,
    )


# Findings that count what a rule or a model gets right, or what is only rarer: these rows are not wrong.
NO_DEFECTS = ("length-bias", "surface-bias", "label-balance", "reference-certain")


def _unit(audit: Audit, name: str) -> str:
    """What the number of a finding counts, of the kind of data that this is."""
    unit = entry_of(name).unit
    pairs, _, rest = unit.partition("pairs (labels: rows)")
    return f"{pairs}{'pairs' if audit.kind == 'pairs' else 'rows'}{rest}" if rest else unit


def _charts(statistics: Mapping[str, Any]) -> list[Markup]:
    """The charts that an audit has figures for."""
    found = []
    if "characters" in statistics:
        found.append(_histogram("Length of the answers", "characters", statistics["characters"]["histogram"]))
    if "tokens" in statistics:
        tokens = statistics["tokens"]
        found.append(_histogram("Length of the rows", "tokens", tokens["histogram"], tokens["max_length"]))
    return found


def _histogram(title: str, unit: str, histogram: Mapping[str, Any], limit: int | None = None) -> Markup:
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


def _place_of_rule(row: list[str]) -> dict[str, Any]:
    """A rule's share and interval as places from 0 to 100."""
    name, value, interval, cases = row
    low, high = (float(word.rstrip("%")) for word in interval.split(" to "))
    return {"name": name, "value": float(value.rstrip("%")), "low": low, "high": high, "words": value, "of": cases}


# --- the figures -----------------------------------------------------------------------------------------------------


def figure_tables(audit: Audit) -> Tables:
    """Every table that the audit has figures for."""
    statistics = audit.statistics
    for title, name in (("characters", "characters"), ("tokens", "tokens")):
        if name in statistics:
            yield title, _lengths(statistics[name])
    if statistics.get("tokens", {}).get("scripts"):
        yield "tokens by script of the answer", _scripts(statistics["tokens"]["scripts"])
    rules = list(_rules(statistics))
    if rules:
        yield _RULES, [["rule", "right", "95 % interval", "of"], *rules]
    if "noise" in statistics:
        yield "noise", _noise(statistics["noise"])
    if "reference" in statistics:
        yield "the reference on a sample", _reference(statistics["reference"])
    rest = list(_rest(statistics))
    if rest:
        yield "rows", [["", ""], *rest]


def _percent(value: float) -> str:
    return f"{value:.1%}"


def _lengths(lengths: Mapping[str, Any]) -> list[list[str]]:
    rows = [
        [name.replace("_", " "), *(f"{figures[key]:,.0f}" for key in _QUANTILES)]
        for name, figures in lengths.items()
        if isinstance(figures, dict) and "median" in figures
    ]
    return [["", *_QUANTILES], *rows]


def _scripts(scripts: Mapping[str, Mapping[str, float]]) -> list[list[str]]:
    rows = [
        [name, f"{one['answers']:,}", f"{one['characters']:,}", f"{one['tokens_per_character']:.3f}"]
        for name, one in scripts.items()
    ]
    return [["script", "answers", "characters", "tokens a character"], *rows]


def _rules(statistics: Mapping[str, Any]) -> Iterator[list[str]]:
    rules = [(statistics["length_rule"]["characters"], "characters")] if "length_rule" in statistics else []
    if "length_rule_tokens" in statistics:
        rules.append((statistics["length_rule_tokens"], "tokens"))
    for rule, unit in rules:
        yield _rule(f"the longer answer is better ({unit})", rule["longer_wins"])
    for name, words in (("words", "words of the answer, held out"), ("first_word", "its first word, held out")):
        if name in statistics.get("surface_rule", {}):
            yield _rule(words, statistics["surface_rule"][name])


def _rule(name: str, share: Mapping[str, float]) -> list[str]:
    interval = f"{_percent(share['low'])} to {_percent(share['high'])}"
    return [name, _percent(share["value"]), interval, f"{share['cases']:,}"]


def _noise(noise: Mapping[str, Any]) -> list[list[str]]:
    rows = [
        ["judged more than once", f"{noise['judged_twice']:,} of {noise['cases']:,}"],
        ["judged both ways", f"{noise['both_ways']:,}"],
        ["two judgements disagree", _percent(noise["disagreement"])],
        ["one judgement is wrong (flip rate)", _percent(noise["flip_rate"])],
        ["no model can agree with more of the labels than", _percent(noise["ceiling"])],
    ]
    if "of_single_votes" in noise["ceilings"]:
        limits = noise["ceilings"]
        rows.append(
            ["the same, if all disagreement is about a few coin tosses", _percent(limits["if_few_are_coin_tosses"])]
        )
        rows.append(["no model can agree with more of the single votes than", _percent(limits["of_single_votes"])])
    return [[f"from {noise['from']}", ""], *rows]


def _reference(figures: Mapping[str, Any]) -> list[list[str]]:
    rows = [
        _rule("the chosen answer is likelier", figures["ranking_accuracy"]),
        _rule("the same a token", figures["ranking_accuracy_per_token"]),
    ]
    return [[str(figures["model"]), "pairs", "95 % interval", "of"], *rows]


def _rest(statistics: Mapping[str, Any]) -> Iterator[list[str]]:
    if "prompts" in statistics:
        prompts = statistics["prompts"]
        yield ["distinct prompts", f"{prompts['distinct']:,}"]
        yield ["prompts with several rows", f"{prompts['repeated']:,}"]
    if "label_balance" in statistics:
        yield ["desirable answers", _percent(statistics["label_balance"]["share_desirable"])]
