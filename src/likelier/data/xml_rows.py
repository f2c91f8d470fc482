"""Rows of an XML file: every element of one path, with its attributes and children as columns.

Parsed by expat as it comes. Entities that a file declares are refused, not expanded, and nothing outside the file is
read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import IO, Any, TypeAlias
from xml.parsers import expat

from likelier.data.records import Source
from likelier.utils.errors import DataError

Rows: TypeAlias = Iterator[tuple[Source, dict[str, Any]]]

_CHUNK = 1 << 16
_DEEPEST = 200  # elements within each other


@dataclass
class _Element:
    """An element while it is read: its place, attributes, what stands in it in order, and its children by name."""

    name: str
    line: int
    attributes: dict[str, str]
    text: list[str] = field(default_factory=list)
    whole: list[str] = field(default_factory=list)  # with the text of its children
    children: dict[str, list[Any]] = field(default_factory=dict)

    def value(self) -> Any:
        """Its text, or an object of attributes and children, of which several of one name are a list. An element that
        has words between its children is all its text.
        """
        if "".join(self.text).strip() or not self.children:
            text = "".join(self.whole).strip()
            return {**self.attributes, "text": text} if self.attributes else text
        found: dict[str, Any] = {name: many if len(many) > 1 else many[0] for name, many in self.children.items()}
        own = {(f"@{name}" if name in found else name): text for name, text in self.attributes.items()}
        return {**own, **found}


def read_xml(name: str, stream: IO[bytes], records: str | None) -> Rows:
    """A row for every element whose path ends in `records` (`catalog/review`, or `review`), with the line at which it
    begins.

    Raises `DataError` for what is no XML, for declared entities, and where `records` is missing or names no element,
    with the paths that repeat.
    """
    reader = _Reader(name, None if records is None else tuple(records.strip("/").split("/")))
    found = 0
    for chunk in chain(iter(lambda: stream.read(_CHUNK), b""), [b""]):
        for row in reader.fed(chunk):
            found += 1
            yield row
    if not found:
        raise DataError(_which(name, records, reader.paths))


def _which(name: str, records: str | None, paths: Counter[tuple[str, ...]]) -> str:
    repeated = {"/".join(path): count for path, count in paths.most_common() if count > 1 or len(paths) == 1}
    told = ", ".join(f"{path} ({count} times)" for path, count in list(repeated.items())[:6]) or "none"
    head = "which element is a row is not said" if records is None else f"no element has the path {records!r}"
    best = next(iter(repeated), "catalog/item")
    return (
        f"{name}: {head}; elements with parts of their own that repeat: {told}. Say which is a row with records under "
        f"columns (as a flag: --columns records={best})"
    )


class _Reader:
    """The parser's events, made into rows."""

    def __init__(self, name: str, path: tuple[str, ...] | None) -> None:
        self.name, self.path = name, path
        self.open: list[_Element] = []
        self.within = 0  # how many open elements belong to a row
        self.rows: list[tuple[Source, dict[str, Any]]] = []
        self.paths: Counter[tuple[str, ...]] = Counter()
        self.parser = parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        parser.EntityDeclHandler = self._refuse("declares entities, which are not expanded")
        parser.SkippedEntityHandler = self._refuse("uses an entity that it does not hold")
        parser.ExternalEntityRefHandler = self._refuse("refers to another file, which is not read")

    def fed(self, chunk: bytes) -> Rows:
        """The rows that end in this part of the file; an empty one is its end."""
        try:
            self.parser.Parse(chunk, not chunk)
        except expat.ExpatError as error:
            raise DataError(
                f"{self.name}:{error.lineno}: broken XML: {expat.ErrorString(error.code)}; mend it"
            ) from error
        rows, self.rows = self.rows, []
        yield from rows

    def _refuse(self, what: str) -> Callable[..., int]:
        def refuse(*_: Any) -> int:
            line = self.parser.CurrentLineNumber
            raise DataError(f"{self.name}:{line}: the XML {what}; write the text itself instead")

        return refuse

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if len(self.open) >= _DEEPEST:
            raise DataError(f"{self.name}:{self.parser.CurrentLineNumber}: more than {_DEEPEST} elements in each other")
        self.open.append(_Element(name, self.parser.CurrentLineNumber, attributes))
        if self.within or self._is_row():
            self.within += 1

    def _is_row(self) -> bool:
        names = tuple(element.name for element in self.open)
        return self.path is not None and names[-len(self.path) :] == self.path

    def _text(self, text: str) -> None:
        if self.within:
            self.open[-1].text.append(text)
            self.open[-1].whole.append(text)

    def _end(self, _: str) -> None:
        names = tuple(element.name for element in self.open)
        element = self.open.pop()
        if self.open and not self.within:
            self.open[-1].children.setdefault(element.name, [None])
        if element.children or element.attributes:
            self.paths[names] += 1
        if not self.within:
            return
        self.within -= 1
        value = element.value()
        if not self.within:
            row = value if isinstance(value, dict) else {"text": value}
            self.rows.append((Source(self.name, element.line), row))
            return
        self.open[-1].children.setdefault(element.name, []).append(value)
        self.open[-1].whole += element.whole
