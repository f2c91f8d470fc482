"""What one pass over all records of a file finds out of each: numbers in arrays, so that most checks need no text.

A content is known by 16 bytes of a digest; equal ones get one number, in the order in which they first stand in the
file. Some 120 bytes a record remain.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import overload

import numpy as np

from likelier.data.records import Content, Labelled, Pair, Record, TokenIds, answers_of, spoken_key

PAIR, LABEL, ANSWER = range(3)
UNDECIDED = 1  # of judgements
_SIZE = 16  # bytes of a digest


def text_of(content: Content) -> str:
    """A content as plain text, messages one below the other; token ids as numbers."""
    if isinstance(content, TokenIds):
        return " ".join(map(str, content.ids))
    if isinstance(content, str):
        return content
    return "\n".join(message.content + message.tool_calls for message in content)


def digests_of(record: Record) -> list[bytes]:
    """Of a record's prompt (with its tools) and answers."""
    keys = [spoken_key(content) for content in (record.prompt, *answers_of(record))]
    keys[0] += record.tools
    return [hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=_SIZE).digest() for key in keys]


@dataclass(frozen=True)
class Facts:
    """Of n records.

    `kinds` (n,): PAIR, LABEL or ANSWER. `decided` (n,): a pair that a majority decided (one without votes is).
    `desirable` (n,): a label's thumb. `votes` (n,): a pair with votes. `lengths` (n, 3): characters of the prompt and
    of up to two answers, -1 where there is no second one. `rows` (n,): 64 bits of the row of the file that it is of.
    `digests`: of all contents in order, of which each record has `parts` (n,).
    """

    kinds: np.ndarray
    decided: np.ndarray
    desirable: np.ndarray
    votes: np.ndarray
    lengths: np.ndarray
    rows: np.ndarray
    digests: np.ndarray
    parts: np.ndarray

    @staticmethod
    def of(records: Sequence[Record]) -> Facts:
        """All of it, in one pass."""
        kinds, said, parts, lengths, rows = array("b"), array("b"), array("b"), array("q"), array("q")
        digests = bytearray()
        for record in records:
            pair, label = record if isinstance(record, Pair) else None, record if isinstance(record, Labelled) else None
            kinds.append(PAIR if pair is not None else LABEL if label is not None else ANSWER)
            said.append(pair is not None and pair.is_decided)
            said.append(label is not None and label.desirable)
            said.append(pair is not None and pair.votes is not None)
            own = [len(text_of(content)) for content in (record.prompt, *answers_of(record))]
            lengths.extend([*own, *[-1] * (3 - len(own))])
            rows.append(hash(record.source))
            parts.append(len(own))
            digests += b"".join(digests_of(record))
        decided, desirable, votes = np.asarray(said).reshape(-1, 3).astype(bool).T
        return Facts(
            *(np.asarray(kinds), decided, desirable, votes),
            *(np.asarray(lengths).reshape(-1, 3), np.asarray(rows)),
            *(np.frombuffer(digests, dtype=f"S{_SIZE}"), np.asarray(parts)),
        )

    @cached_property
    def judgements(self) -> np.ndarray:
        """(n,): a number for each thing that a record can say of its answers: the first is better, undecided, ..."""
        labels = np.where(self.kinds == LABEL, 2 + self.desirable, 0)
        return np.where((self.kinds == PAIR) & ~self.decided, UNDECIDED, labels)

    @cached_property
    def contents(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The distinct digests, sorted, the number of each, and the numbers of all contents in order."""
        distinct, first, place = np.unique(self.digests, return_index=True, return_inverse=True)
        number = _ranks(first)
        return distinct, number, number[place]

    @cached_property
    def keys(self) -> Keys:
        """Each record as content numbers: the prompt's, then its answers'."""
        numbers = np.full((len(self.parts), 3), -1, dtype=np.int64)
        numbers[np.arange(3) < self.parts[:, None]] = self.contents[2]
        return Keys(numbers)


class Keys(Sequence[tuple[int, ...]]):
    """Content numbers of many records, as `numbers` (n, 3), of which those that are not there are -1."""

    def __init__(self, numbers: np.ndarray) -> None:
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> tuple[int, ...]: ...
    @overload
    def __getitem__(self, index: slice) -> Keys: ...
    def __getitem__(self, index: int | slice) -> tuple[int, ...] | Keys:
        if isinstance(index, slice):
            return Keys(self.numbers[index])
        return tuple(number for number in self.numbers[index].tolist() if number >= 0)


class Cases:
    """Records by what they judge, in the order in which each case first stands in the file: `numbers` (n,) of records,
    their `keys` (n, k), and on which `sides` (n,) each is, the other one being True.
    """

    def __init__(self, numbers: np.ndarray, keys: np.ndarray, sides: np.ndarray) -> None:
        _, first, place = np.unique(_as_one(keys), return_index=True, return_inverse=True)
        cases = _ranks(first)[place]
        self._keys = keys[np.sort(first)]
        self._numbers = numbers[np.argsort(2 * cases + sides, kind="stable")]
        self.counts = np.stack([np.bincount(cases[side], minlength=len(first)) for side in (~sides, sides)], axis=1)
        self._ends = np.concatenate([[0], np.cumsum(self.counts)])

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def both_ways(self) -> np.ndarray:
        """(cases,) bool: those with records on both sides."""
        return (self.counts[:, 0] > 0) & (self.counts[:, 1] > 0)

    @property
    def prompts(self) -> np.ndarray:
        """(cases,): the number of each one's prompt."""
        return self._keys[:, 0]

    def items(self, which: np.ndarray | None = None) -> Iterator[tuple[tuple[int, ...], tuple[list[int], list[int]]]]:
        """(key, (the records on the one side, those on the other)) of all cases, or of those in a mask `which`."""
        for case in range(len(self)) if which is None else np.flatnonzero(which).tolist():
            start, middle, end = self._ends[2 * case : 2 * case + 3].tolist()
            sides = (self._numbers[start:middle].tolist(), self._numbers[middle:end].tolist())
            yield tuple(self._keys[case].tolist()), sides


def first_of_equal(keys: np.ndarray) -> np.ndarray:
    """(n,): for each row of `keys` (n, k) the first row that is equal."""
    _, first, place = np.unique(_as_one(keys), return_index=True, return_inverse=True)
    return first[place]


def _ranks(first: np.ndarray) -> np.ndarray:
    """For each distinct value, by where it first stands, its number in the order of these places."""
    ranks = np.empty_like(first)
    ranks[np.argsort(first)] = np.arange(len(first))
    return ranks


def _as_one(keys: np.ndarray) -> np.ndarray:
    """Rows of integers as one value each."""
    whole = np.ascontiguousarray(keys, dtype=np.int64)
    return whole.view(np.dtype((np.void, whole.itemsize * whole.shape[1])))[:, 0] if whole.size else np.zeros(0)
