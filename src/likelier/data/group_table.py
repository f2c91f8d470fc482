"""Groups of tokens as a few numbers each: where their ids lie in one long array, which the token cache maps from disk.

What a row says besides its tokens (label, weight, margin, ...) takes room only from the first row on that says it.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from likelier.data.groups import Group
from likelier.data.masks import Masks, gaps_of, with_gaps
from likelier.data.records import Source
from likelier.data.views import Filed, Several

_SAYS_NOTHING = {"desirable": None, "weight": 1.0, "margin": None, "flip_chance": None}


class GroupColumns:
    """Groups that are collected one by one. Their ids are pieces of `ids`, one array of int32; they have no scores of
    the reference yet, and of scored answers there is no list.
    """

    def __init__(self, ids: np.ndarray) -> None:
        self._ids, self._base = ids, _address(ids)
        self._places: dict[tuple[str, str, str], int] = {}
        self._place, self._number = array("i"), array("q")
        self._counts, self._starts, self._lengths = array("i"), array("q"), array("i")  # the prompt, then its answers
        self._said = {name: _Said(silent) for name, silent in _SAYS_NOTHING.items()}
        self._given = (_Said(None), _Said(None))
        self._gaps = array("q")

    def append(self, group: Group) -> None:
        """One more. Raises `ValueError` where its ids lie elsewhere, or where it holds what there is no column for."""
        if group.ref_logps or group.ref_head_logps or group.scores or len(group.given_ref_logps or (0, 0)) != 2:
            raise ValueError(f"{group.source}: a group with scores cannot be kept as numbers")
        source = group.source
        self._gaps.extend(one for gap in gaps_of(group.masks) for one in (len(self._counts), *gap))
        self._place.append(self._places.setdefault((source.file, source.unit, source.data_set), len(self._places)))
        self._number.append(source.number)
        self._counts.append(1 + len(group.answers))
        for part in (group.prompt, *group.answers):
            self._starts.append(self._start(part))
            self._lengths.append(len(part))
        for name, column in self._said.items():
            column.append(getattr(group, name))
        for column, value in zip(self._given, group.given_ref_logps or (None, None), strict=True):
            column.append(value)

    def _start(self, part: np.ndarray) -> int:
        start = (_address(part) - self._base) // self._ids.itemsize
        if part.dtype != self._ids.dtype or not 0 <= start <= len(self._ids) - len(part):
            raise ValueError("these token ids are no piece of the array that groups are kept by")
        return start

    def groups(self) -> Filed[Group]:
        """All of them."""
        return Filed(_GroupTable(self._ids, self._parts(), self._sources(), self._says(), self._masks_of()))

    def _parts(self) -> tuple[Several, Several]:
        counts = np.asarray(self._counts)
        return Several(np.asarray(self._starts), counts), Several(np.asarray(self._lengths), counts)

    def _sources(self) -> tuple[Sequence[tuple[str, str, str]], np.ndarray, np.ndarray]:
        return list(self._places), np.asarray(self._place), np.asarray(self._number)

    def _says(self) -> dict[str, Any]:
        both = {"given_ref_logps": self._given} if self._given[0].is_said else {}
        return {name: column for name, column in self._said.items() if column.is_said} | both

    def _masks_of(self) -> np.ndarray:
        return np.asarray(self._gaps).reshape(-1, 4)


class _Said:
    """One number of each row, or what it is where a row says nothing."""

    def __init__(self, silent: float | None) -> None:
        self._silent, self._rows = silent, 0
        self._values, self._known = array("d"), array("b")

    @property
    def is_said(self) -> bool:
        """Whether some row says it."""
        return bool(self._known)

    def append(self, value: float | None) -> None:
        """The next row's."""
        self._rows += 1
        if value == self._silent and not self._known:
            return
        missing = self._rows - 1 - len(self._known)
        self._values.extend([0.0] * missing)
        self._known.extend([0] * missing)
        self._values.append(0.0 if value is None else value)
        self._known.append(value is not None)

    def take(self, numbers: np.ndarray) -> list[float | None]:
        """Those of these rows."""
        values, known = np.asarray(self._values)[numbers], np.asarray(self._known)[numbers]
        both = zip(values.tolist(), known.tolist(), strict=True)
        return [value if is_known else self._silent for value, is_known in both]


class _GroupTable:
    """Groups by their numbers."""

    def __init__(
        self,
        ids: np.ndarray,
        parts: tuple[Several, Several],
        sources: tuple[Sequence[tuple[str, str, str]], np.ndarray, np.ndarray],
        says: dict[str, Any],
        gaps: np.ndarray,
    ) -> None:
        self._ids, self._says, self._gaps = ids, says, gaps
        self._starts, self._lengths = parts
        self._places, self._place, self._number = sources

    def __len__(self) -> int:
        return len(self._number)

    def take(self, numbers: np.ndarray) -> list[Group]:
        """The groups of these numbers."""
        ids = self._ids
        starts, lengths = self._starts.take(numbers), self._lengths.take(numbers)
        said = list(zip(*(self._said(name, numbers) for name in self._says), strict=True)) or [()] * len(numbers)
        rows = zip(starts, lengths, self._sources(numbers), self._masks(numbers, lengths), said, strict=True)
        found = []
        for start, length, source, masks, says in rows:
            prompt, *answers = (ids[at : at + count] for at, count in zip(start, length, strict=True))
            more = dict(zip(self._says, says, strict=True))
            found.append(Group(prompt, tuple(answers), source, masks=masks, **more))
        return found

    def _said(self, name: str, numbers: np.ndarray) -> Sequence[Any]:
        column = self._says[name]
        if name == "given_ref_logps":
            first, second = (one.take(numbers) for one in column)
            return [None if one is None else (one, other) for one, other in zip(first, second, strict=True)]
        found = column.take(numbers)
        return [one if one is None else bool(one) for one in found] if name == "desirable" else found

    def _sources(self, numbers: np.ndarray) -> Iterator[Source]:
        for place, number in zip(self._place[numbers].tolist(), self._number[numbers].tolist(), strict=True):
            file, unit, data_set = self._places[place]
            yield Source(file, number, unit, data_set)

    def _masks(self, numbers: np.ndarray, lengths: Sequence[tuple[int, ...]]) -> Iterator[Masks]:
        if not len(self._gaps):
            yield from [None] * len(numbers)
            return
        first, last = (np.searchsorted(self._gaps[:, 0], numbers, side=side) for side in ("left", "right"))
        for begin, end, length in zip(first.tolist(), last.tolist(), lengths, strict=True):
            yield with_gaps(length[1:], self._gaps[begin:end, 1:].tolist()) if end > begin else None


def _address(ids: np.ndarray) -> int:
    return ids.__array_interface__["data"][0]
