"""Split records by prompt, so that no prompt stands on both sides."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import Protocol, TypeVar

from likelier.data.records import Content, spoken_key
from likelier.utils.errors import DataError


class HasPrompt(Protocol):
    """A record, or a prompt alone."""

    @property
    def prompt(self) -> Content:
        """What is asked."""
        ...


T = TypeVar("T", bound=HasPrompt)


def prompt_key(record: HasPrompt) -> bytes:
    """A short key by which records of the same prompt are recognised."""
    return hashlib.blake2b(spoken_key(record.prompt).encode(), digest_size=16).digest()


def split_by_prompt(records: Sequence[T], fraction: float, seed: int) -> tuple[Sequence[T], Sequence[T]]:
    """(train, held out): whole prompts, drawn by `seed`, until about `fraction` of the records are held out."""
    import numpy as np  # which a command's help does without

    from likelier.data.views import by_numbers

    if not 0 < fraction < 1:
        raise DataError(f"the held-out fraction is {fraction}; it must lie between 0 and 1")
    keys = np.fromiter(map(prompt_key, records), dtype="V16", count=len(records))
    distinct, of_prompt, sizes = np.unique(keys, return_inverse=True, return_counts=True)
    order = list(range(len(distinct)))
    random.Random(seed).shuffle(order)
    before = np.cumsum(sizes[order]) - sizes[order]
    is_held = np.zeros(len(distinct), dtype=bool)
    is_held[np.asarray(order)[before < fraction * len(records)]] = True
    is_held = is_held[of_prompt]
    train, test = (by_numbers(records, np.flatnonzero(side).tolist()) for side in (~is_held, is_held))
    if not train or not test:
        some = "a single prompt" if len(distinct) == 1 else f"{len(distinct)} distinct prompts"
        raise DataError(
            f"the data hold {some}, which cannot be split with a held-out fraction of {fraction} so that both sides "
            "have one; add rows with other prompts, change eval_fraction, or drop it"
        )
    return train, test
