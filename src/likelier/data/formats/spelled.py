"""Structures that a cell of text spells: JSON, or what Python, pandas and numpy print of lists and objects.

Read by a small parser of its own, since numpy's lists have no commas between objects (`[{...}\n {...}]`) and Python's
would join two texts that stand side by side. Nothing is evaluated: there are lists, objects, texts, numbers and the few
words for nothing and truth.
"""

from __future__ import annotations

import re
from ast import literal_eval
from typing import Any

from likelier.utils.strict_json import BrokenJson, parse_json

_DEEPEST = 64  # lists and objects within one another
_TOKEN = re.compile(
    r"""\s*(?:
    (?P<text>[bBrRuU]?(?:'[^'\\\n]*(?:\\.[^'\\\n]*)*'|"[^"\\\n]*(?:\\.[^"\\\n]*)*"))
    |(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?![\w.])
    |(?P<word>-?[A-Za-z_][\w.]*)
    |(?P<sign>[][{}():,=])
    |(?P<end>\Z)
    )""",
    re.VERBOSE | re.DOTALL,
)
_WORDS: dict[str, Any] = {"None": None, "null": None, "True": True, "true": True, "False": False, "false": False}
_WORDS |= {"nan": None, "NaN": None}  # pandas' word for a cell that is empty


class NotSpelled(ValueError):
    """Text that spells no structure that can be read; says why. `is_prose` where words follow a whole structure."""

    def __init__(self, reason: str, *, is_prose: bool = False) -> None:
        super().__init__(reason)
        self.is_prose = is_prose


def parse_spelled(text: str) -> Any:
    """The list or object that a text spells. Raises `NotSpelled`."""
    stripped = text.strip()
    try:
        return parse_json(stripped)
    except BrokenJson as error:
        as_json = error
    if as_json.line is None and "twice" in as_json.reason:
        raise NotSpelled(as_json.reason)
    try:
        return _Printed(stripped).whole()
    except NotSpelled as error:
        is_json = '"' in stripped[:3] and "..." not in str(error)
        raise NotSpelled(as_json.within_line if is_json else str(error), is_prose=error.is_prose) from error


class _Printed:
    """A structure as Python or numpy prints it."""

    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0
        self._kind, self._token = "", ""
        self._advance()

    def whole(self) -> Any:
        """The one value of the text."""
        value = self._value(0)
        if self._kind != "end":
            raise self._odd("more stands behind its end")
        return value

    def _close(self, depth: int) -> None:
        """Go on behind a list or an object; behind the outermost there must be nothing."""
        rest = self._text[self._at :].lstrip() if depth == 0 else ""
        if rest:
            raise NotSpelled(f"more stands behind its end: {rest[:20]!r}", is_prose=rest[0] not in "[{(,")
        self._advance()

    def _advance(self) -> None:
        found = _TOKEN.match(self._text, self._at)
        if found is None:
            if self._text.startswith("...", self._at) or self._text[self._at :].lstrip().startswith("..."):
                raise NotSpelled("numpy left out its middle (...)")
            raise self._odd("it is cut off or broken")
        self._kind = str(found.lastgroup)
        self._token, self._at = found.group(self._kind), found.end()

    def _odd(self, what: str) -> NotSpelled:
        return NotSpelled(f"{what} at character {self._at + 1}")

    def _value(self, depth: int) -> Any:
        if depth > _DEEPEST:
            raise NotSpelled("it is nested too deeply")
        kind, token = self._kind, self._token
        if kind == "sign" and token in "[({":
            return self._object(depth) if token == "{" else self._list(depth, "]" if token == "[" else ")")
        if kind == "end":
            raise self._odd("it is cut off")
        self._advance()
        if kind == "text":
            return _unquoted(token)
        if kind == "number":
            return _number(token)
        if kind == "word":
            return _WORDS[token] if token in _WORDS else self._called(token, depth)
        raise self._odd(f"{token!r} is out of place")

    def _list(self, depth: int, end: str) -> list[Any]:
        """A list or a tuple; commas may be missing, as numpy prints it."""
        self._advance()
        found: list[Any] = []
        while self._token != end or self._kind != "sign":
            found.append(self._value(depth + 1))
            if (self._kind, self._token) == ("sign", ","):
                self._advance()
        self._close(depth)
        return found

    def _object(self, depth: int) -> dict[Any, Any]:
        self._advance()
        found: dict[Any, Any] = {}
        while (self._kind, self._token) != ("sign", "}"):
            name = self._value(depth + 1)
            self._expect(":")
            if not isinstance(name, str) or name in found:
                raise self._odd(f"the name {name!r} stands twice" if isinstance(name, str) else "a name is no text")
            found[name] = self._value(depth + 1)
            if (self._kind, self._token) != ("sign", "}"):
                self._expect(",")
        self._close(depth)
        return found

    def _expect(self, sign: str) -> None:
        if (self._kind, self._token) != ("sign", sign):
            raise self._odd(f"a {sign!r} is missing" if self._kind != "end" else "it is cut off")
        self._advance()

    def _called(self, name: str, depth: int) -> Any:
        """What numpy prints as a call: `array([...], dtype=object)`, `np.int64(3)`."""
        kind = name.rpartition(".")[2]
        if (self._kind, self._token) != ("sign", "(") or not re.fullmatch(r"array|str_|bool_?|u?int\d*|float\d*", kind):
            raise self._odd(f"{name!r} is no value")
        self._advance()
        value = self._value(depth + 1)
        while (self._kind, self._token) == ("sign", ","):
            self._advance()
            if self._kind != "word" or self._token != "dtype":
                raise self._odd(f"{self._token!r} is out of place")
            self._advance()
            self._expect("=")
            self._advance()  # the name of a kind of number, or its quoted form
        self._expect(")")
        return value


def _unquoted(token: str) -> str:
    """A quoted text, which is all that `literal_eval` is ever given."""
    try:
        value = literal_eval(token)
    except (SyntaxError, ValueError) as error:
        raise NotSpelled("a text in it has a broken escape") from error
    if not isinstance(value, str):
        raise NotSpelled("it holds bytes")
    return value


def _number(token: str) -> int | float:
    try:
        return int(token) if re.fullmatch(r"[-+]?\d+", token) else float(token)
    except ValueError as error:  # Python reads no whole number of more than 4300 digits
        raise NotSpelled("a number in it is too long to be read") from error
