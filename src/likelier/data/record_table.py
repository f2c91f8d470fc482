"""Records in an Arrow file that is mapped into memory: what takes room in a process is what is looked at.

A record is a row: what kind it is, its contents, where it came from, and as JSON what else the data say of it, where
they say anything. Contents are bytes of which the first tells text, messages and token ids apart; messages and ids are
JSON, so that nothing is padded. The file loses its name as soon as it is mapped: it goes when the process does, however
that ends.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Final
from uuid import uuid4

import numpy as np

from likelier.data.records import Content, Demonstration, Labelled, Message, Pair, Record, Source, TokenIds
from likelier.utils.console import warn
from likelier.utils.errors import writing
from likelier.utils.files import cache_folder, make_folder, refuse_link

ROWS: Final = 2_048  # of a batch of the file
_TEXT, _MESSAGES, _IDS = b"t", b"m", b"i"
_PAIR, _UP, _DOWN, _DEMONSTRATION = range(4)
_COMMON = {"weight": 1.0, "tools": ""}
_MORE: dict[int, dict[str, Any]] = {  # what a record of each kind may say besides, with what it says if it says nothing
    _PAIR: _COMMON
    | {"ref_logps": None, "votes": None, "flip_chance": None, "margin": None, "scores": None, "judge": ""},
    _UP: _COMMON | {"judge": ""},
    _DOWN: _COMMON | {"judge": ""},
    _DEMONSTRATION: _COMMON,
}
_TEXTS, _NUMBERS = ("prompt", "first", "second", "more"), ("kind", "source", "number")
_Places = dict[tuple[str, str, str], int]  # file, unit and data set of a `Source`


def folder_of_rows() -> Path | None:
    """Where files of records go; None, with a warning, where nothing can be written there."""
    folder = cache_folder() / "rows"
    try:
        make_folder(folder)
        refuse_link(folder)
        TemporaryFile(dir=folder).close()
    except OSError as error:
        warn(f"{folder}: rows cannot be kept there, and stay in memory: {error.strerror or error}")
        return None
    return folder


class RecordTable:
    """Records by their numbers."""

    def __init__(self, table: Any, places: _Places) -> None:
        self._table, self._places = table, list(places)
        self._batches: dict[int, _Batch] = {}

    @staticmethod
    def written(records: Iterable[Record], folder: Path) -> RecordTable:
        """The records in a file of their own in `folder`. Raises `ConfigError` where it cannot be written."""
        import pyarrow as pa  # a tenth of a second, which a few records do without

        path, places = folder / f"{uuid4().hex}.arrow", _Places()
        schema = pa.schema([(name, pa.large_binary()) for name in _TEXTS] + [(name, pa.int64()) for name in _NUMBERS])
        mend = "make room there, or name another folder with LIKELIER_CACHE"
        with writing(f"the rows, in {folder}", mend=mend):
            try:
                with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as file:
                    stream = iter(records)
                    while rows := [_row(record, places) for record in islice(stream, ROWS)]:
                        columns = zip(zip(*rows, strict=True), schema.types, strict=True)
                        file.write_batch(pa.record_batch([pa.array(*one) for one in columns], schema=schema))
                table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
            finally:
                path.unlink(missing_ok=True)
        return RecordTable(table, places)

    def __len__(self) -> int:
        return self._table.num_rows

    def take(self, numbers: np.ndarray) -> list[Record]:
        """The records of these numbers."""
        return [self._batch(number // ROWS).record(number % ROWS, self._places) for number in numbers.tolist()]

    def _batch(self, number: int) -> _Batch:
        if number not in self._batches:
            self._batches[number] = _Batch(self._table, number)
        return self._batches[number]


class _Batch:
    """Some rows of the file, as it is mapped."""

    def __init__(self, table: Any, number: int) -> None:
        chunks = [table.column(name).chunk(number).buffers() for name in _TEXTS]
        self._texts = [(np.frombuffer(ends, dtype=np.int64), memoryview(data or b"")) for _, ends, data in chunks]
        self._kinds, self._sources, self._numbers = (
            np.frombuffer(table.column(name).chunk(number).buffers()[1], dtype=np.int64) for name in _NUMBERS
        )

    def record(self, row: int, places: Sequence[tuple[str, str, str]]) -> Record:
        """The record in this row of the batch."""
        prompt, first, second, more = (data[ends[row] : ends[row + 1]] for ends, data in self._texts)
        file, unit, data_set = places[self._sources[row]]
        source, kind = Source(file, int(self._numbers[row]), unit, data_set), self._kinds[row]
        said = _said(more) if len(more) else {}
        if kind == _PAIR:
            return Pair(_content(prompt), _content(first), _content(second), source, **said)
        if kind == _DEMONSTRATION:
            return Demonstration(_content(prompt), _content(first), source, **said)
        return Labelled(_content(prompt), _content(first), bool(kind == _UP), source, **said)


def _row(record: Record, places: _Places) -> tuple[Any, ...]:
    """A record as the file's columns; what there is not is empty."""
    source = record.source
    place = places.setdefault((source.file, source.unit, source.data_set), len(places))
    if isinstance(record, Pair):
        kind, first, second = _PAIR, _bytes(record.chosen), _bytes(record.rejected)
    else:
        labelled = isinstance(record, Labelled)
        kind = (_UP if record.desirable else _DOWN) if labelled else _DEMONSTRATION
        first, second = _bytes(record.answer), b""
    said = {name: getattr(record, name) for name, silent in _MORE[kind].items() if getattr(record, name) != silent}
    more = json.dumps(said).encode() if said else b""
    return _bytes(record.prompt), first, second, more, kind, place, source.number


def _said(more: memoryview) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in json.loads(bytes(more)).items()}


def _bytes(content: Content) -> bytes:
    if isinstance(content, str):
        return _TEXT + content.encode("utf-8", "surrogatepass")
    if isinstance(content, TokenIds):
        return _IDS + json.dumps(content.ids).encode()
    turns = [(one.role, one.content, one.tool_calls, one.fields) for one in content]
    return _MESSAGES + json.dumps(turns, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _content(found: memoryview) -> Content:
    kind, text = found[0], str(found[1:], "utf-8", "surrogatepass")
    if kind == _TEXT[0]:
        return text
    if kind == _IDS[0]:
        return TokenIds(tuple(json.loads(text)))
    return tuple(Message(*turn) for turn in json.loads(text))
