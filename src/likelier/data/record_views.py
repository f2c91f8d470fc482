"""Many records as a sequence of which no more than a block is in memory: views of a few that are, or of a file.

What reads records goes through them in order or names some by their numbers; both take a block at a time from what
lies beneath. A view holds numbers and not records, so that a shuffle, a split or a choice costs eight bytes a row.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, TypeVar, cast, overload

import numpy as np

from likelier.data.record_table import RecordTable, folder_of_rows
from likelier.data.records import Record

T = TypeVar("T")
IN_MEMORY = 5_000  # records; a file begins to pay beyond
BLOCK = 1_024  # records that are made at a time


class Records(Sequence[Record]):
    """Records that are made when they are looked at. Equal to every other sequence of equal records."""

    @abstractmethod
    def take(self, numbers: np.ndarray) -> list[Record]:
        """The records of these numbers, made now."""

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Records: ...
    def __getitem__(self, index: int | slice) -> Record | Records:
        if isinstance(index, slice):
            return Chosen(self, np.arange(len(self), dtype=np.int64)[index])
        number = index + len(self) if index < 0 else index
        if not 0 <= number < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        return self.take(np.array([number]))[0]

    def __iter__(self) -> Iterator[Record]:
        for start in range(0, len(self), BLOCK):
            yield from self.take(np.arange(start, min(start + BLOCK, len(self))))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, (str, bytes)):
            return NotImplemented
        return len(self) == len(other) and all(one == another for one, another in zip(self, other, strict=True))

    def __repr__(self) -> str:
        return f"<{len(self)} records>"


class Listed(Records):
    """Records in memory."""

    def __init__(self, records: list[Record]) -> None:
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records)

    def take(self, numbers: np.ndarray) -> list[Record]:
        return [self._records[number] for number in numbers.tolist()]


class Filed(Records):
    """Records in a file."""

    def __init__(self, table: RecordTable) -> None:
        self._table = table

    def __len__(self) -> int:
        return len(self._table)

    def take(self, numbers: np.ndarray) -> list[Record]:
        return self._table.take(numbers)


class Chosen(Records):
    """Those of these numbers, in this order; one may come several times."""

    def __init__(self, base: Records, numbers: np.ndarray) -> None:
        self._base, self._numbers = base, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def take(self, numbers: np.ndarray) -> list[Record]:
        return self._base.take(self._numbers[numbers])


class Changed(Records):
    """What `change` makes of each record whenever it is looked at."""

    def __init__(self, base: Records, change: Callable[[Record], Record]) -> None:
        self._base, self._change = base, change

    def __len__(self) -> int:
        return len(self._base)

    def take(self, numbers: np.ndarray) -> list[Record]:
        return list(map(self._change, self._base.take(numbers)))


class Divided(Records):
    """What `divide` makes of each record, one after the other: none, one or several."""

    def __init__(self, base: Records, divide: Callable[[Record], Sequence[Record]]) -> None:
        self._base, self._divide = base, divide
        counts = np.fromiter((len(divide(record)) for record in base), dtype=np.int32, count=len(base))
        self._numbers = np.repeat(np.arange(len(base)), counts)
        self._which = np.arange(len(self._numbers)) - np.repeat(np.cumsum(counts) - counts, counts)

    def __len__(self) -> int:
        return len(self._numbers)

    def take(self, numbers: np.ndarray) -> list[Record]:
        records, which = self._base.take(self._numbers[numbers]), self._which[numbers].tolist()
        return [self._divide(record)[part] for record, part in zip(records, which, strict=True)]


class Joined(Records):
    """Several one after the other."""

    def __init__(self, parts: Sequence[Records]) -> None:
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def take(self, numbers: np.ndarray) -> list[Record]:
        owners = np.searchsorted(self._ends, numbers, side="right")
        found: list[Any] = [None] * len(numbers)
        for owner in np.unique(owners).tolist():
            places = np.flatnonzero(owners == owner)
            first = int(self._ends[owner]) - len(self._parts[owner])
            for place, record in zip(places.tolist(), self._parts[owner].take(numbers[places] - first), strict=True):
                found[place] = record
        return found


def as_records(records: Iterable[Record]) -> Records:
    """The same as `Records`; of an iterator those beyond the first few are put into a file as they come."""
    if isinstance(records, Records):
        return records
    if isinstance(records, Sequence):
        return Listed(list(records))
    stream = iter(records)
    first = list(islice(stream, IN_MEMORY + 1))
    folder = folder_of_rows() if len(first) > IN_MEMORY else None
    return Listed([*first, *stream]) if folder is None else Filed(RecordTable.written(chain(first, stream), folder))


def by_numbers(records: Sequence[T], numbers: Iterable[int]) -> Sequence[T]:
    """The records of these numbers, or whatever they are: a view of `Records`, else a list."""
    if isinstance(records, Records):
        return cast("Sequence[T]", Chosen(records, np.fromiter(numbers, dtype=np.int64)))
    return [records[number] for number in numbers]


def joined(*parts: Sequence[Record]) -> Records:
    """Several sequences of records one after the other."""
    return Joined([as_records(part) for part in parts])
