"""A diagnosis at the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from likelier.insight.verdicts import Verdict
from likelier.runs.reader import Run
from likelier.utils.console import printable
from likelier.utils.terminal import printed

STYLES = {"error": "bold red", "warning": "yellow", "good": "bold green", "info": "cyan"}


def as_text(run: Run, verdicts: Sequence[Verdict], *, width: int | None = None, colour: bool = False) -> str:
    """The verdicts for people."""
    return printed(_parts(run, verdicts), width=width, colour=colour)


def _parts(run: Run, verdicts: Sequence[Verdict]) -> Iterator[RenderableType]:
    steps = run.steps[-1].get("step", 0) if run.steps else 0
    planned = run.card.total_steps
    done = f"{steps} of {planned} steps" if planned else f"{steps} steps"
    yield Text(printable(f"{run.name}: {run.method}, {done}, {run.card.status or 'unknown'}"), style="bold")
    for verdict in verdicts:
        yield Padding(_shown(verdict), (1, 0, 0, 0))


def _shown(verdict: Verdict) -> RenderableType:
    style = STYLES[verdict.severity]
    heading = Text.assemble((f"{verdict.severity:<8}", style), (verdict.name, style), f"  {printable(verdict.title)}")
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    for number, (what, numbers) in enumerate(verdict.evidence):
        table.add_row(Text("numbers" if number == 0 else "", "dim"), Text(printable(f"{what}: {numbers}")))
    table.add_row(Text("meaning", "dim"), Text(printable(verdict.meaning)))
    for number, advice in enumerate(verdict.advice):
        table.add_row(Text("try" if number == 0 else "", "dim"), Text(printable(advice)))
    return Group(heading, Padding(table, (0, 0, 0, 2)))
