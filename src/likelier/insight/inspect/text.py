"""An inspection for the terminal: each token with its numbers, the answers coloured, the chain at the end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from likelier.insight.inspect.figures import TOKEN_NUMBERS, decimals, notes_of, table_of
from likelier.insight.inspect.look import Inspection
from likelier.insight.inspect.own_answers import OwnAnswer, OwnAnswers
from likelier.insight.pages.heatmap import (
    LEVELS,
    Piece,
    legend_text,
    level_of,
    pieces_of,
    scale_of,
    style_of_piece,
    token_text,
)
from likelier.utils.console import printable

PROMPT_SHOWN = 600


def show(found: Inspection, console: Any, top: int | None = None) -> None:
    """Print it to a rich console; `top` limits the tokens of each answer to those with the largest shares."""
    from rich.text import Text

    scale = scale_of(*found.answers.values())
    for line in _head(found):
        console.print(line, soft_wrap=True)
    console.print(Text("\nprompt", style="bold"))
    console.print(Text(_shortened(found.prompt), style="dim"))
    for side, answer in found.answers.items():
        console.print(Text(f"\n{side}", style="bold"))
        console.print(token_text(answer, scale))
        console.print(_token_table(answer, scale, top))
        if left_out := _left_out(answer, top):
            console.print(Text(left_out, style="dim"))
    console.print()
    console.print(legend_text(*found.answers.values()))
    console.print()
    console.print(_chain_table(found))
    for note in notes_of(found):
        console.print(Text(note, style="dim"))


def show_own(found: OwnAnswers, console: Any, top: int | None = None) -> None:
    """As `show`, of answers that the run wrote itself."""
    from rich.text import Text

    scored = [dict(one.scored) for one in found.answers]
    scale = scale_of(*scored)
    when = _when(found.at)
    lines = [f"{found.run} {when}, {found.method}", f"row: {found.source}", f"policy: {found.policy}"]
    for line in [*lines, f"reference: {found.reference}"]:
        console.print(Text(printable(line)), soft_wrap=True)
    console.print(Text("\nprompt", style="bold"))
    console.print(Text(_shortened(found.prompt), style="dim"))
    for one, answer in zip(found.answers, scored, strict=True):
        console.print(Text(f"\n{one.which}", style="bold"))
        console.print(Text(", ".join(_earned(one)), style="dim"))
        console.print(token_text(answer, scale))
        console.print(_token_table(answer, scale, top))
        if left_out := _left_out(answer, top):
            console.print(Text(left_out, style="dim"))
    console.print()
    console.print(legend_text(*scored))


def _earned(one: OwnAnswer) -> Iterator[str]:
    """What an answer earned, and what the policy makes of it."""
    if one.reward is not None:
        parts = ", ".join(f"{name} {value:g}" for name, value in one.rewards.items() if value is not None)
        yield f"reward {one.reward:g}" + (f" ({parts})" if len(one.rewards) > 1 else "")
    if one.advantage is not None:
        yield f"advantage {one.advantage:+.3g}"
    yield f"{one.scored['length']} tokens"
    yield f"log-prob {decimals(one.scored['logp'])}"
    yield f"log-ratio {decimals(one.scored['logratio'])} nats"


def _when(at: str) -> str:
    return {"start": "at the start", "end": "at the end"}.get(at, f"at {at}")


def _head(found: Inspection) -> list[Any]:
    from rich.text import Text

    when = _when(found.at)
    place = f"{found.source}, {found.part}" if found.part else found.source
    lines = [f"{found.run} {when}, {found.objective.method}: {found.explained}", f"row: {place}"]
    if found.objective.reads_values:
        lines.append(f"reward model: {found.policy}")
    else:
        lines += [f"policy: {found.policy}", f"reference: {found.reference or 'none: this method needs no reference'}"]
    return [Text(printable(line)) for line in lines]


def _shortened(prompt: str) -> str:
    text = printable(prompt)
    return text if len(text) <= PROMPT_SHOWN else f"... {text[-PROMPT_SHOWN:]}"


def _token_table(answer: dict[str, Any], scale: float, top: int | None) -> Any:
    from rich.table import Table
    from rich.text import Text

    names = [(words, name) for words, name in TOKEN_NUMBERS if name in answer["tokens"][0]]
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("token", overflow="fold")
    for words, _ in names:
        table.add_column(words, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for piece in _largest(pieces_of(answer), top):
        style, level = style_of_piece(piece, scale), level_of(piece.share, scale)
        numbers = [decimals(piece.total(name) or 0.0) if piece.is_trained else "" for _, name in names]
        bar = _bar(level) if piece.is_trained else "not trained on"
        table.add_row(Text(piece.cell, style=style), *numbers, Text(bar, style=style))
    return table


def _left_out(answer: dict[str, Any], top: int | None) -> str:
    """What `top` hides."""
    shown = sum(len(piece.tokens) for piece in _largest(pieces_of(answer), top))
    left = len(answer["tokens"]) - shown
    return f"and {left} tokens with smaller shares" if left else ""


def _bar(level: int) -> str:
    """The share's size as a bar to the left (lowered the reward) or to the right (raised it) of the middle."""
    low = "<" * -level if level < 0 else ""
    return f"{low:>{LEVELS}}|{'>' * max(level, 0)}"


def _largest(pieces: list[Piece], top: int | None) -> list[Piece]:
    if top is None or len(pieces) <= top:
        return pieces
    sizes = sorted(range(len(pieces)), key=lambda place: -abs(pieces[place].share))
    return [pieces[place] for place in sorted(sizes[:top])]


def _chain_table(found: Inspection) -> Any:
    from rich.table import Table
    from rich.text import Text

    chain = table_of(found)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for column in chain.columns:
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("", overflow="fold", style="dim")
    for figure in chain.figures:
        table.add_row(figure.name, *(figure.text(column) for column in chain.columns), Text(figure.words))
    return table
