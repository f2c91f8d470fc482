"""Estimators of KL(policy || reference), in nats, from a token that the policy drew.

Equations: J. Schulman, "Approximating KL divergence" (2020). All have the right expectation but `k2`, which is biased
and never negative. As losses they are another matter. In expectation over the policy's own tokens, the gradient of

    k1            is zero: it moves nothing
    k2            is that of KL(policy || reference)
    k3            is that of KL(reference || policy), the other direction
    ratio x k3    is that of KL(policy || reference), the ratio being policy / policy when the token was drawn

and all four hold for one token given its prefix. Only KL in the reward also reaches the tokens before it.
Shapes broadcast; `logps` and `ref_logps` are log-probabilities of the same tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor


def k1(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """`logp - ref`: unbiased, of either sign."""
    return logps - ref_logps


def k2(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """`(logp - ref)^2 / 2`: never negative, biased."""
    return (logps - ref_logps) ** 2 / 2


def k3(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """`exp(ref - logp) - (ref - logp) - 1`: unbiased and never negative."""
    difference = ref_logps - logps
    return torch.expm1(difference) - difference
