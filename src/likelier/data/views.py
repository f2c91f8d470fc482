"""Many rows as a sequence of which no more than a block is in memory: views of a few that are, or of a file.

What reads rows goes through them in order or names some by their numbers; both take a block at a time from what lies
beneath. A view holds numbers and not rows, so that a shuffle, a split or a choice costs eight bytes a row.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar, overload

import numpy as np

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Values: TypeAlias = "np.ndarray | Several | Sequence[Any]"  # one of each row
BLOCK = 1_024  # rows that are made at a time
IN_MEMORY = 5_000  # rows; a file begins to pay beyond


class Table(Protocol[T_co]):
    """Rows that lie somewhere else."""

    def __len__(self) -> int: ...

    def take(self, numbers: np.ndarray) -> Sequence[T_co]:
        """The rows of these numbers, made now."""
        ...


class View(Sequence[T_co]):
    """Rows that are made when they are looked at. Equal to every other sequence of equal rows."""

    @abstractmethod
    def take(self, numbers: np.ndarray) -> Sequence[T_co]:
        """The rows of these numbers, made now."""

    @overload
    def __getitem__(self, index: int) -> T_co: ...
    @overload
    def __getitem__(self, index: slice) -> View[T_co]: ...
    def __getitem__(self, index: int | slice) -> T_co | View[T_co]:
        if isinstance(index, slice):
            return Chosen(self, np.arange(len(self), dtype=np.int64)[index])
        number = index + len(self) if index < 0 else index
        if not 0 <= number < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return self.take(np.array([number]))[0]

    def __iter__(self) -> Iterator[T_co]:
        for start in range(0, len(self), BLOCK):
            yield from self.take(np.arange(start, min(start + BLOCK, len(self))))

    def __getitems__(self, numbers: Sequence[int]) -> Sequence[T_co]:
        """Several at once, as torch's loaders ask for them."""
        return self.take(np.asarray(numbers, dtype=np.int64))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, (str, bytes)):
            return NotImplemented
        return len(self) == len(other) and all(one == another for one, another in zip(self, other, strict=True))

    def __repr__(self) -> str:
        return f"<{len(self)} rows>"


class Listed(View[T]):
    """Rows in memory."""

    def __init__(self, rows: list[T]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[T]:
        return iter(self._rows)

    def take(self, numbers: np.ndarray) -> list[T]:
        return [self._rows[number] for number in numbers.tolist()]


class Filed(View[T]):
    """Rows in a file."""

    def __init__(self, table: Table[T]) -> None:
        self._table = table

    def __len__(self) -> int:
        return len(self._table)

    def take(self, numbers: np.ndarray) -> Sequence[T]:
        return self._table.take(numbers)


class Chosen(View[T]):
    """Those of these numbers, in this order; one may come several times."""

    def __init__(self, base: View[T], numbers: np.ndarray) -> None:
        self._base, self._numbers = base, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def take(self, numbers: np.ndarray) -> Sequence[T]:
        return self._base.take(self._numbers[numbers])


class Changed(View[T]):
    """What `change` makes of each row whenever it is looked at; of `values`, which have one of each row, it is told
    the row's own.
    """

    def __init__(self, base: View[T], change: Callable[..., T], *values: Values) -> None:
        self._base, self._change, self._values = base, change, values

    def __len__(self) -> int:
        return len(self._base)

    def take(self, numbers: np.ndarray) -> list[T]:
        return list(map(self._change, self._base.take(numbers), *(_told(one, numbers) for one in self._values)))


class Divided(View[T]):
    """What `divide` makes of each row, one after the other: none, one or several."""

    def __init__(self, base: View[T], divide: Callable[[T], Sequence[T]]) -> None:
        self._base, self._divide = base, divide
        counts = np.fromiter((len(divide(row)) for row in base), dtype=np.int32, count=len(base))
        self._numbers = np.repeat(np.arange(len(base)), counts)
        self._which = np.arange(len(self._numbers)) - np.repeat(np.cumsum(counts) - counts, counts)

    def __len__(self) -> int:
        return len(self._numbers)

    def take(self, numbers: np.ndarray) -> list[T]:
        rows, which = self._base.take(self._numbers[numbers]), self._which[numbers].tolist()
        return [self._divide(row)[part] for row, part in zip(rows, which, strict=True)]


class Joined(View[T]):
    """Several one after the other."""

    def __init__(self, parts: Sequence[View[T]]) -> None:
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def take(self, numbers: np.ndarray) -> list[T]:
        owners = np.searchsorted(self._ends, numbers, side="right")
        found: list[Any] = [None] * len(numbers)
        for owner in np.unique(owners).tolist():
            places = np.flatnonzero(owners == owner)
            first = int(self._ends[owner]) - len(self._parts[owner])
            for place, row in zip(places.tolist(), self._parts[owner].take(numbers[places] - first), strict=True):
                found[place] = row
        return found


def by_numbers(rows: Sequence[T], numbers: Iterable[int]) -> Sequence[T]:
    """The rows of these numbers: a view of a view, else a list."""
    if isinstance(rows, View):
        return Chosen(rows, np.fromiter(numbers, dtype=np.int64))
    return [rows[number] for number in numbers]


def joined(*parts: Sequence[T]) -> Sequence[T]:
    """Several sequences of rows one after the other: a view where one of them is, else a list."""
    if any(isinstance(part, View) for part in parts):
        return Joined([as_view(part) for part in parts])
    return [row for part in parts for row in part]


def as_view(rows: Sequence[T]) -> View[T]:
    """The same as a view."""
    return rows if isinstance(rows, View) else Listed(list(rows))


def changed(rows: Sequence[T], change: Callable[..., T], *values: Values) -> Sequence[T]:
    """What `change` makes of each row and of its own of the `values`: a view of a view, else a list."""
    if isinstance(rows, View):
        return Changed(rows, change, *values)
    return list(map(change, rows, *(_told(one, np.arange(len(rows))) for one in values)))


class Several:
    """As many numbers as there are for each row, in one array: `counts` says how many."""

    def __init__(self, flat: np.ndarray, counts: Sequence[int] | np.ndarray) -> None:
        self._even = int(counts[0]) if len(counts) and np.ptp(counts) == 0 else None
        self._flat = flat if self._even is None else flat.reshape(-1, self._even)
        self._ends = np.zeros(0) if self._even is not None else np.concatenate([[0], np.cumsum(counts)])

    def take(self, numbers: np.ndarray) -> list[tuple[Any, ...]]:
        """Those of these rows."""
        if self._even is not None:
            return list(map(tuple, self._flat[numbers].tolist()))
        starts, ends = (self._ends[numbers + past].tolist() for past in (0, 1))
        return [tuple(self._flat[start:end].tolist()) for start, end in zip(starts, ends, strict=True)]


def _told(values: Values, numbers: np.ndarray) -> Sequence[Any]:
    if isinstance(values, np.ndarray):
        return values[numbers].tolist()
    if isinstance(values, (Several, View)):
        return values.take(numbers)
    return [values[number] for number in numbers.tolist()]
