"""An audit at the terminal: a table, what each finding means, the figures, the verdict."""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from likelier.data.audit.findings import Audit, Finding
from likelier.insight.audit.figures import figure_tables
from likelier.utils.terminal import SafeConsole

_STYLES = {"error": "bold red", "warning": "yellow", "info": "cyan"}
_PLACES = 3


def as_text(audit: Audit, *, width: int | None = None, colour: bool = False) -> str:
    """The audit for people; data text only where the findings hold it."""
    stream = StringIO()
    console = SafeConsole(file=stream, width=width or 110, force_terminal=colour, no_color=not colour)
    console.print(Group(*_parts(audit)))
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


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
