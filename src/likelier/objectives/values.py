"""What a critic adds to a policy gradient: advantages of single tokens from values of states, and the critic's loss.

A state is a prompt with the tokens of an answer written so far; its value is what the answer will still earn, so that
the value of a token's state was given before the token was drawn. Answers lie one after the other in flat tensors, as
in the seam's `SequenceScores`; an answer ends with its last token, and nothing is earned after it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

SMALLEST_VARIANCE = 1e-8  # added to a variance before it divides, as in arXiv 2403.17031


def generalized_advantages(rewards: Tensor, values: Tensor, lengths: Tensor, *, gamma: float, lam: float) -> Tensor:
    """GAE (arXiv 1506.02438, equation 16): `sum over k of (gamma lam)^k delta_(t+k)` within each answer, with
    `delta_t = r_t + gamma V_(t+1) - V_t` and `V = 0` after the last token. (tokens,) twice, (answers,) -> (tokens,).

    `lam` 1 compares all that was earned from a token on with the value of its state, 0 looks one token ahead.
    """
    if not len(lengths):
        return rewards.clone()
    sizes = lengths.tolist()
    earned, known = (pad_sequence(list(one.split(sizes)), batch_first=True) for one in (rewards, values))
    found, ahead, following = torch.zeros_like(earned), earned.new_zeros(len(sizes)), earned.new_zeros(len(sizes))
    for place in range(earned.shape[1] - 1, -1, -1):  # behind an answer's end all is 0, and stays so
        delta = earned[:, place] + gamma * following - known[:, place]
        ahead = delta + gamma * lam * ahead
        found[:, place], following = ahead, known[:, place]
    is_token = torch.arange(earned.shape[1], device=lengths.device) < lengths[:, None]
    return found[is_token]


def whitened(values: Tensor, where: Tensor, *, keep_mean: bool = False) -> Tensor:
    """With mean 0 and deviation 1 over those that `where` (bool) selects, which also keep their mean if asked; the
    others are 0. (n,) -> (n,). The deviation is the population's (ddof 0), as in arXiv 2403.17031.

    Where all are equal they come out as exactly 0 (their mean, where it is kept): a rounding is no difference.
    """
    chosen = values[where]
    if not len(chosen):
        return torch.zeros_like(values)
    mean, variance = chosen.mean(), chosen.var(correction=0)
    equal = bool((chosen == chosen[0]).all())
    found = torch.zeros_like(values) if equal else (values - mean) * (variance + SMALLEST_VARIANCE).rsqrt()
    return (found + mean if keep_mean else found).where(where, 0.0)


def value_losses(values: Tensor, old_values: Tensor, returns: Tensor, *, clip: float | None) -> Tensor:
    """`max((V - R)^2, (clip(V, V_old - c, V_old + c) - R)^2) / 2`: a critic has no gradient from a state whose value
    has moved further than `clip` towards the return. None clips nothing. Three times (tokens,) -> (tokens,).
    """
    losses = (values - returns) ** 2
    if clip is not None:
        near = old_values + (values - old_values).clamp(-clip, clip)
        losses = torch.maximum(losses, (near - returns) ** 2)
    return losses / 2


def rewards_of_tokens(
    scores: Tensor, kl: Tensor | None, answer_of: Tensor, lengths: Tensor, *, kl_coefficient: float
) -> Tensor:
    """What each token earned: its answer's score at the last one, and everywhere less the divergence's price.
    (answers,) scores, (tokens,) log-ratios to the reference (k1, nats; None for no price) -> (tokens,).
    """
    earned = scores.new_zeros(len(answer_of)) if kl is None else -kl_coefficient * kl
    return earned.index_add(0, lengths.cumsum(0) - 1, scores)


def adapted_coefficient(coefficient: float, kl: float, *, target: float, answers: int, horizon: float) -> float:
    """The coefficient of the next step, raised where the divergence is above its target: times
    `1 + clip(kl / target - 1, -0.2, 0.2) answers / horizon` (arXiv 1909.08593, section 2.2). `kl` in nats an answer.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return coefficient * (1 + error * answers / horizon)
