"""What a chat template does not print of the things that messages hold beyond role and text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from likelier.data.fidelity import Render, names_in
from likelier.data.records import Message, Record, Source, answers_of
from likelier.data.rendering import REASONING_FIELDS, RowRefused, reasoning_in, without_reasoning


@dataclass(frozen=True)
class Unprinted:
    """Something that messages hold and the template does not print, and the rows that hold it."""

    name: str
    sources: tuple[Source, ...]

    def __str__(self) -> str:
        return f"{self.name} ({len(self.sources)} rows, first {self.sources[0]})"


def find_unprinted(records: Iterable[Record], render: Render) -> list[Unprinted]:
    """What the records' messages hold beyond role and text without an effect on the rendered text, tools included.

    A template is asked once for each shape of a conversation, with and without the part.
    """
    known: dict[Any, bool] = {}
    found: dict[str, list[Source]] = {}
    for record in records:
        for name in _unprinted_in(record, render, known):
            found.setdefault(name, []).append(record.source)
    return [Unprinted(name, tuple(sources)) for name, sources in found.items()]


def _unprinted_in(record: Record, render: Render, known: dict[Any, bool]) -> dict[str, None]:
    names: dict[str, None] = {}  # in the order in which they are found
    for answer in answers_of(record):
        if not isinstance(record.prompt, tuple) or not isinstance(answer, tuple):
            return names
        messages = record.prompt + answer
        shape = (bool(record.tools), *((one.role, *_parts(one)) for one in messages))
        if not record.tools and not any(map(_parts, messages)):
            continue
        for name, without, tools in _variants(messages, record.tools, len(record.prompt)):
            key = (shape, name, without is messages or _changed_at(messages, without))
            if key not in known:
                known[key] = _same_text(render, messages, record, without, tools)
            if known[key]:
                names[name] = None
    return names


def _variants(messages: tuple[Message, ...], tools: str, prompt: int) -> Iterator[tuple[str, tuple[Message, ...], str]]:
    """The conversation, whose first `prompt` messages ask, without one thing that it holds, with the thing's name. The
    reasoning of an answer is not among them: without it the row is not trained on (see `fidelity`).
    """
    if tools:
        yield "tools", messages, ""
    for place, message in enumerate(messages):
        for name in _parts(message):
            if place >= prompt and name in (_IN_TEXT, *REASONING_FIELDS):
                continue
            yield name, (*messages[:place], _without(message, name), *messages[place + 1 :]), tools


def _changed_at(left: Sequence[Message], right: Sequence[Message]) -> int:
    return next(place for place, (one, other) in enumerate(zip(left, right, strict=True)) if one is not other)


_IN_TEXT = "reasoning inside the text of earlier turns"


def _parts(message: Message) -> tuple[str, ...]:
    return (*names_in(message), _IN_TEXT) if reasoning_in(message.content) else names_in(message)


def _without(message: Message, name: str) -> Message:
    if name == _IN_TEXT:
        return replace(message, content=without_reasoning(message.content))
    if name == "tool_calls":
        return replace(message, tool_calls="")
    kept = {key: value for key, value in json.loads(message.fields).items() if key != name}
    return replace(message, fields=json.dumps(kept, ensure_ascii=False) if kept else "")


def _same_text(
    render: Render, messages: tuple[Message, ...], record: Record, without: tuple[Message, ...], tools: str
) -> bool:
    try:
        return render(messages, record.source, record.tools) == render(without, record.source, tools)
    except RowRefused:  # the row itself, which is told elsewhere, or a part that the template insists on
        return False
