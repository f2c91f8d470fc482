"""What a chat template writes into answers by itself: trained on like the answer's text, though no row holds it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from likelier.data.fidelity import Render, names_in
from likelier.data.records import Message, Record, Source, answers_of
from likelier.data.rendering import REASONING_FIELDS, RowRefused, reasoning_in

_MARK = "zqx0an1answer2qz"


def find_added(records: Iterable[Record], render: Render) -> dict[str, Source]:
    """What stands in front of an answer's text behind the generation prompt, such as an empty block of reasoning, the
    answer's own text as `…`; with the first row that is trained on it. A template is asked once for each shape.
    """
    known: set[Any] = set()
    found: dict[str, Source] = {}
    for record in records:
        for answer in answers_of(record):
            prompt = record.prompt
            if not isinstance(prompt, tuple) or not isinstance(answer, tuple) or not _is_plain(prompt, answer[0]):
                continue
            shape = (bool(record.tools), len(prompt), *((one.role, names_in(one)) for one in prompt + answer))
            if shape not in known:
                known.add(shape)
                added = _added(prompt, answer, record, render)
                if added:
                    found.setdefault(added, record.source)
    return found


def _is_plain(prompt: tuple[Message, ...], turn: Message) -> bool:
    """Whether the turn is a text without reasoning and not begun already, so that nothing but it belongs in front."""
    held = REASONING_FIELDS & set(names_in(turn))
    return bool(turn.content.strip()) and not held and not reasoning_in(turn.content) and prompt[-1].role != "assistant"


def _added(prompt: tuple[Message, ...], answer: tuple[Message, ...], record: Record, render: Render) -> str:
    marked = (replace(answer[0], content=_MARK), *answer[1:])
    try:
        asked = render(prompt, record.source, record.tools, then="answer")
        whole = render(prompt + marked, record.source, record.tools)
    except RowRefused:
        return ""
    if not whole.startswith(asked) or _MARK not in whole:  # which the checks of each row tell
        return ""
    own = whole[len(asked) : whole.rindex(_MARK) + len(_MARK)].strip().replace(_MARK, "…")
    return "" if own == "…" else own
