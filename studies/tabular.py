"""A world in which everything is known: some prompts with as many possible answers each, a gold reward, a reference
policy, people who compare answers by it, and policies that are tables.

All tables are (prompts, answers), and where several strengths are trained at once (strengths, prompts, answers).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import exp, log, sqrt

import torch
from torch import Tensor

from likelier.objectives.divergence import k1
from likelier.objectives.grpo_family import PolicyGradient
from likelier.objectives.losses import dpo_loss, ipo_loss, kto_loss, reward_model_loss, simpo_loss
from likelier.objectives.pointwise import KTO
from likelier.objectives.ppo import PPO
from likelier.objectives.rollout import RolloutItems, StepCounts
from likelier.objectives.scored import SequenceScores

STEPS, RATE = 600, 0.05


@dataclass(frozen=True)
class World:
    """The gold reward is linear in `features` (prompts, answers, 8); `ref` are log-probabilities."""

    features: Tensor
    gold: Tensor
    ref: Tensor

    @staticmethod
    def made(seed: int, prompts: int = 64, answers: int = 16) -> World:
        """Drawn at random: features and the reference's logits are standard normal, the gold weights have length 2. So
        two answers' rewards differ by 2.3 in the mean, and people agree on the better one in four cases of five.
        """
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, dtype=torch.double, generator=generator)

        features, weights = draw(prompts, answers, 8), draw(8)
        gold = features @ (2 * weights / weights.norm())
        return World(features, gold, torch.log_softmax(draw(prompts, answers), 1))

    def kl(self, logps: Tensor) -> Tensor:
        """To the reference in nats an answer, the mean over prompts; of each strength where there are several."""
        return (logps.exp() * (logps - self.ref)).sum(-1).mean(-1)

    def gain(self, logps: Tensor) -> Tensor:
        """The mean gold reward above the reference's."""
        return (logps.exp() * self.gold).sum(-1).mean(-1) - (self.ref.exp() * self.gold).sum(-1).mean()

    def optimum(self, reward: Tensor, beta: float) -> Tensor:
        """`pi_ref exp(reward / beta) / Z`: where reinforcement learning that is held to the reference ends."""
        return torch.log_softmax(self.ref + reward / beta, -1)

    def beta_for(self, reward: Tensor, kl: float) -> float:
        """The beta at which the optimum of a reward lies at this divergence."""
        low, high = log(1e-5), log(1e5)
        for _ in range(60):
            middle = (low + high) / 2
            too_far = float(self.kl(self.optimum(reward, exp(middle)))) > kl
            low, high = (middle, high) if too_far else (low, middle)
        return exp(low)

    def tilted(self, reward: Tensor, kl: float) -> Tensor:
        """The optimum of a reward at this divergence."""
        return self.optimum(reward, self.beta_for(reward, kl))

    def share(self, gain: float, kl: float) -> float:
        """A gain as a share of what the gold reward's exact frontier gains at the same divergence."""
        return gain / float(self.gain(self.tilted(self.gold, kl)))

    def share_at(self, logps: Tensor, kl: float) -> float | None:
        """Of policies along some strength (strengths, prompts, answers): the share at this divergence, the gain taken
        between the two policies around it in a line over the root of the divergence, over which a frontier is nearly
        one (over the divergence itself it is not, and a line would lie below it); None where no two lie around it.
        """
        kls, gains = self.kl(logps), self.gain(logps)
        order = kls.argsort()
        roots, gains = kls[order].clamp(min=0).sqrt(), gains[order]
        above = int((roots < sqrt(kl)).sum())
        if above in (0, len(roots)):
            return None
        part = float((sqrt(kl) - roots[above - 1]) / (roots[above] - roots[above - 1]))
        return self.share(float(gains[above - 1] + part * (gains[above] - gains[above - 1])), kl)


@dataclass(frozen=True)
class Pairs:
    """Comparisons: `prompts` (..., n), and the numbers of the `chosen` and the `rejected` answers (..., n)."""

    prompts: Tensor
    chosen: Tensor
    rejected: Tensor

    @staticmethod
    def drawn(world: World, logps: Tensor, each: int, generator: torch.Generator) -> Pairs:
        """`each` pairs a prompt: two different answers of the policy (strengths or not), labelled by Bradley and Terry
        from the gold reward.
        """
        flat = logps.reshape(-1, logps.shape[-1])
        rows = flat.repeat_interleave(each, 0)
        two = torch.multinomial(rows.exp().clamp(min=1e-12), 2, generator=generator)  # without replacement
        numbers = torch.arange(logps.shape[-2]).repeat_interleave(each).expand(*logps.shape[:-2], -1)
        two = two.reshape(*numbers.shape, 2)
        scores = world.gold[numbers.unsqueeze(-1), two]
        first = torch.rand(numbers.shape, dtype=torch.double, generator=generator)
        first_wins = first < torch.sigmoid(scores[..., 0] - scores[..., 1])
        return Pairs(
            numbers,
            torch.where(first_wins, two[..., 0], two[..., 1]),
            torch.where(first_wins, two[..., 1], two[..., 0]),
        )

    def and_then(self, more: Pairs) -> Pairs:
        """These and others, for each strength."""
        names = ("prompts", "chosen", "rejected")
        return Pairs(*(torch.cat([getattr(self, name), getattr(more, name)], -1) for name in names))


def at(table: Tensor, prompts: Tensor, answers: Tensor) -> Tensor:
    """Entries of a table (prompts, answers), or of one for each strength: (..., n)."""
    if table.dim() == 2:
        return table[prompts, answers]
    first = torch.arange(len(table))[:, None]
    return table[first, prompts, answers]


def path(loss: Callable[[Tensor], Tensor], start: Tensor, steps: int, *, rate: float, falls: bool) -> Iterator[Tensor]:
    """The table after every step of Adam on `loss(table)`; the rate `falls` to 0 in a line or stays."""
    table = start.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([table], lr=rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps if falls else 1.0)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(table).backward()
        optimizer.step()
        schedule.step()
        yield table.detach().clone()


def minimized(loss: Callable[[Tensor], Tensor], start: Tensor, steps: int = STEPS, rate: float = RATE) -> Tensor:
    """The table that Adam ends with, its rate falling to 0."""
    *_, last = path(loss, start, steps, rate=rate, falls=True)
    return last


def reward_table(pairs: Pairs, like: Tensor, steps: int = STEPS) -> Tensor:
    """A reward model with the policy's own capacity: one number an answer."""

    def loss(table: Tensor) -> Tensor:
        sides = (at(table, pairs.prompts, answers) for answers in (pairs.chosen, pairs.rejected))
        return reward_model_loss(*sides).sum()

    return minimized(loss, torch.zeros_like(like), steps)


def linear_reward(pairs: Pairs, features: Tensor, steps: int = STEPS) -> Tensor:
    """A reward model that knows what the gold reward is made of: weights of the 8 features."""
    differences = features[pairs.prompts, pairs.chosen] - features[pairs.prompts, pairs.rejected]

    def loss(weights: Tensor) -> Tensor:
        scores = differences @ weights
        return reward_model_loss(scores, torch.zeros_like(scores)).mean()

    return features @ minimized(loss, torch.zeros(features.shape[-1], dtype=features.dtype), steps)


def preferred(method: str, pairs: Pairs, ref: Tensor, strengths: Tensor, start: Tensor, steps: int = STEPS) -> Tensor:
    """The policies (strengths, prompts, answers) that a method for pairs ends with, as log-probabilities; every answer
    is one token. `method` names a loss of `LOSSES`, `strengths` (strengths,) are its beta or tau.
    """
    loss_of, strength = LOSSES[method], strengths[:, None]

    def loss(table: Tensor) -> Tensor:
        return loss_of(torch.log_softmax(table, -1), ref, pairs, strength).sum()

    return torch.log_softmax(minimized(loss, start.expand(len(strengths), *ref.shape), steps), -1)


def simpo_path(pairs: Pairs, ref: Tensor, steps: int = 600, each: int = 10) -> Tensor:
    """SimPO's policies on its way (stations, prompts, answers): it has no reference, so nothing but the number of steps
    says how far from it the policy ends.
    """

    def loss(table: Tensor) -> Tensor:
        return _simpo(torch.log_softmax(table, -1), pairs).sum()

    tables = list(path(loss, ref, steps, rate=0.05, falls=False))
    return torch.log_softmax(torch.stack([ref, *tables[each - 1 :: each]]), -1)


def online_dpo(
    world: World, each: int, strengths: Tensor, generator: torch.Generator, rounds: int = 8, steps: int = STEPS
) -> Tensor:
    """DPO whose pairs are the policy's own answers, `each` a prompt in all: in every one of the rounds new ones are
    drawn from the policy, labelled, and put to those before. As `preferred`.
    """
    rounds = min(rounds, each)
    policy = world.ref.expand(len(strengths), *world.ref.shape)
    pairs = Pairs.drawn(world, policy, each // rounds, generator)
    for number in range(1, rounds + 1):
        is_last = number == rounds
        policy = preferred("dpo", pairs, world.ref, strengths, world.ref, steps if is_last else steps // 3)
        if not is_last:
            pairs = pairs.and_then(Pairs.drawn(world, policy, each // rounds, generator))
    return policy


def best_of_n(world: World, most: int = 64) -> Tensor:
    """(most, prompts, answers): the policies that draw n answers of the reference and keep the one of the most gold
    reward, exactly, for n from 1 to `most`.
    """
    order = world.gold.argsort(-1)
    below = world.ref.exp().gather(-1, order).cumsum(-1).clamp(max=1.0)
    powers = torch.stack([below**n for n in range(1, most + 1)])
    sorted_chances = powers.diff(dim=-1, prepend=torch.zeros_like(powers[..., :1])).clamp(min=1e-300)
    return sorted_chances.gather(-1, order.argsort(-1).expand_as(sorted_chances)).log()


@dataclass(frozen=True)
class Asking:
    """Every prompt asked at several strengths at once, `each` answers to it: rewards are counted in units of beta, so
    that all strengths train with a coefficient of 1. The optima are the same, and Adam's steps do not know the unit.
    """

    ref: Tensor  # (strengths x prompts, answers), as `worth`
    worth: Tensor
    each: int
    generator: torch.Generator

    @staticmethod
    def of(world: World, reward: Tensor, betas: Tensor, each: int, seed: int) -> Asking:
        """The reward (prompts, answers) at each of these betas (strengths,)."""
        worth = (reward / betas[:, None, None]).flatten(0, 1)
        return Asking(world.ref.repeat(len(betas), 1), worth, each, torch.Generator().manual_seed(seed))

    @property
    def group_of(self) -> Tensor:
        """(answers,) whose each answer is."""
        return torch.arange(len(self.ref)).repeat_interleave(self.each)

    def drawn(self, logps: Tensor) -> Tensor:
        """(answers,) of a policy, group by group."""
        chances = logps.detach().exp()
        return torch.multinomial(chances, self.each, replacement=True, generator=self.generator).flatten()

    def by_strength(self, table: Tensor, strengths: int) -> Tensor:
        """Logits as policies (strengths, prompts, answers)."""
        return torch.log_softmax(table, -1).unflatten(0, (strengths, -1))


def sampled(
    method: PolicyGradient, world: World, reward: Tensor, betas: Tensor, seed: int, steps: int = STEPS
) -> Tensor:
    """The policies (strengths, prompts, answers) that a method ends with which learns from its own answers, a group to
    every prompt in each step.
    """
    asking = Asking.of(world, reward, betas, method.answers_per_prompt, seed)
    group_of = asking.group_of
    lengths = torch.ones_like(group_of)

    def loss(table: Tensor) -> Tensor:
        logps = torch.log_softmax(table, -1)
        drawn = asking.drawn(logps)
        scores, ref_logps = SequenceScores.of(logps[group_of, drawn], lengths), asking.ref[group_of, drawn]
        kl, worth = k1(scores.logps.detach(), ref_logps), asking.worth[group_of, drawn]
        found = method.advantages(worth, group_of, lengths=lengths, max_length=1, kl=kl)
        items = RolloutItems(found.values, found.counts, ref_token_logps=ref_logps)
        return method.losses(scores, items, StepCounts.of(lengths, found.counts, 1)).sum()

    return asking.by_strength(minimized(loss, asking.ref, steps), len(betas))


def sampled_by_ppo(
    method: PPO, world: World, reward: Tensor, betas: Tensor, seed: int, rollouts: int, each: int = 8
) -> Tensor:
    """The same for PPO, whose critic is a number a prompt, with as many answers to a prompt in each rollout."""
    asking = Asking.of(world, reward, betas, each, seed)
    group_of = asking.group_of
    lengths, counts = torch.ones_like(group_of), torch.ones_like(group_of, dtype=torch.bool)
    table = asking.ref.clone().requires_grad_(True)
    critic = (asking.ref.exp() * asking.worth).sum(1).requires_grad_(True)  # as one that began as the reward model
    updates = method.run_defaults["updates_per_rollout"]
    optimizer = torch.optim.Adam([{"params": [table], "lr": RATE / 2}, {"params": [critic], "lr": RATE}], eps=1e-5)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda rollout: 1 - rollout / rollouts)
    step = StepCounts(len(group_of), len(group_of), 1)
    for _ in range(rollouts):
        logps = torch.log_softmax(table.detach(), -1)
        drawn = asking.drawn(logps)
        old, worth = logps[group_of, drawn], asking.worth[group_of, drawn]
        kl, before = k1(old, asking.ref[group_of, drawn]), critic.detach()[group_of]
        estimates = method.estimates(worth, before, kl=kl, lengths=lengths, counts=counts, kl_coefficient=1.0)
        items = RolloutItems(worth, counts, old_token_logps=old, estimates=estimates)
        for _ in range(updates):
            scores = SequenceScores.of(torch.log_softmax(table, -1)[group_of, drawn], lengths)
            values = SequenceScores.of(critic[group_of], lengths)
            optimizer.zero_grad()
            (method.losses(scores, items, step).sum() + method.value_losses(values, items, step).sum()).backward()
            optimizer.step()
        schedule.step()
    return asking.by_strength(table.detach(), len(betas))


def _ratios(logps: Tensor, ref: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
    return at(logps - ref, pairs.prompts, pairs.chosen), at(logps - ref, pairs.prompts, pairs.rejected)


def _dpo(logps: Tensor, ref: Tensor, pairs: Pairs, strength: Tensor) -> Tensor:
    return dpo_loss(*_ratios(logps, ref, pairs), beta=strength)


def _ipo(logps: Tensor, ref: Tensor, pairs: Pairs, strength: Tensor) -> Tensor:
    ones = torch.ones((), dtype=logps.dtype)
    return ipo_loss(*_ratios(logps, ref, pairs), ones, ones, tau=strength)


def _kto(logps: Tensor, ref: Tensor, pairs: Pairs, strength: Tensor) -> Tensor:
    """Each pair is two labelled rows; a row's mismatched answer is that of a prompt half the list away."""
    up, down = _ratios(logps, ref, pairs)
    half = pairs.prompts.shape[-1] // 2
    others = pairs.chosen.roll(half, -1), pairs.rejected.roll(half, -1)
    partners = torch.cat([at((logps - ref).detach(), pairs.prompts, answers) for answers in others], -1)
    count = torch.full_like(partners.sum(-1), partners.shape[-1])
    z0 = KTO.baseline(torch.stack([partners.sum(-1), (partners**2).sum(-1), count]))[..., None]
    desirable = torch.ones_like(up, dtype=torch.bool)
    rows = (kto_loss(up, desirable, z0, beta=strength), kto_loss(down, ~desirable, z0, beta=strength))
    return rows[0] + rows[1]


def _simpo(logps: Tensor, pairs: Pairs) -> Tensor:
    ones = torch.ones((), dtype=logps.dtype)
    sides = at(logps, pairs.prompts, pairs.chosen), at(logps, pairs.prompts, pairs.rejected)
    return simpo_loss(*sides, ones, ones, beta=2.0, gamma_beta_ratio=0.5)


LOSSES = {"dpo": _dpo, "ipo": _ipo, "kto": _kto}
