"""A token from logits: with one uniform number, by the inverse of the cumulated distribution."""

from __future__ import annotations

import torch
from torch import Tensor

from likelier.online.sampling.protocol import Sampling


def draw(logits: Tensor, uniform: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """A token for each row and its log-probability at the temperature, before the distribution is cut.

    Args:
        logits: (rows, vocabulary), as the model gives them.
        uniform: (rows,) in [0, 1), float64: two rows with the same distribution and number get the same token.
        sampling: temperature and cuts.

    Returns:
        (rows,) ids and (rows,) nats.
    """
    logps = (logits / (sampling.temperature or 1.0)).log_softmax(1)
    if sampling.temperature == 0:
        tokens = logits.argmax(1)
    else:
        # In fp64: the sum of 100,000 small numbers in fp32 is off by more than the smallest chances.
        chances = _cut(logps, sampling).double().cumsum(1)
        tokens = torch.searchsorted(chances, (uniform * chances[:, -1])[:, None], right=True)[:, 0]
        last = (chances < chances[:, -1:]).sum(1)  # of any chance, for a number that rounds to 1
        tokens = torch.minimum(tokens, last)
    return tokens, logps.gather(1, tokens[:, None])[:, 0]


def _cut(logps: Tensor, sampling: Sampling) -> Tensor:
    """Chances (rows, vocabulary) with zeros where `top_k`, `top_p` or `min_p` leave a token out; not normalized."""
    chances = logps.exp()
    left_out = torch.zeros_like(chances, dtype=torch.bool)
    if 0 < sampling.top_k < chances.shape[1]:
        left_out |= chances < chances.topk(sampling.top_k, dim=1).values[:, -1:]
    if sampling.min_p > 0:
        left_out |= chances < sampling.min_p * chances.amax(1, keepdim=True)
    if sampling.top_p < 1:
        sorted_chances, order = chances.sort(1, descending=True)
        before = sorted_chances.cumsum(1) - sorted_chances  # the likeliest token always stays
        left_out |= torch.zeros_like(left_out).scatter(1, order, before >= sampling.top_p)
    return chances.masked_fill(left_out, 0.0)
