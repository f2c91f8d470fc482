"""What learns from pairs in the small language of `letters`, and what is known there without any training.

A method's line is where it ends at some strengths. Between them, and from the reference on, it is read in a line over
the root of the divergence, over which a frontier is nearly one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from math import exp, sqrt

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from likelier.objectives.base import Objective
from likelier.objectives.pairwise import DPO, IPO, SimPO
from likelier.objectives.pointwise import KTO
from likelier.objectives.scored import Scored
from studies import letters
from studies.letters import Answers

OFFLINE: dict[str, Callable[[float], Objective]] = {
    "dpo": lambda beta: DPO(beta=beta),
    "ipo": lambda beta: IPO(tau=beta / 4, length_normalize=False),  # where gaps are small, as far as DPO
    "kto": lambda beta: KTO(beta=beta),
}
BETAS = (0.5, 2.0)
PAIRS = 32  # of a step
RATE, SLOW = 3e-4, 1e-4  # of Adam
Reward = Callable[[Answers], Tensor]


@dataclass(frozen=True)
class Station:
    """The divergence from the reference in nats an answer and the gold reward gained, with their standard errors."""

    kl: float
    kl_error: float
    gain: float
    gain_error: float


@dataclass(frozen=True)
class Pairs:
    """Two answers to each prompt, the better one by Bradley and Terry's model of the gold reward first."""

    chosen: Answers
    rejected: Answers

    def at(self, numbers: Tensor) -> Pairs:
        """Some of them."""
        return Pairs(self.chosen.at(numbers), self.rejected.at(numbers))

    def and_then(self, more: Pairs) -> Pairs:
        """These and others."""
        return Pairs(self.chosen.and_then(more.chosen), self.rejected.and_then(more.rejected))


@dataclass(frozen=True)
class Sizes:
    """How much everything is: a quick study has less of it."""

    steps: int = 240  # on pairs
    rollouts: int = 150
    reading: int = 1000  # steps of the reference itself
    pool: int = 1024  # answers of the reference to each held-out prompt, that all exact things are made from
    judged: int = 64  # answers to each held-out prompt, of every policy


@dataclass(frozen=True)
class World:
    """The language, its reference, and the gold reward of a seed: `weights` (8,) of the features, such that the
    rewards of the reference's answers to one prompt have a deviation of 2.
    """

    weights: Tensor
    pool: Answers
    pool_gold: Tensor  # (prompts, answers)
    sizes: Sizes

    @staticmethod
    def made(seed: int, sizes: Sizes) -> World:
        """Features are brought to deviation 1, and their weights drawn at random."""
        pool, seen = _pool(sizes)
        weights = torch.randn(8, generator=torch.Generator().manual_seed(seed)) / seen.flatten(0, 1).std(0)
        weights = 2 * weights / (seen @ weights).std(1).mean()
        return World(weights, pool, seen @ weights, sizes)

    @property
    def reference(self) -> nn.Module:
        """The model that everything begins with."""
        return letters.reference(self.sizes.reading)

    def gold(self, answers: Answers) -> Tensor:
        """(n,)."""
        return letters.features(answers) @ self.weights

    def pooled(self, reward: Reward) -> Tensor:
        """A reward of the pool's answers, (prompts, answers)."""
        with torch.no_grad():
            numbers = torch.arange(len(self.pool.tokens)).split(8192)
            return torch.cat([reward(self.pool.at(some)) for some in numbers]).reshape(letters.HELD_OUT, -1)

    def station(self, policy: nn.Module) -> Station:
        """Where a policy is, by answers to the held-out prompts, from the same random numbers each time."""
        prompts = self.pool.prompts[:: self.sizes.pool].repeat_interleave(self.sizes.judged, 0)
        answers = letters.written(policy, prompts, torch.Generator().manual_seed(1))
        kl, gold = letters.divergences(policy, self.reference, answers), self.gold(answers)
        gain = float(gold.mean() - self.pool_gold.mean())
        return Station(float(kl.mean()), _error(kl), gain, _error(gold))


@cache
def _pool(sizes: Sizes) -> tuple[Answers, Tensor]:
    """The reference's answers to the held-out prompts, and their features (prompts, answers, 8)."""
    generator = torch.Generator().manual_seed(2)
    prompts = letters.lines(letters.HELD_OUT, generator).prompts.repeat_interleave(sizes.pool, 0)
    parts = [letters.written(letters.reference(sizes.reading), some, generator) for some in prompts.split(4096)]
    pool = Answers(prompts, torch.cat([part.tokens for part in parts]))
    return pool, letters.features(pool).reshape(letters.HELD_OUT, sizes.pool, -1)


def _error(values: Tensor) -> float:
    return float(values.std()) / sqrt(len(values))


# --- from the pool alone ----------------------------------------------------------------------------------------------


def beta_for(reward: Tensor, kl: float) -> float:
    """The beta at which the optimum of a reward (prompts, answers) of the pool lies at this divergence."""
    low, high = -6.0, 6.0
    for _ in range(40):
        middle = (low + high) / 2
        weights = torch.softmax(reward / exp(middle), 1)
        low, high = (middle, high) if float(_divergences(weights).mean()) > kl else (low, middle)
    return exp(low)


def tilted(world: World, reward: Tensor) -> list[Station]:
    """Where exact optimization of a reward (prompts, answers) of the pool ends, `pi_ref exp(reward / beta) / Z`, at
    many betas, which fit the reward's own scale: the pool's answers, weighted.
    """
    betas = reward.std(1).mean() * torch.logspace(1.2, -0.9, 40)
    return [_weighted(world, torch.softmax(reward / beta, 1)) for beta in betas]


def best_of_n(world: World, most: int = 64) -> list[Station]:
    """The best of n of the reference's answers by the gold reward, for n up to `most`, over all draws of n."""
    gold = world.pool_gold
    below = torch.linspace(0, 1, gold.shape[1] + 1, dtype=torch.double)
    ranks = gold.argsort(1).argsort(1)
    return [_weighted(world, (below**n).diff()[ranks].float()) for n in range(1, most + 1)]


def _weighted(world: World, weights: Tensor) -> Station:
    gold = world.pool_gold
    kl = _divergences(weights)
    gain = (weights * gold).sum(1) - gold.mean(1)
    return Station(float(kl.mean()), _error(kl), float(gain.mean()), _error(gain))


def gain_at(line: Sequence[Station], kl: float) -> float | None:
    """The gain of a method's line at a divergence; None where all its strengths end nearer to the reference."""
    for one, two in pairwise(sorted([Station(0.0, 0.0, 0.0, 0.0), *line], key=lambda place: place.kl)):
        if one.kl <= kl < two.kl:
            low, high = sqrt(max(one.kl, 0.0)), sqrt(two.kl)
            return one.gain + (sqrt(kl) - low) / (high - low) * (two.gain - one.gain)
    return None


def places(line: Sequence[Station], kls: Sequence[float]) -> list[Station]:
    """Of an exact line the stations that are nearest to these divergences."""
    return [min(line, key=lambda one: abs(one.kl - kl)) for kl in kls]


def _divergences(weights: Tensor) -> Tensor:
    return torch.xlogy(weights, weights * weights.shape[1]).sum(1)


# --- labels, and what learns from them --------------------------------------------------------------------------------


def labelled(world: World, policy: nn.Module, count: int, generator: torch.Generator) -> Pairs:
    """So many comparisons of a policy's own answers."""
    prompts = letters.lines(count, generator).prompts
    first, second = (letters.written(policy, prompts, generator) for _ in range(2))
    wins = torch.rand(count, generator=generator) < torch.sigmoid(world.gold(first) - world.gold(second))
    numbers, both = torch.arange(count), first.and_then(second)
    return Pairs(
        both.at(torch.where(wins, numbers, numbers + count)), both.at(torch.where(wins, numbers + count, numbers))
    )


def from_pairs(world: World, method: str, pairs: Pairs, generator: torch.Generator) -> list[Station]:
    """Where a method of `OFFLINE` ends at each of `BETAS`."""
    found = []
    for beta in BETAS:
        policy = deepcopy(world.reference).requires_grad_(True)
        _on_pairs(world, policy, OFFLINE[method](beta), pairs, generator, world.sizes.steps)
        found.append(world.station(policy))
    return found


def simpo(world: World, pairs: Pairs, generator: torch.Generator, stations: int = 6) -> list[Station]:
    """SimPO has no reference, so nothing but the number of steps says how far from it the policy ends."""
    policy, found = deepcopy(world.reference).requires_grad_(True), []
    for _ in range(stations):
        _on_pairs(world, policy, SimPO(), pairs, generator, world.sizes.steps // stations, rate=SLOW)
        found.append(world.station(policy))
    return found


def online_dpo(world: World, labels: int, generator: torch.Generator, rounds: int = 4) -> list[Station]:
    """DPO on as many labels of own answers, at each of `BETAS`: in each round the policy as it stands writes pairs and
    goes on with all that there are; one that begins anew learns from all of them in the end.
    """
    found = []
    for beta in BETAS:
        policy, pairs = deepcopy(world.reference).requires_grad_(True), None
        for number in range(rounds):
            more = labelled(world, policy, labels // rounds, generator)
            pairs = more if pairs is None else pairs.and_then(more)
            is_last = number == rounds - 1
            if is_last:
                policy = deepcopy(world.reference).requires_grad_(True)
            steps = world.sizes.steps if is_last else world.sizes.steps // (2 * rounds)
            _on_pairs(world, policy, OFFLINE["dpo"](beta), pairs, generator, steps)
        found.append(world.station(policy))
    return found


def _on_pairs(
    world: World,
    policy: nn.Module,
    objective: Objective,
    pairs: Pairs,
    generator: torch.Generator,
    steps: int,
    rate: float | None = None,
) -> None:
    """Train on pairs, or on labels: each side of a pair is then a row with a label of its own. At a `rate`, or at one
    that falls to 0.
    """
    optimizer = torch.optim.Adam(policy.parameters(), lr=rate or RATE)
    schedule = falling(optimizer, steps) if rate is None else None
    for _ in range(steps):
        some = pairs.at(torch.randint(len(pairs.chosen.tokens), (PAIRS,), generator=generator))
        both, numbers = some.chosen.and_then(some.rejected), torch.arange(2 * PAIRS)
        items, statistics = {"pairs": numbers.reshape(2, -1).T}, None
        if objective.data == "labels":
            items = {"rows": numbers, "desirable": numbers < PAIRS, "partners": numbers + 2 * PAIRS}
            both = both.and_then(Answers(both.prompts, both.tokens.roll(PAIRS // 2, 0)))
        with torch.no_grad():
            ref_logps = letters.scored(world.reference, both).logps
        found = letters.scored(policy, both)
        seen = Scored.of(found.logps, found.lengths, ref_logps, **items)
        if objective.data == "labels":
            statistics = objective.step_statistics(seen)
        stepped(optimizer, objective.losses(seen, statistics).mean(), schedule)


def falling(optimizer: torch.optim.Optimizer, steps: int) -> LRScheduler:
    """A rate that falls to 0 in a line."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)


def stepped(
    optimizer: torch.optim.Optimizer, loss: Tensor, schedule: LRScheduler | None = None, longest: float = 1.0
) -> None:
    """One step downhill, from a gradient that is not longer."""
    optimizer.zero_grad()
    loss.backward()
    for group in optimizer.param_groups:
        nn.utils.clip_grad_norm_(group["params"], longest)
    optimizer.step()
    if schedule is not None:
        schedule.step()
