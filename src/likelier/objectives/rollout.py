"""What a policy-gradient loss is computed from beside the seam's scores: what was known when answers were written."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from likelier.objectives.scored import SequenceScores


@dataclass(frozen=True)
class TokenEstimates:
    """What a critic makes of a rollout, (tokens,) each: `values` of the states before the tokens as they were before
    the update, the `advantages` of the tokens, and the `returns` that values are to become.
    """

    values: Tensor
    advantages: Tensor
    returns: Tensor


@dataclass(frozen=True)
class RolloutItems:
    """Of some answers and their tokens, in the order of the `SequenceScores` beside them.

    `advantages` (answers,). `counts` (answers,) bool: which answers belong to the loss (no verdict, or a truncated
    answer that is masked: False); None where all do. Per token (tokens,), in nats: `old_token_logps` under the policy
    that the step began with (None: the same as now, which is so for the one update of a strictly on-policy step),
    `ref_token_logps` under the reference, `sampler_token_logps` as the sampler told them. `estimates` are a critic's,
    and tokens then have advantages of their own. None is what there is not.
    """

    advantages: Tensor
    counts: Tensor | None = None
    old_token_logps: Tensor | None = None
    ref_token_logps: Tensor | None = None
    sampler_token_logps: Tensor | None = None
    estimates: TokenEstimates | None = None

    def of_tokens(self, scores: SequenceScores) -> Tensor:
        """(tokens,) advantages: each token's own where a critic told them, else its answer's."""
        return self.advantages[scores.answer_of] if self.estimates is None else self.estimates.advantages

    def old(self, scores: SequenceScores) -> Tensor:
        """(tokens,) log-probabilities before the update, without history."""
        return scores.token_logps.detach() if self.old_token_logps is None else self.old_token_logps

    def counted(self) -> Tensor:
        """(answers,) bool."""
        return torch.ones_like(self.advantages, dtype=torch.bool) if self.counts is None else self.counts


def only_counted(scores: SequenceScores, items: RolloutItems) -> tuple[SequenceScores, RolloutItems]:
    """Both with zeros wherever an answer does not count: whatever stood there, NaN too, changes no loss and no
    gradient.

    It has to happen before anything is computed: zero times NaN is NaN, in a gradient as well.
    """
    if items.counts is None:
        return scores, items
    tokens = items.counts[scores.answer_of]

    def kept(values: Tensor | None, where: Tensor) -> Tensor | None:
        return None if values is None else values.where(where, 0.0)

    entropies = kept(scores.token_entropies, tokens)
    return replace(scores, token_logps=scores.token_logps.where(tokens, 0.0), token_entropies=entropies), replace(
        items,
        advantages=items.advantages.where(items.counts, 0.0),
        old_token_logps=kept(items.old_token_logps, tokens),
        ref_token_logps=kept(items.ref_token_logps, tokens),
        sampler_token_logps=kept(items.sampler_token_logps, tokens),
        estimates=None
        if items.estimates is None
        else TokenEstimates(**{name: one.where(tokens, 0.0) for name, one in vars(items.estimates).items()}),
    )


@dataclass(frozen=True)
class StepCounts:
    """What a loss divides by: the `tokens` and `answers` that count in the whole optimizer step, over all micro-batches
    and ranks, and the most tokens that an answer may have.
    """

    tokens: int
    answers: int
    max_length: int

    @staticmethod
    def of(lengths: Tensor, counts: Tensor, max_length: int) -> StepCounts:
        """Of all answers of a step: `lengths` (answers,) scored tokens, `counts` (answers,) bool."""
        return StepCounts(int(lengths[counts].sum()), int(counts.sum()), max_length)
