"""A preview as a page: each token with its id on hover, coloured by what it is for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from likelier.data.preview import RowPreview, ShownToken
from likelier.insight.pages.render import render
from likelier.insight.preview.text import facts
from likelier.utils.console import printable
from likelier.utils.files import base_names

if TYPE_CHECKING:
    from markupsafe import Markup


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
