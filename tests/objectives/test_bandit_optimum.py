"""Where sampled methods come to rest: on a bandit the optimum of reward less beta times the divergence is known,
`pi_ref exp(r / beta) / Z`, and each method must reach the one of its own beta.
"""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from likelier.objectives.divergence import k1
from likelier.objectives.grpo_family import PolicyGradient
from likelier.objectives.online import online_method
from likelier.objectives.ppo import PPO
from likelier.objectives.rollout import RolloutItems, StepCounts
from likelier.objectives.scored import SequenceScores

pytestmark = pytest.mark.slow

ACTIONS, GROUP, PROMPTS, STEPS = 6, 4, 512, 250
BETA, NEAR = 0.5, 0.02  # total variation
SEEDS = range(5)


def bandit(seed: int) -> tuple[Tensor, Tensor]:
    """The reference's log-probabilities and the rewards of the actions, (actions,) each."""
    generator = torch.Generator().manual_seed(seed)
    draw = partial(torch.randn, ACTIONS, dtype=torch.double, generator=generator)
    return torch.log_softmax(draw(), 0), draw()


def optimum(ref: Tensor, rewards: Tensor, beta: float) -> Tensor:
    return torch.softmax(ref + rewards / beta, 0)


def total_variation(left: Tensor, right: Tensor) -> float:
    return float((left - right).abs().sum() / 2)


def trained(method: PolicyGradient, ref: Tensor, rewards: Tensor, seed: int) -> Tensor:
    """The policy that the method ends with, (actions,) probabilities: every answer is one token, the action, and a step
    has `PROMPTS` groups of it. The rate falls to 0, so that the noise of the draws does.
    """
    generator = torch.Generator().manual_seed(1000 + seed)
    logits = ref.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([logits], lr=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / STEPS)
    answers = PROMPTS * method.answers_per_prompt
    group_of = torch.arange(PROMPTS).repeat_interleave(method.answers_per_prompt)
    lengths = torch.ones(answers, dtype=torch.long)
    for _ in range(STEPS):
        logps = torch.log_softmax(logits, 0)
        drawn = torch.multinomial(logps.detach().exp(), answers, replacement=True, generator=generator)
        scores = SequenceScores.of(logps[drawn], lengths)
        kl = k1(scores.logps.detach(), ref[drawn])
        found = method.advantages(rewards[drawn], group_of, lengths=lengths, max_length=1, kl=kl)
        items = RolloutItems(found.values, found.counts, ref_token_logps=ref[drawn])
        optimizer.zero_grad()
        method.losses(scores, items, StepCounts.of(lengths, found.counts, 1)).sum().backward()
        optimizer.step()
        schedule.step()
    return torch.softmax(logits.detach(), 0)


def made(name: str, **options: object) -> Callable[[], PolicyGradient]:
    return partial(online_method, name, answers_per_prompt=GROUP, kl_coefficient=BETA, **options)


# What divides the rewards of a method's optimum: its coefficient, or more where the group's own sample shrinks the
# rewards' part of the gradient to (G - 1) / G and leaves the divergence's as it is.
SHRUNK = BETA * GROUP / (GROUP - 1)
METHODS = {
    "grpo, divergence in the loss": (made("grpo", kl_place="loss"), SHRUNK),
    "leave-one-out, divergence in the loss": (made("grpo", kl_place="loss", advantage="leave-one-out"), BETA),
    "grpo, divergence in the reward": (made("grpo", kl_place="reward"), BETA),
    "rloo": (made("rloo"), BETA),
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", METHODS)
def test_a_method_reaches_the_optimum_of_its_own_beta(name: str, seed: int) -> None:
    make, beta = METHODS[name]
    ref, rewards = bandit(seed)
    found = trained(make(), ref, rewards, seed)
    assert total_variation(found, optimum(ref, rewards, beta)) < NEAR


def trained_by_ppo(
    method: PPO, ref: Tensor, rewards: Tensor, seed: int, steps: int = STEPS, answers: int = 256
) -> Tensor:
    """The same with a critic, which is one number here: four updates over a rollout, and both rates fall to 0."""
    generator = torch.Generator().manual_seed(1000 + seed)
    logits, value = ref.clone().requires_grad_(True), torch.zeros(1, dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.Adam([{"params": [logits], "lr": 0.03}, {"params": [value], "lr": 0.03}], eps=1e-5)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    lengths, counts = torch.ones(answers, dtype=torch.long), torch.ones(answers, dtype=torch.bool)
    step = StepCounts(answers, answers, 1)
    for _ in range(steps):
        old = torch.log_softmax(logits.detach(), 0)
        drawn = torch.multinomial(old.exp(), answers, replacement=True, generator=generator)
        worth = method.advantages(rewards[drawn], torch.arange(answers), lengths=lengths, max_length=1)
        estimates = method.estimates(
            worth.values,
            value.detach().expand(answers),
            kl=k1(old[drawn], ref[drawn]),
            lengths=lengths,
            counts=worth.counts,
            kl_coefficient=method.kl_coefficient,
        )
        items = RolloutItems(worth.values, counts, old_token_logps=old[drawn], estimates=estimates)
        for _ in range(method.run_defaults["updates_per_rollout"]):
            scores = SequenceScores.of(torch.log_softmax(logits, 0)[drawn], lengths)
            values = SequenceScores.of(value.expand(answers), lengths)
            optimizer.zero_grad()
            (method.losses(scores, items, step).sum() + method.value_losses(values, items, step).sum()).backward()
            optimizer.step()
        schedule.step()
    return torch.softmax(logits.detach(), 0)


@pytest.mark.parametrize("seed", SEEDS)
def test_ppo_without_whitening_reaches_the_optimum(seed: int) -> None:
    ref, rewards = bandit(seed)
    method = online_method("ppo", kl_coefficient=BETA, whiten="none")
    assert isinstance(method, PPO)
    found = trained_by_ppo(method, ref, rewards, seed)
    assert total_variation(found, optimum(ref, rewards, BETA)) < NEAR


@pytest.mark.parametrize("seed", SEEDS)
def test_the_two_optima_are_not_mistaken_for_each_other(seed: int) -> None:
    ref, rewards = bandit(seed)
    assert total_variation(optimum(ref, rewards, BETA), optimum(ref, rewards, SHRUNK)) > 2 * NEAR
