"""Chat markup inside the texts of rows, and what a tokenizer makes of it.

A text may spell what a chat template writes around turns: it went through a template before, it quotes one, or its
author wants to begin a turn of somebody else's. Where the tokenizer has such a token, the model sees that token and not
its letters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from likelier.data.ends import USUAL_MARKS, Ends
from likelier.data.records import Content, Record, Source, answers_of

_UNKNOWN = "is a control token or plain text, as the model's tokenizer has it (--model tells)"
_PLAIN = "is plain text for this tokenizer, which the model reads and learns by its letters"
_CLOSES = "ends the answer, and no other end is put behind it"
_SHOWN = 3


@dataclass
class Markup:
    """The marks that texts of some rows hold, each with what it does; `rows` tells where."""

    effects: dict[str, str] = field(default_factory=dict)
    rows: dict[int, tuple[str, ...]] = field(default_factory=dict)
    first: dict[str, tuple[Source, str]] = field(default_factory=dict)  # row and part of it, for each mark

    @property
    def is_harmless(self) -> bool:
        """Whether there are only ends where answers end."""
        return all(effect == _CLOSES for effect in self.effects.values())

    def in_words(self) -> str:
        """The first few marks, where they stand first, and what they do."""
        told = []
        for key, effect in list(self.effects.items())[:_SHOWN]:
            source, part = self.first[key]
            told.append(f"{key.removesuffix(_AT_END)} in {part} ({source}) {effect}")
        more = len(self.effects) - _SHOWN
        return "; ".join(told) + (f"; and {more} more" if more > 0 else "")

    def counts(self) -> dict[str, dict[str, Any]]:
        """For each mark in how many rows it stands, and what it does there."""
        return {
            key: {"rows": sum(key in keys for keys in self.rows.values()), "does": effect}
            for key, effect in self.effects.items()
        }


def find_markup(records: Iterable[Record], tokenizer: Any = None) -> Markup:
    """Chat markup in the texts of records: every control token of the tokenizer, and the usual marks of others."""
    look = _Look(tokenizer)
    found = Markup()
    for number, record in enumerate(records):
        keys = {}
        for key, part, effect in look.at(record):
            keys[key] = None
            found.effects.setdefault(key, effect)
            found.first.setdefault(key, (record.source, part))
        if keys:
            found.rows[number] = tuple(keys)
    return found


_AT_END = " (at the end)"


class _Look:
    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.ends = None if tokenizer is None else Ends(tokenizer)
        control = self.ends.control.values() if self.ends else ()
        own = sorted({token for token in control if token.strip()}, key=len, reverse=True)
        self.pattern = re.compile("|".join([*map(re.escape, own), USUAL_MARKS]))
        self.effects: dict[str, str] = {}
        self.tokens: dict[str, int | None] = {}
        self.rendered, self.behind = ("", "") if tokenizer is None else _a_rendered_talk(tokenizer)

    def at(self, record: Record) -> Iterator[tuple[str, str, str]]:
        """Each mark with the part of the record that holds it and what it does."""
        for part, text in (*_texts(record.prompt, "the prompt"), ("the tools", record.tools)):
            for mark in self.pattern.findall(text):
                yield mark, part, self.effect(mark)
        for number, answer in enumerate(answers_of(record)):
            name = ("the chosen answer", "the rejected answer")[number] if len(answers_of(record)) > 1 else "the answer"
            for part, text in _texts(answer, name):
                yield from self.in_answer(text, part, closes=isinstance(answer, str))

    def in_answer(self, text: str, part: str, *, closes: bool) -> Iterator[tuple[str, str, str]]:
        """The same of an answer; an end with which a plain text closes is none inside it."""
        length = len(text.rstrip())
        for found in self.pattern.finditer(text):
            mark = found.group()
            if closes and found.end() == length and self.ends and self.token(mark) in self.ends.ids:
                yield mark + _AT_END, part, _CLOSES
            else:
                yield mark, part, self.effect(mark)

    def token(self, mark: str) -> int | None:
        """The control token that the tokenizer makes of a mark inside a text."""
        if mark not in self.tokens:
            assert self.ends is not None
            ids = self.tokenizer(f"a {mark} a", add_special_tokens=False)["input_ids"]
            same = (token for token in ids if self.ends.control.get(token, "").strip() == mark.strip())
            self.tokens[mark] = next(same, None)
        return self.tokens[mark]

    def effect(self, mark: str) -> str:
        if mark not in self.effects:
            self.effects[mark] = self._effect(mark)
        return self.effects[mark]

    def _effect(self, mark: str) -> str:
        if self.ends is None:
            return _UNKNOWN
        token = self.token(mark)
        if token is None:
            return _PLAIN
        return f"is tokenized as the control token {token}: {self._does(mark, token, self.ends)}"

    def _does(self, mark: str, token: int, ends: Ends) -> str:
        if token in ends.ids or mark in self.behind:
            return "ends a turn inside the text"
        if token == self.tokenizer.bos_token_id and self.rendered.count(mark) < 2:
            return "begins a text anew"
        return "begins a turn inside the text" if mark in self.rendered else "the model does not see its letters"


def _a_rendered_talk(tokenizer: Any) -> tuple[str, str]:
    """What the chat template writes around two turns, and what of it behind the answer; empty without a template."""
    ask, answer = ({"role": role, "content": text} for role, text in (("user", "zq1"), ("assistant", "zq2")))
    with suppress(Exception):  # one that refuses this or is none: its rows are told of where they are rendered
        text = str(tokenizer.apply_chat_template([ask, answer], tokenize=False))
        return text, text.rpartition("zq2")[2]
    return "", ""


def _texts(content: Content, name: str) -> Iterator[tuple[str, str]]:
    """The texts of a part of a record, each with words for where it stands."""
    if isinstance(content, str):
        yield name, content
    elif isinstance(content, tuple):
        for number, message in enumerate(content, 1):
            where = f"message {number} ({message.role}) of {name}"
            for text in (message.content, message.tool_calls, message.fields):
                if text:
                    yield where, text
