"""What a loss is computed from: the seam's scores of some answers, and what rows say of them.

SequenceScores   sums and counts per answer, from a forward pass
Items            which answers belong together, and what the reference and the data say of them
Place            which of their step's items these are
Scored           all of that, as objectives take it
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class SequenceScores:
    """The seam: sums and counts per answer; nothing is divided here.

    `logps` (answers,) log-probabilities in nats summed over answer tokens (EOS included, prompt excluded, and what an
    answer's mask leaves out), `lengths` (answers,) the number of tokens summed, `token_logps` (tokens,) beneath them
    with `answer_of` (tokens,) saying whose each is. `token_entropies` (tokens,) are those of the distributions that
    the tokens were drawn from, in nats, where they were asked for; so are `collision_entropies` (answers,), sums over
    answer tokens of -log of the distributions' summed squares, in nats and without a history.
    """

    logps: Tensor
    lengths: Tensor
    token_logps: Tensor
    answer_of: Tensor
    token_entropies: Tensor | None = None
    collision_entropies: Tensor | None = None

    @staticmethod
    def of(
        token_logps: Tensor,
        lengths: Tensor,
        token_entropies: Tensor | None = None,
        token_collisions: Tensor | None = None,
    ) -> SequenceScores:
        """Sum what there is of all scored answer tokens, `lengths` of each answer, one after the other."""
        answer_of = torch.arange(len(lengths)).repeat_interleave(lengths.cpu()).to(token_logps.device)

        def summed(values: Tensor) -> Tensor:
            return values.new_zeros(len(lengths)).index_add(0, answer_of, values)

        own, collisions = lengths.to(token_logps.device), None if token_collisions is None else summed(token_collisions)
        return SequenceScores(summed(token_logps), own, token_logps, answer_of, token_entropies, collisions)

    @staticmethod
    def sums_of(logps: Tensor, lengths: Tensor, collision_entropies: Tensor | None = None) -> SequenceScores:
        """Sums whose tokens are not at hand: read from a file, or computed by another rank."""
        nothing = logps.new_empty(0)
        return SequenceScores(logps, lengths, nothing, nothing.long(), None, collision_entropies)

    def of_answers(self, numbers: Tensor) -> SequenceScores:
        """The scores of some answers (n,), in that order; one may come several times."""
        starts, lengths = self.lengths.cumsum(0) - self.lengths, self.lengths[numbers]
        answer_of = torch.arange(len(numbers), device=lengths.device).repeat_interleave(lengths)
        before = lengths.cumsum(0) - lengths
        tokens = torch.arange(len(answer_of), device=lengths.device) + (starts[numbers] - before)[answer_of]
        entropies = None if self.token_entropies is None else self.token_entropies[tokens]
        collisions = None if self.collision_entropies is None else self.collision_entropies[numbers]
        return SequenceScores(self.logps[numbers], lengths, self.token_logps[tokens], answer_of, entropies, collisions)

    def heads(self, pairs: Tensor) -> Tensor:
        """Sums over the first tokens of both answers of a pair, as many as the shorter one has: of `pairs`, (n, 2)
        answer numbers, (n, 2) in nats. Raises `ValueError` where tokens are not at hand.
        """
        if len(self.token_logps) != int(self.lengths.sum()):
            raise ValueError("this objective needs the log-probabilities of tokens and got sums alone")
        found = self.of_answers(pairs.flatten())
        shared = self.lengths[pairs].amin(1).repeat_interleave(2)
        starts = found.lengths.cumsum(0) - found.lengths
        places = torch.arange(len(found.answer_of), device=starts.device) - starts[found.answer_of]
        in_head = places < shared[found.answer_of]
        sums = found.token_logps.new_zeros(len(shared))
        return sums.index_add(0, found.answer_of[in_head], found.token_logps[in_head]).view(-1, 2)

    def detached(self) -> SequenceScores:
        """The same numbers without their history."""
        entropies = None if self.token_entropies is None else self.token_entropies.detach()
        own = {"logps": self.logps.detach(), "token_logps": self.token_logps.detach()}
        return replace(self, **own, token_entropies=entropies)


@dataclass(frozen=True)
class Items:
    """What rows bring: pairs or labelled rows over a flat list of answers, and what is known of each.

    `pairs` (n, 2) answer numbers (chosen, rejected); or `rows` (n,) answer numbers with `desirable` (n,) bool and
    `partners` (n,) answer numbers of the mismatched answers (empty where they are not among these). `lists` (n, most)
    are all answers of rows that score several, the best first and -1 where there is no other, `scores` (n, most) their
    scores, 0 there; their `pairs` are the best and the worst. `ref_logps` (answers,) the reference's sums in nats,
    `ref_head_logps` (n, 2) those over the first tokens of the pairs' answers (see `SequenceScores.heads`), where an
    objective needs them. `weights` (n,) multiply the items' losses; `margins` and `flip_chances` (n,) are the pairs'
    own, where a run uses them. None is what there is not.
    """

    pairs: Tensor | None = None
    rows: Tensor | None = None
    desirable: Tensor | None = None
    partners: Tensor | None = None
    ref_logps: Tensor | None = None
    ref_head_logps: Tensor | None = None
    weights: Tensor | None = None
    margins: Tensor | None = None
    flip_chances: Tensor | None = None
    lists: Tensor | None = None
    scores: Tensor | None = None

    def like(self, logps: Tensor) -> Items:
        """All that is real in the precision of `logps`, all of it on their device."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        real = {name: logps.dtype if value.is_floating_point() else value.dtype for name, value in given.items()}
        return Items(**{name: value.to(logps.device, real[name]) for name, value in given.items()})


_ANSWER_NUMBERS = ("pairs", "rows", "partners", "lists")
NO_ANSWER = -1  # in `Items.lists`


@dataclass(frozen=True)
class Place:
    """Which items of an optimizer step a micro-batch holds: those from number `first` on, of `total`."""

    first: int
    total: int


@dataclass(frozen=True)
class Scored:
    """Scores of a flat list of answers, and the items that point into it: all of their step, or those at `place`."""

    scores: SequenceScores
    items: Items
    place: Place | None = None

    @staticmethod
    def of(
        logps: Tensor,
        lengths: Tensor,
        ref_logps: Tensor | None = None,
        collision_entropies: Tensor | None = None,
        token_logps: Tensor | None = None,
        **items: Any,
    ) -> Scored:
        """Of sums (see `SequenceScores.sums_of`) and of tokens, if given; `items` are the fields of `Items`."""
        scores = SequenceScores.sums_of(logps, lengths, collision_entropies)
        if token_logps is not None:
            beneath = SequenceScores.of(token_logps, lengths)
            scores = replace(scores, token_logps=token_logps, answer_of=beneath.answer_of)
        return Scored(scores, Items(ref_logps=ref_logps, **items))

    @property
    def logps(self) -> Tensor:
        """(answers,) sums in nats."""
        return self.scores.logps

    @property
    def lengths(self) -> Tensor:
        """(answers,) tokens summed."""
        return self.scores.lengths

    @property
    def logratios(self) -> Tensor:
        """`logps - ref_logps`, (answers,)."""
        if self.items.ref_logps is None:
            raise ValueError("this objective needs reference log-probabilities and got none")
        return self.logps - self.items.ref_logps

    @property
    def heads(self) -> Tensor:
        """(n, 2): the sums over the first tokens of the pairs' answers, see `SequenceScores.heads`."""
        if self.items.pairs is None:
            raise ValueError("this objective needs pairs and got labelled rows")
        return self.scores.heads(self.items.pairs)

    @property
    def head_logratios(self) -> Tensor:
        """`heads - ref_head_logps`, (n, 2)."""
        if self.items.ref_head_logps is None:
            raise ValueError("this objective needs the reference's sums over the answers' heads and got none")
        return self.heads - self.items.ref_head_logps

    def with_sums(self, logps: Tensor) -> Scored:
        """The same items over other sums, (answers,)."""
        return replace(self, scores=replace(self.scores, logps=logps))

    def with_items(self, **changed: Any) -> Scored:
        """The same scores under other items."""
        return replace(self, items=replace(self.items, **changed))

    def at_reference(self) -> Scored:
        """The same items as if the policy were the reference: every log-ratio zero."""
        heads = None if self.items.ref_head_logps is None else self.heads
        return self.with_items(ref_logps=self.logps, ref_head_logps=heads)

    def detached(self) -> Scored:
        """The same numbers without their history."""
        return replace(self, scores=self.scores.detached())

    def in_step(self, values: Tensor) -> Tensor:
        """Values of these items, (items, ...), at their places among the step's, (step's items, ...), and 0 elsewhere:
        what micro-batches and ranks give of it adds up to the values of the whole step.
        """
        if self.place is None:
            return values
        found = values.new_zeros(self.place.total, *values.shape[1:])
        found[self.place.first : self.place.first + len(values)] = values
        return found

    def of_step(self, values: Tensor, count: int) -> Tensor:
        """Of values of the whole step, (step's items, ...), those of these `count` items."""
        first = 0 if self.place is None else self.place.first
        return values[first : first + count]

    def chosen_rejected(self, *values: Tensor) -> tuple[Tensor, ...]:
        """Each of `values` (answers,) at the chosen and at the rejected answer of each pair, (n,) each."""
        pairs = self.items.pairs
        if pairs is None:
            raise ValueError("this objective needs pairs and got labelled rows")
        return tuple(one[pairs[:, side]] for one in values for side in (0, 1))


def join(parts: Sequence[Scored]) -> Scored:
    """Several scored micro-batches as one, answer numbers shifted."""
    offsets = list(accumulate((len(part.logps) for part in parts), initial=0))

    def joined(name: str) -> Tensor | None:
        found = [getattr(part.items, name) for part in parts]
        if found[0] is None:
            return None
        shifts = offsets if name in _ANSWER_NUMBERS else [0] * len(parts)
        most = max(values.shape[-1] for values in found)
        shifted = (_shifted(values, shift) if shift else values for values, shift in zip(found, shifts, strict=False))
        return torch.cat([_widened(values, name, most) for values in shifted])

    scores = [part.scores for part in parts]
    collisions = [score.collision_entropies for score in scores if score.collision_entropies is not None]
    whose = [score.answer_of + offset for score, offset in zip(scores, offsets, strict=False)]
    return Scored(
        SequenceScores(
            torch.cat([score.logps for score in scores]),
            torch.cat([score.lengths for score in scores]),
            torch.cat([score.token_logps for score in scores]),
            torch.cat(whose),
            collision_entropies=torch.cat(collisions) if len(collisions) == len(scores) else None,
        ),
        Items(**{one.name: joined(one.name) for one in fields(Items)}),
    )


def _shifted(numbers: Tensor, shift: int) -> Tensor:
    return torch.where(numbers == NO_ANSWER, numbers, numbers + shift)


def _widened(values: Tensor, name: str, most: int) -> Tensor:
    """Lists of fewer answers than the longest one's, filled up."""
    if name not in ("lists", "scores") or values.shape[-1] == most:
        return values
    return nn.functional.pad(values, (0, most - values.shape[-1]), value=NO_ANSWER if name == "lists" else 0)
