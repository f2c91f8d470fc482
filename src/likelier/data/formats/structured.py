"""Fields that hold a structure, brought to one form however a file tells it: as objects, as the text of a cell, as an
object of lists (`datasets`' sequences), as an array of numpy.

Text is taken for a structure only where the field can hold one and the text spells one: messages have a role and a
content. Anything else stays the text that it is, so an answer may be JSON. What looks like messages and cannot be read
is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from likelier.data.formats.messages import Row, Unfit, as_objects, is_role, plain
from likelier.data.formats.spelled import NotSpelled, parse_spelled

_CHATS = ("messages", "conversations")
_TEXTS = ("prompt", "chosen", "rejected", "first", "second", "completion")
_PLAIN = ("instruction", "output")  # which no layout has as messages
_SIDES = (("chosen", "rejected"), ("first", "second"))
_LISTS = ("ranks", "scores", "judgements", "winner", "votes", "prompt_ids", "chosen_ids", "rejected_ids")
_OPENS = re.compile(r"""\s*(?:[\[{(]|array\(|"\s*[\[{])""")
_QUOTE = r"""(?:\\*["'\u2018-\u201d]{1,2}|&quot;)"""  # also as other programs garble it
_BRACKETS = r"""["]?(?:array\(|[\[({\s])*"""
_LIST = re.compile(rf"{_BRACKETS}\[[\s({{]*\{{\s*{_QUOTE}?(?:role|content|from|value){_QUOTE}?\s*:")
_START = re.compile(rf"{_BRACKETS}{_QUOTE}|\[?\s*\{{\s*(?:role|content|from|value)\s*:|\[\s*\w+\(")
_KEYS = tuple(
    re.compile(rf"(?:{_QUOTE}|\b)(?:{keys}){_QUOTE}?\s*[:=]")
    for keys in ("role|from", "content|value|tool_calls|function_call")
)


def structured(row: Row, *, keep_text: bool = False) -> tuple[Row, bool]:
    """The row with its structures as such, and whether text spelled messages; with `keep_text` what may be text stays
    it. Raises `Unfit` for what cannot be read.
    """
    changed: dict[str, Any] = {}
    for name, value in row.items():
        read = _READERS.get(name)
        if keep_text and isinstance(value, str) and name in (*_TEXTS, *_PLAIN):
            continue
        if read is not None and value is not None and (found := read(value, name)) is not value:
            changed[name] = found
    if not changed:
        return row, False
    spelled = {name for name in (*_TEXTS, *_CHATS) if name in changed and isinstance(row[name], str)}
    _refuse_halves({**row, **changed}, spelled)
    if "answers" in changed and (_is_text(row["answers"]) or any(map(_is_text, row["answers"]))):
        spelled.add("answers")
    return {**row, **changed}, bool(spelled)


def shape_of(row: Row) -> Row:
    """The row as far as its layout can be seen: what cannot be read is a list of an empty message."""
    found = dict(row)
    for name, value in row.items():
        read = _READERS.get(name)
        if read is not None and value is not None:
            try:
                found[name] = read(value, name)
            except Unfit:
                found[name] = value if name in _PLAIN else [{}]
    return found


def structure(value: Any, column: str) -> Any:
    """The list or object that a cell holds or spells, for a column inside which something is looked for."""
    return _spelled(value, column) if isinstance(value, str) and _opens(value) else value


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _opens(text: str) -> bool:
    """Whether a text may spell a list or an object, or be the text of a text that does."""
    return bool(_OPENS.match(text))


def _refuse_halves(row: Row, spelled: set[str]) -> None:
    """Of two answers, one that spells messages and one that is plain text are not two of a kind."""
    for sides in _SIDES:
        ours = [name for name in sides if name in spelled]
        if len(ours) == 1 and any(isinstance(row.get(name), str) for name in sides):
            other = sides[1 - sides.index(ours[0])]
            raise Unfit("half-structured", f"the text of {ours[0]} spells messages, and {other} is plain text")


# --- cells ---------------------------------------------------------------------------------------------------------


def _spelled(text: str, name: str) -> Any:
    try:
        value = parse_spelled(text)
    except NotSpelled as error:
        raise Unfit("broken-structure", f"{name} begins {text.strip()[:40]!r} and cannot be read: {error}") from error
    return _inner(value, name)


def _inner(value: Any, name: str) -> Any:
    """Text that was written as the text of a text."""
    return _spelled(value, name) if isinstance(value, str) and _opens(value) else value


def _messages(value: Any, name: str) -> Any:
    """A field of text or messages."""
    value = plain(value)
    if isinstance(value, str):
        return _messages_in(value, name)
    if isinstance(value, list) and value and all(map(_is_text, value)):
        found = [_messages_in(one, name) for one in value]
        return [part for one in found for part in one] if not any(map(_is_text, found)) else value
    if not isinstance(value, Mapping):
        return value
    rows = as_objects(value)
    return rows if isinstance(rows, list) else [value] if _is_message(value) else value


def _messages_in(text: str, name: str) -> Any:
    """The messages that a text spells, else the text."""
    if not _opens(text):
        return text
    try:
        found = _inner(parse_spelled(text), name)
    except NotSpelled as error:
        if not error.is_prose and _looks_like_messages(text):
            begins = text.strip()[:40]
            raise Unfit(
                "broken-structure", f"{name} begins {begins!r} as messages do and cannot be read: {error}"
            ) from error
        return text
    rows = as_objects(found)
    if isinstance(rows, list) and rows and all(map(_is_text, rows)):
        inner = [_messages_in(one, name) if _opens(one) else one for one in rows]
        return text if any(map(_is_text, inner)) else [part for one in inner for part in one]
    if isinstance(rows, Mapping):
        return [rows] if _is_message(rows) else text
    return rows if _are_messages(rows) else text


def _looks_like_messages(text: str) -> bool:
    """Whether a text that cannot be read begins as messages do: a list whose first name is one of theirs, or any object
    with both of their names.
    """
    begin = text.lstrip()
    return bool(_LIST.match(begin) or (_START.match(begin) and all(key.search(begin) for key in _KEYS)))


def _are_messages(value: Any) -> bool:
    """Whether a list is meant as messages. `from` and `value` are common words, so one of their roles must be known."""
    if not isinstance(value, list) or not value or not isinstance(value[0], Mapping):
        return False
    objects = [one for one in value if isinstance(one, Mapping)]
    if not all(_has_keys(one) for one in objects):
        return False
    return all("role" in one for one in objects) or any(map(_is_message, objects))


def _has_keys(value: Mapping[Any, Any]) -> bool:
    return bool({"role", "from"} & value.keys()) and bool({"content", "value", "tool_calls"} & value.keys())


def _is_message(value: Mapping[Any, Any]) -> bool:
    return _has_keys(value) and is_role(value.get("role", value.get("from")))


def _chat(value: Any, name: str) -> Any:
    """A field of messages and nothing else."""
    found = _messages(value, name)
    return _spelled(found, name) if isinstance(found, str) and _opens(found) else found


def _text(value: Any, name: str) -> Any:
    """A field of text and nothing else."""
    if isinstance(value, str) and _messages_in(value, name) is not value:
        raise Unfit("not-text", f"{name} spells messages; name it messages or completion, or keep it with chat=false")
    return value


def _list(value: Any, name: str) -> Any:
    """A field of several values, or of one."""
    value = plain(value)
    if not isinstance(value, str) or not _opens(value):
        return value
    found = _spelled(value, name)
    return found if isinstance(found, list) else value


def _answers(value: Any, name: str) -> Any:
    """A field of several texts or message lists."""
    found = _list(value, name)
    if isinstance(found, Mapping):
        found = as_objects(found)
    if not isinstance(found, list):
        return found
    read = [_messages(one, f"answer {number}") for number, one in enumerate(found, 1)]
    turned = [number for number, (new, old) in enumerate(zip(read, found, strict=True)) if new is not old]
    if any(isinstance(found[number], str) for number in turned) and any(map(_is_text, read)):
        raise Unfit("half-structured", "some answers are texts that spell messages, and others are plain text")
    return read if turned else found


_READERS: dict[str, Callable[[Any, str], Any]] = {
    **dict.fromkeys(_CHATS, _chat),
    **dict.fromkeys(_TEXTS, _messages),
    **dict.fromkeys(_PLAIN, _text),
    **dict.fromkeys(_LISTS, _list),
    "answers": _answers,
    "tree": structure,
}
