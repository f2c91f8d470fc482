"""An inspection as a page: the answers coloured, each token's numbers on hover, the chain beneath."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from likelier.insight.inspect.figures import TOKEN_NUMBERS, decimals, figure_text, notes_of, table_of
from likelier.insight.inspect.look import Inspection
from likelier.insight.pages.heatmap import HEATMAP_CSS, class_of_piece, legend, pieces_of, scale_of, token_spans
from likelier.insight.pages.render import render
from likelier.utils.files import base_names


def as_html(found: Inspection) -> str:
    """The whole page, on which local paths are cut down to their last part."""
    named = {"run": found.run, "policy": found.policy, "reference": found.reference, "source": found.source}
    found = replace(found, **base_names(named))
    scale = scale_of(*found.answers.values())
    first = next(iter(found.answers.values()))["tokens"][0]
    return render(
        "inspect.html",
        found=found,
        when={"start": "at the start", "end": "at the end"}.get(found.at, f"at {found.at}"),
        css=HEATMAP_CSS,
        spans={side: token_spans(answer, scale) for side, answer in found.answers.items()},
        legend=legend(*found.answers.values()),
        table=table_of(found),
        numbers=[words for words, name in TOKEN_NUMBERS if name in first],
        tokens={side: _rows(answer, scale) for side, answer in found.answers.items()},
        notes=notes_of(found),
        number=figure_text,
    )


def _rows(answer: dict[str, Any], scale: float) -> list[dict[str, Any]]:
    """For each readable piece its text, its colour and its numbers."""
    names = [name for _, name in TOKEN_NUMBERS if name in answer["tokens"][0]]
    return [
        {
            "text": piece.cell,
            "style": class_of_piece(piece, scale),
            "numbers": [decimals(piece.total(name) or 0.0) if piece.is_trained else "" for name in names],
        }
        for piece in pieces_of(answer)
    ]
