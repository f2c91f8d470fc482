"""The tabular world: what is exact there is held against draws, closed forms and other ways to compute it."""

from __future__ import annotations

import pytest
import torch

from likelier.objectives.online import online_method
from studies import tabular
from studies.tabular import Asking, Pairs, World


@pytest.fixture(scope="module")
def world() -> World:
    return World.made(7, prompts=16, answers=8)


@pytest.mark.parametrize("kl", [0.1, 0.5, 1.0])
def test_the_optimum_is_found_at_its_divergence_and_none_gains_more(world: World, kl: float) -> None:
    best = world.tilted(world.gold, kl)
    assert float(world.kl(best)) == pytest.approx(kl, abs=1e-9)
    for reward in (world.gold + torch.randn_like(world.gold) / 4, world.gold.exp(), -world.gold):
        other = world.tilted(reward, kl)
        assert float(world.gain(other)) < float(world.gain(best))


def test_a_share_between_two_strengths_of_the_frontier_is_one(world: World) -> None:
    around = torch.stack([world.tilted(world.gold, kl) for kl in (0.3, 0.45, 0.7, 1.0)])
    assert world.share_at(around, 0.5) == pytest.approx(1, abs=2e-3)
    assert world.share_at(around, 2.0) is None and world.share_at(around, 0.1) is None


def test_people_choose_by_the_gold_reward(world: World) -> None:
    pairs = Pairs.drawn(world, world.ref, 400, torch.Generator().manual_seed(0))
    assert bool((pairs.chosen != pairs.rejected).all())
    gaps = world.gold[pairs.prompts, pairs.chosen] - world.gold[pairs.prompts, pairs.rejected]
    for low, high in ((0.0, 1.0), (1.0, 2.0), (2.0, 4.0)):
        near = (gaps.abs() >= low) & (gaps.abs() < high)
        expected = float(torch.sigmoid(gaps[near].abs()).mean())
        assert float((gaps[near] > 0).double().mean()) == pytest.approx(expected, abs=0.04)


def test_each_strength_has_its_own_pairs(world: World) -> None:
    policies = torch.stack([world.ref, world.tilted(world.gold, 1.0)])
    pairs = Pairs.drawn(world, policies, 50, torch.Generator().manual_seed(0))
    assert pairs.prompts.shape == pairs.chosen.shape == (2, 800)
    seen = tabular.at(world.gold.expand(2, -1, -1), pairs.prompts, pairs.chosen).mean(1)
    assert float(seen[1]) > float(seen[0])


def test_the_best_of_n_is_that_of_draws(world: World) -> None:
    exact = tabular.best_of_n(world, 4)[3].exp()
    drawn = torch.multinomial(world.ref.exp(), 40_000, replacement=True).reshape(16, -1, 4)
    rewards = world.gold.gather(1, drawn.flatten(1)).reshape(drawn.shape)
    best = drawn.gather(2, rewards.argmax(2, keepdim=True)).squeeze(2)
    shares = torch.stack([(best == answer).double().mean(1) for answer in range(8)], 1)
    torch.testing.assert_close(shares, exact, atol=0.02, rtol=0)
    assert torch.allclose(tabular.best_of_n(world, 1)[0], world.ref)


@pytest.mark.slow
def test_dpo_on_very_many_pairs_comes_to_the_frontier(world: World) -> None:
    anybody = torch.zeros_like(world.ref).log_softmax(1)
    pairs = Pairs.drawn(world, anybody, 1000, torch.Generator().manual_seed(0))
    strengths = torch.tensor([world.beta_for(world.gold, kl) for kl in (0.3, 0.8)], dtype=torch.double)
    policies = tabular.preferred("dpo", pairs, world.ref, strengths, world.ref, 300)
    assert (world.share_at(policies, 0.5) or 0) > 0.97


@pytest.mark.slow
def test_rewards_in_units_of_beta_have_the_optima_of_each_beta(world: World) -> None:
    betas = torch.tensor([world.beta_for(world.gold, kl) for kl in (0.3, 0.8)], dtype=torch.double)
    method = online_method("grpo", kl_coefficient=1.0, advantage="leave-one-out", kl_place="reward")
    found = tabular.sampled(method, world, world.gold, betas, 0, 300)
    exact = torch.stack([world.optimum(world.gold, float(beta)) for beta in betas])
    assert float((found.exp() - exact.exp()).abs().sum(-1).mean() / 2) < 0.05


def test_answers_are_drawn_group_by_group(world: World) -> None:
    asking = Asking.of(world, world.gold, torch.tensor([1.0, 2.0], dtype=torch.double), 3, 0)
    sure = torch.full((32, 8), -torch.inf).double()
    sure[torch.arange(32), torch.arange(32) % 8] = 0.0
    assert asking.drawn(sure).tolist() == [row % 8 for row in range(32) for _ in range(3)]
    assert asking.worth[16:].equal(world.gold / 2)
