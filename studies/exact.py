"""Small policies whose optimum is known: distributions over a few answers, and the package's losses on pairs of them.

Log-probabilities are (..., answers), a reference broadcasts against them, and a strength (beta or tau) has one value
for each of the policies (...).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from likelier.objectives.losses import dpo_loss, ipo_loss
from studies.harness import Setting
from studies.judging import Case

SEEDS = 5000  # of every study here; those below were looked at while the studies were made


def generator(seed: int) -> torch.Generator:
    """What a seed of a study draws from."""
    return torch.Generator().manual_seed(SEEDS + seed)


def normal(source: torch.Generator, *shape: int) -> Tensor:
    """Standard normal numbers in double precision."""
    return torch.randn(*shape, dtype=torch.double, generator=source)


def strengths(values: Sequence[float]) -> Tensor:
    """(values,)."""
    return torch.tensor(values, dtype=torch.double)


def ordered(answers: int) -> Tensor:
    """(2, n): all ordered pairs of different answers."""
    return torch.tensor([(one, two) for one in range(answers) for two in range(answers) if one != two]).T


def dpo(logratios: Tensor, pairs: Tensor, strength: Tensor) -> Tensor:
    """DPO's loss of each pair, (..., n); `pairs` (2, n) are the chosen and the rejected answers."""
    return dpo_loss(logratios[..., pairs[0]], logratios[..., pairs[1]], beta=strength[..., None])


def ipo(logratios: Tensor, pairs: Tensor, strength: Tensor) -> Tensor:
    """IPO's loss of each pair, as `dpo`: an answer is one token."""
    ones = torch.ones((), dtype=logratios.dtype)
    return ipo_loss(logratios[..., pairs[0]], logratios[..., pairs[1]], ones, ones, tau=strength[..., None])


def kl(logps: Tensor, other: Tensor) -> Tensor:
    """(...) nats from one distribution to another."""
    return (logps.exp() * (logps - other)).sum(-1)


def at(words: str, values: Iterable[float]) -> dict[str, Case]:
    """Cases of one cell whose names end in `@value`."""
    return {f"{words} {value:g}": Case({}, f"@{value:g}") for value in values}


def within(case: Case, setting: Setting) -> Case:
    """The same of the cells of a setting."""
    return Case(setting, case.suffix)


def by(name: str, values: Sequence[float], numbers: Tensor) -> dict[str, float]:
    """Numbers (values,) under the names that `at` looks up."""
    return {f"{name}@{value:g}": float(number) for value, number in zip(values, numbers, strict=True)}


def error(found: Tensor, wanted: Tensor) -> Tensor:
    """How far numbers are from what they should be; where they are there 1e-16, which doubles cannot tell from it."""
    return (found - wanted).abs().clamp(min=1e-16)


def chance(found: Tensor) -> Tensor:
    """Probabilities below 1 also where six digits cannot tell: a 1 means that something was so in a seed."""
    return found.clamp(max=1 - 1e-6)


def network(seed: int, *sizes: int) -> nn.Sequential:
    """A perceptron with tanh between its layers, in double precision, from PyTorch's usual start."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEEDS + seed)
        layers = [nn.Linear(one, two, dtype=torch.double) for one, two in pairwise(sizes)]
    joined = [part for layer in layers for part in (layer, nn.Tanh())]
    return nn.Sequential(*joined[:-1])


def descend(module: nn.Module, loss: Callable[[], Tensor], steps: int, rate: float) -> None:
    """So many steps of Adam."""
    optimizer = torch.optim.Adam(module.parameters(), lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
