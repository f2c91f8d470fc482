"""A prompt and its answers as token ids: what everything behind the tokenizer works on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from likelier.data.ends import Ends
from likelier.data.masks import Mask, Masks, answer_bytes, each_mask, first_trained, trained_count, trained_runs
from likelier.data.records import Source

Ids = np.ndarray


@dataclass(frozen=True, eq=False, slots=True)
class Group:
    """One prompt and its answers, as token ids (int32 arrays): the unit of work everywhere.

    A pair has the answers (chosen, rejected) and `desirable` None. A row of several scored answers has them the best
    first, and their `scores`; as a pair it is its first and its last answer. A labelled row has its answer, and for KTO
    the mismatched answer of another row as a second one; a demonstration is a desirable row. `ref_logps` holds the
    reference's score of each answer once known, `ref_head_logps` those of a pair's `heads`, where they are needed;
    `given_ref_logps` what the data file claims the answers' to be. `weight` multiplies the row's loss; `margin` and
    `flip_chance` (the soft label: the chance that the rejected answer is the better one) are given for all pairs of a
    run or for none. `masks` say which tokens of each answer are trained on, where that is not all of them (see
    `data.masks`).
    """

    prompt: Ids
    answers: tuple[Ids, ...]
    source: Source
    desirable: bool | None = None
    ref_logps: tuple[float, ...] | None = None
    given_ref_logps: tuple[float, ...] | None = None
    weight: float = 1.0
    margin: float | None = None
    flip_chance: float | None = None
    masks: Masks = None
    ref_head_logps: tuple[float, ...] | None = None
    scores: tuple[float, ...] | None = None

    @property
    def is_pair(self) -> bool:
        """Whether the first answer is preferred to the last one."""
        return self.desirable is None

    @property
    def own_answers(self) -> tuple[Ids, ...]:
        """The answers that the row itself gave: all but the mismatched one of a labelled row."""
        return self.answers if self.is_pair else self.answers[:1]

    @property
    def answer_keys(self) -> tuple[bytes, ...]:
        """What makes each answer the same as another one under the same prompt."""
        return tuple(map(answer_bytes, self.answers, each_mask(self.masks, len(self.answers))))

    @property
    def heads(self) -> tuple[tuple[Ids, Mask], ...]:
        """Of each answer its beginning, with as many tokens that are trained on as the shortest answer has."""
        masks = each_mask(self.masks, len(self.answers))
        shortest = min(map(trained_count, self.answers, masks))
        return tuple(first_trained(answer, mask, shortest) for answer, mask in zip(self.answers, masks, strict=True))

    @property
    def own_masks(self) -> tuple[Mask, ...]:
        """The masks of the answers that the row itself gave."""
        return tuple(each_mask(self.masks, len(self.answers))[: len(self.own_answers)])

    def unended(self, ends: Ends) -> list[np.ndarray | None]:
        """Of each answer the first turn that is trained on and holds no end; None where there is none such."""
        pairs = zip(self.answers, each_mask(self.masks, len(self.answers)), strict=True)
        return [next((turn for turn in trained_runs(*pair) if not ends.close(turn)), None) for pair in pairs]

    @property
    def tokens(self) -> int:
        """Tokens of the row as it is trained on: each of its own answers with its prompt."""
        return sum(len(self.prompt) + len(answer) for answer in self.own_answers)

    @property
    def longest(self) -> int:
        """Tokens of the prompt and the longest answer."""
        return len(self.prompt) + max(len(answer) for answer in self.answers)


def ids_key(ids: Ids) -> int:
    """64 bits that tell these token ids from others: by chance two of ten million are taken for equal once in a few
    hundred thousand data sets.
    """
    return int.from_bytes(hashlib.blake2b(ids.tobytes(), digest_size=8).digest(), "little", signed=True)
