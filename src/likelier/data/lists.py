"""Rows of several scored answers: a file's row gives them as pairs, and these are joined again when they are tokens.

So an answer that is too long takes itself out of its row and not the others, and tokens are cached as for other
methods.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from math import isfinite
from statistics import fmean
from typing import Any, TypeAlias

import numpy as np

from likelier.data.groups import Group, Ids
from likelier.data.masks import Mask, answer_bytes, each_mask, together
from likelier.data.records import Pair, Record, answers_of, content_key
from likelier.data.tokenize import Tokenized
from likelier.utils.errors import DataError

Key: TypeAlias = "tuple[Any, ...]"


def require_scores(records: Sequence[Record], method: str) -> None:
    """Raises `DataError` for the first row that is no pair with two scores."""
    for record in records:
        scores = record.scores if isinstance(record, Pair) else None
        if scores is None:
            raise DataError(
                f"{record.source}: {method} learns from answers with scores, and this row has none; give the columns "
                "prompt, answers and scores, or chosen, rejected, score_chosen and score_rejected"
            )
        if not all(map(isfinite, scores)):
            raise DataError(
                f"{record.source}: {method} learns from scores, and {scores[0]:g} and {scores[1]:g} are not two "
                "numbers; mend the row"
            )


def pairs_by_row(pairs: Sequence[Record]) -> list[list[Record]]:
    """The pairs of each row of scored answers."""
    rows: dict[Key, list[Record]] = {}
    for row, pair in zip(_rows_of(pairs), pairs, strict=True):
        rows.setdefault(row, []).append(pair)
    return list(rows.values())


def answers_in(row: Iterable[Record]) -> int:
    """How many answers the pairs of a row are made of."""
    return len({content_key(answer) for pair in row for answer in answers_of(pair)})


def in_lists(tokenized: Tokenized, pairs: Sequence[Record]) -> None:
    """Join the groups of `pairs`, one each, to groups of all scored answers of a row; in place."""
    rows: dict[Key, list[tuple[Group, Record, int]]] = {}
    own = zip(tokenized.groups, pairs, tokenized.kept, strict=True)
    for row, one in zip(_rows_of(pairs), own, strict=True):
        rows.setdefault(row, []).append(one)
    tokenized.groups = [_joined([(group, pair) for group, pair, _ in own]) for own in rows.values()]
    tokenized.kept = [own[0][2] for own in rows.values()]


def _rows_of(pairs: Iterable[Record]) -> Iterator[Key]:
    """Which row each pair is of: of the file, and there of one prompt (a tree of messages has several). A data set of
    weight 2 has each row twice, and it remains two rows.
    """
    times: Counter[Key] = Counter()
    for pair in pairs:
        row = (pair.source, content_key(pair.prompt))
        same = (*row, *map(content_key, answers_of(pair)), getattr(pair, "scores", None))
        times[same] += 1
        yield (*row, times[same])


def _joined(own: Sequence[tuple[Group, Record]]) -> Group:
    """One group of all answers, the best first; an answer that was scored twice has the mean."""
    first = min((group for group, _ in own), key=lambda group: len(group.prompt))
    answers: dict[bytes, tuple[Ids, Mask, list[float]]] = {}
    for group, pair in own:
        scores = (pair.scores if isinstance(pair, Pair) else None) or ()
        for (answer, mask), score in zip(_behind(first.prompt, group), scores, strict=True):
            answers.setdefault(answer_bytes(answer, mask), (answer, mask, []))[2].append(score)
    ordered = sorted(answers.values(), key=lambda one: -fmean(one[2]))
    return replace(
        first,
        answers=tuple(answer for answer, _, _ in ordered),
        masks=together(mask for _, mask, _ in ordered),
        scores=tuple(fmean(scores) for _, _, scores in ordered),
        weight=fmean(group.weight for group, _ in own),
        given_ref_logps=None,
    )


def _behind(prompt: Ids, group: Group) -> Iterator[tuple[Ids, Mask]]:
    """The answers of a pair as they follow the row's shortest prompt: where that ends before the pair's own, because a
    token of another answer merges with its end, they begin there. (Where it begins later, it was cut.)
    """
    longer = len(group.prompt) - len(prompt)
    moved = group.prompt[len(prompt) :] if longer and np.array_equal(group.prompt[: len(prompt)], prompt) else None
    for answer, mask in zip(group.answers, each_mask(group.masks, len(group.answers)), strict=True):
        if moved is None:
            yield answer, mask
        else:
            yield np.concatenate([moved, answer]), None if mask is None else np.concatenate([moved >= 0, mask])
