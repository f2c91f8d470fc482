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


def split_by_prompt(records: Sequence[T], fraction: float, seed: int) -> tuple[list[T], list[T]]:
    """(train, held out): whole prompts, drawn by `seed`, until about `fraction` of the records are held out."""
    if not 0 < fraction < 1:
        raise DataError(f"the held-out fraction is {fraction}; it must lie between 0 and 1")
    keys = [prompt_key(record) for record in records]
    prompts = sorted(set(keys))
    random.Random(seed).shuffle(prompts)
    sizes: dict[bytes, int] = {}
    for key in keys:
        sizes[key] = sizes.get(key, 0) + 1
    held: set[bytes] = set()
    count = 0
    for key in prompts:
        if count >= fraction * len(records):
            break
        held.add(key)
        count += sizes[key]
    train = [record for record, key in zip(records, keys, strict=True) if key not in held]
    test = [record for record, key in zip(records, keys, strict=True) if key in held]
    if not train or not test:
        some = "a single prompt" if len(prompts) == 1 else f"{len(prompts)} distinct prompts"
        raise DataError(
            f"the data hold {some}, which cannot be split with a held-out fraction of {fraction} so that both sides "
            "have one; add rows with other prompts, change eval_fraction, or drop it"
        )
    return train, test
