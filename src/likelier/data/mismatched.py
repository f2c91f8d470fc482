"""KTO's mismatched answers: every labelled row gets the answer of another row, once and for all.

A seeded derangement over the whole data set: each row's answer serves exactly one other row, never under the same
prompt, never the same text. It is fixed by the data's hash, so it does not depend on batch size, order or seed, and the
reference's score of a mismatched answer can be stored.
"""

from __future__ import annotations

import hashlib
import random
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from likelier.data.groups import Group, ids_key
from likelier.data.masks import cut_right, each_mask, together
from likelier.data.views import by_numbers, changed
from likelier.utils.errors import DataError

Fits = Callable[[int, int], bool]
_SILENT = (1.0, None, None)
_DRAWS = 100  # a row that fits is nearly always drawn; a scan could pass a long run of rows of one prompt
_ATTEMPTS = 20  # exchanges of two cannot mend every cycle; another random one nearly always can be mended


def data_hash(groups: Sequence[Group]) -> str:
    """A hash of the data set: its tokens and labels, and what is in use of weights, margins, soft labels and scores."""
    tokens = token_hash(groups)
    digest = hashlib.blake2b(tokens.encode(), digest_size=16)
    said = {(group.scores is None, (group.weight, group.margin, group.flip_chance) == _SILENT) for group in groups}
    if any(not has_none for has_none, _ in said):
        _add_list(digest, (group.scores for group in groups))
    elif all(is_silent for _, is_silent in said):
        return tokens
    _add_list(digest, ((group.weight, group.margin, group.flip_chance) for group in groups))
    return digest.hexdigest()


def _add_list(digest: Any, values: Iterable[object]) -> None:
    """As a list is printed, which would be long."""
    digest.update(b"|[")
    for number, value in enumerate(values):
        digest.update(f"{', ' if number else ''}{value!r}".encode())
    digest.update(b"]")


def token_hash(groups: Sequence[Group]) -> str:
    """A hash of every token of the data set, and of its labels, in order."""
    digest = hashlib.blake2b(digest_size=16)
    for group in groups:
        digest.update(group.prompt.tobytes() + b"|" + str(group.desirable).encode())
        for key in group.answer_keys:
            digest.update(b"|" + key)
        digest.update(b"\n")
    return digest.hexdigest()


def derangement(groups: Sequence[Group], seed: str) -> Sequence[int]:
    """For each group the number of the group whose first answer is its partner (a permutation).

    Raises `DataError` where no such arrangement is found, e.g. with a single prompt.
    """
    rng = random.Random(seed)
    prompts = array("q", (ids_key(group.prompt) for group in groups))
    answers = array("q", (ids_key(group.answers[0]) for group in groups))

    def fits(row: int, partner: int) -> bool:
        return prompts[row] != prompts[partner] and answers[row] != answers[partner]

    possible = all(2 * max(Counter(kind).values()) <= len(groups) for kind in (prompts, answers))
    for _ in range(_ATTEMPTS if possible else 0):
        partner = _arranged(len(groups), fits, rng)
        if partner is not None:
            return partner
    raise DataError(
        f"{groups[0].source}: KTO's baseline needs, for every row, an answer to another prompt, and these data have "
        f"too few different prompts or answers for that: {len(groups)} rows, {len(set(prompts))} prompts, "
        f"{len(set(answers))} answers. Add rows with other prompts, or use pairs with DPO"
    )


def _arranged(count: int, fits: Fits, rng: random.Random) -> array[int] | None:
    """A random cycle over all rows, mended by exchanges; None where one row finds nobody to exchange with."""
    order = array("q", range(count))  # 8 bytes a row: there may be ten million
    rng.shuffle(order)
    partner = array("q", bytes(8 * count))
    for here, there in zip(order, order[1:] + order[:1], strict=True):
        partner[here] = there
    return partner if all(fits(row, partner[row]) or _swap(row, partner, fits, rng) for row in order) else None


def _swap(row: int, partner: array[int], fits: Fits, rng: random.Random) -> bool:
    """Exchange partners with another row so that both then fit: tried at random first, then one after the other."""
    count = len(partner)
    start = rng.randrange(count)
    drawn = (rng.randrange(count) for _ in range(_DRAWS))
    for other in chain(drawn, range(start, count), range(start)):
        if fits(row, partner[other]) and fits(other, partner[row]):
            partner[row], partner[other] = partner[other], partner[row]
            return True
    return False


def with_partners(groups: Sequence[Group], max_length: int) -> Sequence[Group]:
    """The labelled groups with their mismatched answer appended, cut on the right where prompt + answer is too long."""
    partner = by_numbers(groups, derangement(groups, token_hash(groups)))

    def with_other(group: Group, other: Group) -> Group:
        own, mask = (each_mask(one.masks, len(one.answers))[0] for one in (group, other))
        mismatched, mask = cut_right(other.answers[0], mask, max_length - len(group.prompt))
        return replace(group, answers=(group.answers[0], mismatched), masks=together((own, mask)))

    return changed(groups, with_other, partner)
