"""What a file calls the parts of its messages: who speaks, what is said, who the speakers are, a label of a turn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from likelier.data.columns import Columns
from likelier.data.formats.codings import Key, key_of, values_of_sides
from likelier.data.formats.messages import Row, Unfit, plain
from likelier.data.formats.structured import structure

TALKS = frozenset({"messages", "conversations"})
_MESSAGES = TALKS | {"prompt", "chosen", "rejected", "first", "second", "completion"}
_SPEAKERS = ("user", "assistant", "system", "tool")


@dataclass(frozen=True)
class TurnNames:
    """New names of the fields of messages by those in the file, and roles by what the file calls its speakers."""

    fields: Mapping[str, str] = field(default_factory=dict)
    roles: Mapping[Key, str] = field(default_factory=dict)

    def row(self, row: Row) -> Row:
        """The row with the usual names in its messages; what is no message stays as it is."""
        if not self.fields and not self.roles:
            return row
        return {name: self._messages(value, name) if name in _MESSAGES else value for name, value in row.items()}

    def concern(self, row: Row) -> bool:
        """Whether the row has a field of messages."""
        return any(isinstance(plain(_read(row[name], name)), list) for name in _MESSAGES & row.keys())

    def _messages(self, value: Any, name: str) -> Any:
        found = plain(_read(value, name))
        if not isinstance(found, list) or not all(isinstance(one, Mapping) for one in found):
            return value
        return [self._message(one) for one in found]

    def _message(self, message: Mapping[str, Any]) -> dict[str, Any]:
        own = {name: value for name, value in message.items() if name not in self.fields}
        found = own | {new: message[name] for name, new in self.fields.items() if name in message}
        for name in ("role", "from") if self.roles else ():
            key = key_of(found.get(name))
            if key is not None and key in self.roles:
                found[name] = self.roles[key]
        return found


def _read(value: Any, name: str) -> Any:
    """The list that a cell spells, else the cell."""
    try:
        return structure(value, name)
    except Unfit:  # a text that begins as a list does
        return value


def turn_names(columns: Columns) -> tuple[TurnNames, Columns]:
    """What the map says of messages, and the map without it. `role=turns.who` and `text=turns.said` name fields inside
    of the messages in `turns`. Raises `ConfigError` for a coding of roles that cannot be.
    """
    named = {name for given in columns.roles.values() for name in ([given] if isinstance(given, str) else given)}
    fields: dict[str, str] = {}
    for role, new in (("role", "role"), ("text", "content")):
        head, dot, inner = (columns.roles.get(role) or "").partition(".")
        if dot and head in named | TALKS:
            fields[inner] = new
            columns = replace(columns, **{role: None})
    coding = columns.role_coding
    sides = {} if coding is None else values_of_sides("role_coding", coding, _SPEAKERS)
    return TurnNames(fields, {key: _SPEAKERS[side] for key, side in sides.items()}), columns


def label_inside(columns: Columns) -> tuple[str, str] | None:
    """(column, name) of a label that stands inside the messages of a conversation."""
    column, dot, inner = (columns.label if isinstance(columns.label, str) else "").partition(".")
    return (column, inner) if dot and (column == columns.messages or column in TALKS) else None


def without_label(messages: Any, name: str) -> Any:
    """The messages without the field that holds a label, which is no part of what is said."""
    messages = structure(messages, "messages")
    if not isinstance(messages, (list, tuple)):
        return messages
    outer = name.partition(".")[0]
    return [{k: v for k, v in one.items() if k != outer} if isinstance(one, Mapping) else one for one in messages]


def label_of_turn(message: Any, name: str) -> Any:
    """The label of one message under a dotted name; None where it has none."""
    outer, dot, rest = name.partition(".")
    found = message.get(outer) if isinstance(message, Mapping) else None
    return label_of_turn(structure(found, outer), rest) if dot else found
