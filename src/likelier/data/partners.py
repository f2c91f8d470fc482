"""KTO's mismatched answers: every labelled row gets the answer of another row, once and for all.

A seeded derangement over the whole data set: each row's answer serves exactly one other row, never under the same
prompt, never the same text. It is fixed by the data's hash, so it does not depend on batch size, order or seed, and the
reference's score of a mismatched answer can be stored.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import replace

from likelier.data.tokenize import Group
from likelier.errors import DataError


def data_hash(groups: Sequence[Group]) -> str:
    """A hash of every token of the data set, and of its labels, in order."""
    digest = hashlib.blake2b(digest_size=16)
    for group in groups:
        digest.update(group.prompt.tobytes() + b"|" + str(group.desirable).encode())
        for answer in group.answers:
            digest.update(b"|" + answer.tobytes())
        digest.update(b"\n")
    return digest.hexdigest()


def derangement(groups: Sequence[Group], seed: str) -> list[int]:
    """For each group the number of the group whose first answer is its partner (a permutation).

    Raises `DataError` where no such arrangement is found, e.g. with a single prompt.
    """
    rng = random.Random(seed)
    prompts = [group.prompt.tobytes() for group in groups]
    answers = [group.answers[0].tobytes() for group in groups]

    def fits(row: int, partner: int) -> bool:
        return prompts[row] != prompts[partner] and answers[row] != answers[partner]

    order = list(range(len(groups)))
    rng.shuffle(order)
    partner = [0] * len(groups)
    for here, there in zip(order, order[1:] + order[:1], strict=True):
        partner[here] = there
    for row in order:
        if not fits(row, partner[row]):
            _swap(row, partner, fits, rng)
    return partner


def _swap(row: int, partner: list[int], fits, rng: random.Random) -> None:  # type: ignore[no-untyped-def]
    """Exchange partners with the first row, from a random start, for which both then fit."""
    count = len(partner)
    start = rng.randrange(count)
    for step in range(count):
        other = (start + step) % count
        if fits(row, partner[other]) and fits(other, partner[row]):
            partner[row], partner[other] = partner[other], partner[row]
            return
    raise DataError(
        "KTO's baseline needs, for every row, an answer to another prompt, and these data have too few different "
        "prompts or answers for that. Add rows with other prompts, or use pairs with DPO"
    )


def with_partners(groups: Sequence[Group], max_length: int) -> list[Group]:
    """The labelled groups with their mismatched answer appended, cut on the right where prompt + answer is too long."""
    partner = derangement(groups, data_hash(groups))
    joined = []
    for group, number in zip(groups, partner, strict=True):
        room = max_length - len(group.prompt)
        joined.append(replace(group, answers=(group.answers[0], groups[number].answers[0][:room])))
    return joined
