"""A preview for the terminal: context dim, trained tokens green, and in brackets where there is no colour.

As a page: each token with its id on hover, coloured by what it is for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from likelier.data.preview import RowPreview, ShownToken, bracketed, visible
from likelier.insight.pages.render import render
from likelier.utils.console import printable
from likelier.utils.files import base_names

if TYPE_CHECKING:
    from markupsafe import Markup

_STYLES = {"context": "dim", "trained": "green", "fed": "dim"}


def show(rows: Sequence[RowPreview], console: Any) -> None:
    """Print the rows to a rich console: what is to be known of each first, its tokens at the end."""
    from rich.text import Text

    colour = console.is_terminal and not console.no_color
    trained = "green" if colour else "what stands in [brackets]"
    console.print(Text(f"trained on: {trained}; \u21b5 is the end of a line"), soft_wrap=True)
    for row in rows:
        console.print()
        console.print(Text(printable(row.source), style="bold"), soft_wrap=True)
        for name, words in facts(row):
            console.print(Text(f"  {name:<10} {printable(words)}"), soft_wrap=True)
        for name, tokens in (("prompt", row.prompt), *((one.name, one.tokens) for one in row.answers)):
            if tokens:
                console.print(Text(f"  {name:<10} ").append_text(_text(tokens, colour)), soft_wrap=True)


def facts(row: RowPreview) -> list[tuple[str, str]]:
    """What is to be known of a row, by name."""
    found = [("problem", row.problem)] if row.problem else []
    for answer in row.answers:
        lengths = f"{answer.trained} of {len(answer.tokens)} tokens trained on, behind {len(row.prompt)} of context"
        found.append((answer.name, f"{lengths}; {answer.ends}"))
    found += [("starts", row.starts)] if row.starts else []
    found += [("cut", ", ".join(row.cut))] if row.cut else []
    found += [("left out", f"not in the tokens: {', '.join(row.missing)}")] if row.missing else []
    found += [("added", f"the chat template writes {text!r} into the answer") for text in row.added]
    return found


def _text(tokens: Sequence[ShownToken], colour: bool) -> Any:
    from rich.text import Text

    if not colour:
        return Text(printable(bracketed(tokens)))
    text = Text()
    for token in tokens:
        style = _STYLES[token.kind] + (" reverse" if token.special else "")
        text.append(printable(visible((token,))), style=style)
    return text


def as_html(rows: Sequence[RowPreview], data: str, model: str) -> str:
    """The whole page, on which local paths are cut down to their last part."""
    named = base_names({"data": data, "model": model})
    return render("preview.html", **named, rows=[_row(row) for row in rows])


def _row(row: RowPreview) -> dict[str, Any]:
    parts = [("prompt", row.prompt), *((answer.name, answer.tokens) for answer in row.answers)]
    return {
        "source": base_names(row.source),
        "facts": facts(row),
        "problem": row.problem,
        "parts": [(name, _spans(tokens)) for name, tokens in parts if tokens],
    }


def _spans(tokens: Sequence[ShownToken]) -> Markup:
    from markupsafe import Markup

    spans = [
        Markup('<span class="{}" title="{}">{}</span>').format(
            f"{token.kind} special" if token.special else token.kind,
            f"token {token.id}, {_WORDS[token.kind]}",
            printable(token.text).replace("\t", "\u21e5\t").replace("\n", "\u21b5\n"),
        )
        for token in tokens
    ]
    return Markup("").join(spans)


_WORDS = {"context": "context", "trained": "trained on", "fed": "fed, not trained on"}
