"""What each method makes of the tabular world, at several strengths each: the policies that study S18 compares."""

from __future__ import annotations

import torch
from torch import Tensor

from likelier.objectives.grpo_family import PolicyGradient
from likelier.objectives.online import online_method
from likelier.objectives.ppo import PPO
from studies import tabular
from studies.tabular import Pairs, World

BETAS = torch.logspace(-0.6, 1.6, 12, dtype=torch.double)
STRENGTHS = {"dpo": BETAS, "ipo": BETAS / 5, "kto": BETAS}
AROUND = (0.3, 0.45, 0.7, 1.0, 1.4, 1.9)  # divergences at whose betas rewards are optimized
FEWER = (0.4, 0.65, 1.0, 1.6)  # the same where PPO is compared with GRPO
ROLLOUTS = 200  # of 8 answers to each prompt, for both
SEEDS = 5000  # those below were looked at while the study was made

Policies = dict[str, Tensor]  # by method: (strengths, prompts, answers) log-probabilities


def world_of(seed: int, quick: bool) -> World:
    """The world of a seed of the study; a quick one is small."""
    return World.made(SEEDS + seed, prompts=16 if quick else 64)


def pairs_of(world: World, each: int, seed: int) -> tuple[Pairs, torch.Generator]:
    """Its comparisons of the reference's answers, and what more is drawn from."""
    generator = torch.Generator().manual_seed(2 * SEEDS + seed)
    return Pairs.drawn(world, world.ref, each, generator), generator


def from_pairs(world: World, each: int, seed: int, steps: int) -> Policies:
    """What learns from comparisons: of the reference's answers, or of as many of the policy's own."""
    pairs, generator = pairs_of(world, each, seed)
    table = tabular.reward_table(pairs, world.ref, steps)
    linear = tabular.linear_reward(pairs, world.features, steps)
    found = {name: _exactly(world, reward) for name, reward in (("linear", linear), ("tabular", table))}
    for name, strengths in STRENGTHS.items():
        found[name] = tabular.preferred(name, pairs, world.ref, strengths, world.ref, steps)
    found["simpo"] = tabular.simpo_path(pairs, world.ref)
    found["online_dpo"] = tabular.online_dpo(world, each, BETAS, generator, steps=steps)
    return found | {"grpo_tabular": _by_grpo(world, table, AROUND, seed, steps)}


def from_gold(world: World, seed: int, steps: int) -> Policies:
    """What the gold reward itself is at hand for."""
    return {"grpo_gold": _by_grpo(world, world.gold, AROUND, seed, steps), "best_of_n": tabular.best_of_n(world)}


def from_as_many_rollouts(world: World, each: int, seed: int, steps: int) -> Policies:
    """PPO and Dr. GRPO, from the gold reward or (`each` pairs a prompt) from the tabular reward model."""
    reward = tabular.reward_table(pairs_of(world, each, seed)[0], world.ref, steps) if each else world.gold
    rollouts = min(steps, ROLLOUTS)
    what = "tabular" if each else "gold"
    return {
        f"ppo_{what}": _by_ppo(world, reward, FEWER, seed, rollouts),
        f"twin_{what}": _by_grpo(world, reward, FEWER, seed, rollouts),
    }


def _exactly(world: World, reward: Tensor) -> Tensor:
    return torch.stack([world.tilted(reward, kl) for kl in AROUND])


def _betas(world: World, reward: Tensor, kls: tuple[float, ...]) -> Tensor:
    return torch.tensor([world.beta_for(reward, kl) for kl in kls], dtype=torch.double)


def _by_grpo(world: World, reward: Tensor, kls: tuple[float, ...], seed: int, steps: int) -> Tensor:
    method = online_method("dr_grpo", kl_coefficient=1.0)
    assert isinstance(method, PolicyGradient)
    return tabular.sampled(method, world, reward, _betas(world, reward, kls), seed, steps)


def _by_ppo(world: World, reward: Tensor, kls: tuple[float, ...], seed: int, rollouts: int) -> Tensor:
    method = online_method("ppo", kl_coefficient=1.0, whiten="none")
    assert isinstance(method, PPO)
    return tabular.sampled_by_ppo(method, world, reward, _betas(world, reward, kls), seed, rollouts)
