"""Weights in 16 bits that still hold what training added to them.

A base that lies in bfloat16 stands on a grid, and training moves most weights by less than half a step of it. Rounding
to the nearest then gives the base's weights back: everything small is lost, and always in the same direction. Rounded
at random, each weight goes up as often as its distance says, and what is lost of one weight is won in another.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_AT_ONCE = 2**24
_SEED = 5_871_023  # none that weights are likely to be drawn with: the same stream would meet itself


def round_stochastically(values: Tensor, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Each value as one of its two neighbours in a 16-bit `dtype`, with chances that make the mean the value itself.

    Values that `dtype` holds exactly stay as they are. `values` is in float32, of any shape.
    """
    near = values.to(dtype)
    grid = near.float()
    away = torch.where(values.abs() > grid.abs(), 1, -1).to(torch.int16)  # the next magnitude, in the bits of a float
    other = (near.view(torch.int16) + away).view(dtype)
    chance = (values - grid).abs() / (other.float() - grid).abs()  # no number where value and grid are 0: never taken
    drawn = torch.rand(values.shape, generator=generator).to(values.device)  # on the CPU: the same on every device
    return torch.where(drawn < chance, other, near)


def round_model_(model: nn.Module, dtype: torch.dtype, seed: int = _SEED) -> None:
    """Bring every float32 parameter to a 16-bit `dtype` in this way, in place; buffers to the nearest value."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            for part in parameter.data.view(-1).split(_AT_ONCE):
                part.copy_(round_stochastically(part, dtype, generator))
    model.to(dtype)
