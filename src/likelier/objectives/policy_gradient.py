"""The losses of the policy-gradient family, per token, and how a step adds them up: pure functions of tensors.

`answer_of` (tokens,) says whose each token is and `lengths` (answers,) how many each answer has, as in the seam's
`SequenceScores`. Log-ratios are differences of log-probabilities (nats); an advantage is the answer's, given per token.
Notation: rho = exp(log-ratio), A = advantage.
"""

from __future__ import annotations

from math import inf, log, log1p
from typing import Literal

from torch import Tensor

from likelier.objectives.rollout import StepCounts

RatioLevel = Literal["token", "sequence", "geometric"]
Aggregation = Literal["token", "sequence-mean", "constant", "sequence-sum"]


def answer_sums(values: Tensor, answer_of: Tensor, lengths: Tensor) -> Tensor:
    """(tokens,) -> (answers,)."""
    return values.new_zeros(len(lengths)).index_add(0, answer_of, values)


def log_ratios_at(level: RatioLevel, log_ratios: Tensor, answer_of: Tensor, lengths: Tensor) -> Tensor:
    """Each token's log-ratio, or that of its whole answer. (tokens,) -> (tokens,).

    `token`: its own. `sequence`: the sum over the answer (its ratio is the product, RLOO as in TRL). `geometric`: the
    mean over the answer (its ratio is the geometric mean, GSPO, arXiv 2507.18071, equation 7).
    """
    if level == "token":
        return log_ratios
    sums = answer_sums(log_ratios, answer_of, lengths)
    return (sums / lengths.clamp(min=1) if level == "geometric" else sums)[answer_of]


def clipped_losses(
    log_ratios: Tensor, advantages: Tensor, *, low: float, high: float, dual: float | None = None
) -> Tensor:
    """`-min(rho A, clip(rho, 1 - low, 1 + high) A)` (PPO, arXiv 1707.06347, equation 7). (n,), (n,) -> (n,).

    `dual` c > 1 bounds the loss of a bad answer that became likely: where A < 0, at most `c |A|` (arXiv 1912.09729).
    Written as `-A` times a ratio that is bounded on the one side that matters, so that a ratio which
    overflows on the clipped side leaves a gradient of 0 and not NaN.
    """
    rising = log_ratios.clamp(max=log1p(high))
    falling = log_ratios.clamp(_log(1 - low), inf if dual is None else log(dual))
    return -advantages * rising.where(advantages > 0, falling).exp()


def clamped_weight_losses(log_ratios: Tensor, logps: Tensor, advantages: Tensor, *, low: float, high: float) -> Tensor:
    """`-sg(clamp(rho, low, high)) A logp`, `sg` stopping the gradient: every token keeps one, of bounded weight (CISPO,
    arXiv 2506.13585). `low` and `high` are bounds of rho itself. Three times (n,) -> (n,).
    """
    return -log_ratios.detach().clamp(_log(low), _log(high)).exp() * advantages * logps


def reinforce_losses(logps: Tensor, advantages: Tensor) -> Tensor:
    """`-A logp` (Williams, 1992). (n,), (n,) -> (n,)."""
    return -advantages * logps


def truncated_weights(log_ratios: Tensor, *, cap: float) -> Tensor:
    """`min(rho, cap)` without history: what a token's loss is multiplied by where another program drew it than the one
    that scores it (truncated importance sampling). `log_ratios` scorer less sampler, at the level wanted. (n,) -> (n,).
    """
    return log_ratios.detach().clamp(max=log(cap)).exp()


def aggregate(
    token_losses: Tensor, answer_of: Tensor, lengths: Tensor, *, how: Aggregation, step: StepCounts
) -> Tensor:
    """Each answer's share of the step's loss, (tokens,) -> (answers,): their plain sum, over all micro-batches and
    ranks, is the loss.

    - `token`: sum over all tokens / the step's tokens (DAPO). Every token counts the same.
    - `sequence-mean`: mean over the answer's tokens, then over answers (GRPO). Tokens of a long answer count less.
    - `constant`: sum over all tokens / (answers x longest allowed answer) (Dr. GRPO, its code; a constant).
    - `sequence-sum`: sum over the answer's tokens, mean over answers (RLOO).
    """
    sums, answers = answer_sums(token_losses, answer_of, lengths), max(step.answers, 1)
    if how == "token":
        return sums / max(step.tokens, 1)
    if how == "sequence-mean":
        return sums / lengths.clamp(min=1) / answers
    return sums / (answers * (step.max_length if how == "constant" else 1))


def _log(value: float) -> float:
    return log(value) if value else -inf
