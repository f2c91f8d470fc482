"""Rows of text for a model with a chat template: they go past it, and the model reads them outside any turn."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from likelier.data.markup import find_markup
from likelier.data.records import Record


def past_template(records: Sequence[Record], tokenizer: Any, marked: Collection[int] | None = None) -> list[int]:
    """The numbers of the records that go past the tokenizer's chat template, none where it has no template.

    Rows that hold chat markup are not among them: they went through a template before, or their markup is told of by
    itself. `marked` are their numbers, where they are known (`find_markup`).
    """
    texts = [number for number, record in enumerate(records) if isinstance(record.prompt, str)]
    if not texts or not tokenizer.chat_template:
        return []
    held = find_markup(records, tokenizer).rows if marked is None else marked
    return [number for number in texts if number not in held]


def past_template_words(count: int, total: int) -> str:
    """What that means, and the flag that changes it."""
    return (
        f"rows of text, which goes past the model's chat template: {count:,} of {total:,}. The model reads them "
        "outside the turns that it was tuned on and is asked in. --columns chat=true makes a user's turn of each "
        "prompt and the assistant's of its answers; leave it where the model shall go on with texts"
    )
