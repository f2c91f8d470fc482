"""Which tokens of an answer are trained on: all of them (no mask), or those that a mask names.

An answer of several turns holds what users and tools said in between and the template's headers; the model writes
neither, so they are fed and never scored. An answer of one turn has no mask, and is what it always was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

import numpy as np

Mask: TypeAlias = "np.ndarray | None"  # (tokens,) bool, aligned with the answer; None: every token is trained on
Masks: TypeAlias = "tuple[Mask, ...] | None"  # of several answers; None where none has a mask


def each_mask(masks: Masks, count: int) -> Sequence[Mask]:
    """The masks of `count` answers, one by one. Raises `ValueError` where they are not as many."""
    if masks is not None and len(masks) != count:
        raise ValueError(f"{len(masks)} masks for {count} answers")
    return masks or (None,) * count


def together(masks: Iterable[Mask]) -> Masks:
    """Masks of several answers as one value: None where there is none, so that nothing looks as if it had some."""
    found = tuple(None if mask is None or mask.all() else mask for mask in masks)
    return None if all(mask is None for mask in found) else found


def answer_bytes(answer: np.ndarray, mask: Mask) -> bytes:
    """What makes two answers under one prompt the same: their token ids, and which of them are trained on."""
    if mask is None:
        return answer.tobytes()
    # 17 bytes: no list of four-byte ids is as long
    return hashlib.blake2b(answer.tobytes() + mask.astype(bool).tobytes(), digest_size=17).digest()


def trained_count(answer: np.ndarray, mask: Mask) -> int:
    """How many tokens of an answer are trained on."""
    return len(answer) if mask is None else int(mask.sum())


def cut_right(answer: np.ndarray, mask: Mask, room: int) -> tuple[np.ndarray, Mask]:
    """The answer's first `room` tokens at most. What would be left of a turn that is not trained on goes with the rest:
    nothing comes after it that it could tell of.
    """
    if len(answer) <= room or mask is None:
        return answer[:room], mask if mask is None else mask[:room]
    trained = np.flatnonzero(mask[:room])
    end = int(trained[-1]) + 1 if len(trained) else 0
    return answer[:end], mask[:end]


def first_trained(answer: np.ndarray, mask: Mask, count: int) -> tuple[np.ndarray, Mask]:
    """An answer up to its `count`-th token that is trained on; the whole of it where it has no more."""
    if count >= trained_count(answer, mask):
        return answer, mask
    end = count if mask is None else int(np.flatnonzero(mask)[count - 1]) + 1
    kept = None if mask is None else mask[:end]
    return answer[:end], None if kept is None or kept.all() else kept


def trained_runs(answer: np.ndarray, mask: Mask) -> Iterator[np.ndarray]:
    """What is trained on, as stretches without a gap: the whole answer, or turn by turn."""
    if mask is None:
        yield answer
        return
    steps = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    for start, end in zip(steps[::2].tolist(), steps[1::2].tolist(), strict=True):
        yield answer[start:end]


def gaps_of(masks: Masks) -> Iterator[tuple[int, int, int]]:
    """What is not trained on, as (number of the answer, first token, token behind the last)."""
    for number, mask in enumerate(masks or ()):
        if mask is not None:
            steps = np.flatnonzero(np.diff(np.concatenate([[True], mask, [True]]).astype(np.int8))).tolist()
            yield from ((number, start, end) for start, end in zip(steps[::2], steps[1::2], strict=True))


def with_gaps(lengths: Sequence[int], gaps: Iterable[tuple[int, int, int]]) -> Masks:
    """The masks of answers of these lengths, from the gaps that `gaps_of` found."""
    masks: list[Mask] = [None] * len(lengths)
    for number, start, end in gaps:
        mask = masks[number]
        mask = np.ones(lengths[number], dtype=bool) if mask is None else mask
        mask[start:end] = False
        masks[number] = mask
    return together(masks)
