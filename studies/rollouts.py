"""What learns from answers that it writes itself, in the small language of `letters`: reward models, GRPO and PPO."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from math import inf
from typing import Any

import torch
from torch import Tensor, nn

from likelier.objectives.divergence import k1
from likelier.objectives.grpo_family import PolicyGradient
from likelier.objectives.losses import reward_model_loss
from likelier.objectives.online import online_method
from likelier.objectives.ppo import PPO
from likelier.objectives.rollout import RolloutItems, StepCounts
from studies import learners, letters
from studies.learners import PAIRS, Pairs, Reward, Station, World, falling, stepped
from studies.letters import Answers, Judge

PROMPTS, EACH = 8, 8  # of a rollout
AIMS = (0.6, 1.6)  # divergences at whose betas rewards are optimized
RATE, CRITIC_RATE = 5e-4, 1e-3  # of Adam
WARMUP = 2  # rollouts from which the critic learns alone
OUT, CHECK = 10, 20  # of how many labels one is held out, and after how many steps they are asked


def linear_reward(world: World, pairs: Pairs) -> Reward:
    """A reward model of eight numbers, the weights of what the gold reward counts: the most likely ones where each
    weight, of a feature of deviation 1, is standard normal beforehand.
    """
    scale = letters.features(world.pool).std(0)
    apart = (letters.features(pairs.chosen) - letters.features(pairs.rejected)) / scale
    weights = torch.zeros(8, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = reward_model_loss(apart @ weights, torch.zeros(len(apart))).sum() + weights.square().sum() / 2
        loss.backward()
        return loss

    optimizer.step(closure)
    found = weights.detach() / scale
    return lambda answers: letters.features(answers) @ found


def own_reward(world: World, pairs: Pairs, generator: torch.Generator) -> Judge:
    """A reward model of the policy's own size, begun as the reference, as it was when it judged held-out labels best.
    Its scores lie around 0 on the reference's answers.
    """
    judge = begun(world)
    out = len(pairs.chosen.tokens) // OUT
    numbers = torch.arange(len(pairs.chosen.tokens))
    unseen, seen = pairs.at(numbers[:out]), pairs.at(numbers[out:])
    optimizer = torch.optim.Adam(judge.parameters(), lr=CRITIC_RATE)
    best, least = deepcopy(judge.state_dict()), inf
    for step in range(1, world.sizes.steps + 1):
        some = seen.at(torch.randint(len(seen.chosen.tokens), (PAIRS,), generator=generator))
        stepped(optimizer, _choices(judge, some).mean())
        if step % CHECK == 0:
            with torch.no_grad():
                loss = float(_choices(judge, unseen).mean())
            if loss < least:
                best, least = deepcopy(judge.state_dict()), loss
    judge.load_state_dict(best)
    judge.requires_grad_(False)
    judge.head.bias -= world.pooled(judge.scores).mean()
    return judge


def begun(world: World) -> Judge:
    """A judge that knows nothing, on the reference's trunk."""
    return Judge(deepcopy(world.reference.model)).requires_grad_(True)


def _choices(judge: Judge, pairs: Pairs) -> Tensor:
    return reward_model_loss(judge.scores(pairs.chosen), judge.scores(pairs.rejected))


def betas_for(pooled: Tensor) -> list[float]:
    """Those at which the optima of a reward (prompts, answers) of the pool lie at `AIMS`."""
    return [learners.beta_for(pooled, kl) for kl in AIMS]


def grpo(world: World, reward: Reward, beta: float, generator: torch.Generator) -> Station:
    """Where Dr. GRPO ends that optimizes a reward, the divergence in it: one step from each rollout of 64 answers."""
    method = online_method("dr_grpo", kl_coefficient=beta, kl_place="reward")
    assert isinstance(method, PolicyGradient)
    policy = deepcopy(world.reference).requires_grad_(True)
    optimizer = torch.optim.Adam(policy.parameters(), lr=RATE)
    schedule = falling(optimizer, world.sizes.rollouts)
    group_of = torch.arange(PROMPTS).repeat_interleave(EACH)
    for _ in range(world.sizes.rollouts):
        answers, rewards = _rollout(policy, reward, generator)
        with torch.no_grad():
            ref_logps = letters.scored(world.reference, answers).logps
        scores, lengths = letters.scored(policy, answers), answers.lengths
        kl = k1(scores.logps.detach(), ref_logps)
        found = method.advantages(rewards, group_of, lengths=lengths, max_length=letters.LENGTH, kl=kl)
        step = StepCounts.of(lengths, found.counts, letters.LENGTH)
        stepped(optimizer, method.losses(scores, RolloutItems(found.values, found.counts), step).sum(), schedule)
    return world.station(policy)


def ppo(world: World, reward: Reward, critic: Judge | None, beta: float, generator: torch.Generator) -> Station:
    """The same for PPO with as many answers: four steps from each rollout. The critic begins as the reward model, or
    (None) knowing nothing.
    """
    method = online_method("ppo", kl_coefficient=beta)
    assert isinstance(method, PPO)
    policy = deepcopy(world.reference).requires_grad_(True)
    own = begun(world) if critic is None else deepcopy(critic).requires_grad_(True)
    rates = ((policy, RATE / 2), (own, CRITIC_RATE))
    groups = [{"params": list(one.parameters()), "lr": rate} for one, rate in rates]
    optimizer = torch.optim.Adam(groups, eps=method.adam_epsilon)
    schedule, counts = falling(optimizer, world.sizes.rollouts), torch.ones(PROMPTS * EACH, dtype=torch.bool)
    for number in range(world.sizes.rollouts):
        answers, rewards = _rollout(policy, reward, generator)
        with torch.no_grad():
            old, values = letters.scored(policy, answers).token_logps, own.values(answers).token_logps
            kl = k1(old, letters.scored(world.reference, answers).token_logps)
        how = {"kl": kl, "lengths": answers.lengths, "counts": counts, "kl_coefficient": beta}
        estimates = method.estimates(rewards, values, **how)
        items = RolloutItems(rewards, counts, old_token_logps=old, estimates=estimates)
        step = StepCounts.of(answers.lengths, counts, letters.LENGTH)
        for _ in range(method.run_defaults["updates_per_rollout"]):
            loss = method.value_losses(own.values(answers), items, step, clipped=number >= WARMUP).sum()
            if number >= WARMUP:
                loss = loss + method.losses(letters.scored(policy, answers), items, step).sum()
            stepped(optimizer, loss, longest=inf)
        schedule.step()
    return world.station(policy)


def _rollout(policy: nn.Module, reward: Reward, generator: torch.Generator) -> tuple[Answers, Tensor]:
    """A group of answers to each of some new prompts, and what they earn."""
    prompts = letters.lines(PROMPTS, generator).prompts.repeat_interleave(EACH, 0)
    answers = letters.written(policy, prompts, generator)
    with torch.no_grad():
        return answers, reward(answers)


def ends(world: World, setting: Mapping[str, Any], seed: int) -> dict[str, list[Station]]:
    """Where every method of a cell ends, by name: those on the reference's labels (`by` pairs), those on a reward model
    of the same labels (`by` rewards), or where there are no labels those on the gold reward.
    """
    labels, generator = setting["labels"], torch.Generator().manual_seed(seed)
    if not labels:
        return {
            "frontier": learners.tilted(world, world.pool_gold),
            "best_of_n": learners.best_of_n(world),
            "grpo_gold": [grpo(world, world.gold, beta, generator) for beta in betas_for(world.pool_gold)],
            "ppo_gold": [ppo(world, world.gold, None, beta, generator) for beta in betas_for(world.pool_gold)],
        }
    pairs = learners.labelled(world, world.reference, labels, generator)  # the same in both kinds of cells
    if setting["by"] == "pairs":
        found = {name: learners.from_pairs(world, name, pairs, generator) for name in learners.OFFLINE}
        found["simpo"] = learners.simpo(world, pairs, generator)
        return found | {"online_dpo": learners.online_dpo(world, labels, generator)}
    own = own_reward(world, pairs, generator)
    pooled = world.pooled(own.scores)
    betas = betas_for(pooled)
    return {
        "linear": learners.tilted(world, world.pooled(linear_reward(world, pairs))),
        "own": learners.tilted(world, pooled),
        "grpo_own": [grpo(world, own.scores, beta, generator) for beta in betas],
        "ppo_own": [ppo(world, own.scores, own, beta, generator) for beta in betas],
    }
