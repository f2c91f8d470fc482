"""Advantages of tokens, whitening and the critic's loss: golden numbers, and the definitions written out."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from likelier.objectives.values import (
    adapted_coefficient,
    generalized_advantages,
    rewards_of_tokens,
    value_losses,
    whitened,
)

REWARDS, VALUES = torch.tensor([[-0.01, -0.02, 0.97], [0.5, 0.4, 0.6]], dtype=torch.double)
ALL = torch.ones(3, dtype=torch.bool)


def _close(found, wanted, tolerance=1e-9):
    torch.testing.assert_close(found, torch.as_tensor(wanted, dtype=found.dtype), rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("lam", "wanted"), [(1, [0.44, 0.55, 0.37]), (0.95, [0.394925, 0.5315, 0.37]), (0, [-0.11, 0.18, 0.37])]
)
def test_advantages_are_the_golden_ones(lam, wanted):
    found = generalized_advantages(REWARDS, VALUES, torch.tensor([3]), gamma=1, lam=lam)
    _close(found, wanted)
    if lam == 0.95:
        _close(found + VALUES, [0.894925, 0.9315, 0.97])
        _close(whitened(found, ALL), [-0.524252, 1.399609, -0.875357], 2e-6)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(0, 1000), st.floats(0.5, 1), st.floats(0, 1))
def test_advantages_are_the_sum_that_defines_them(sizes, seed, gamma, lam):
    random = torch.Generator().manual_seed(seed)
    rewards, values = torch.randn(2, sum(sizes), generator=random, dtype=torch.double)
    found = generalized_advantages(rewards, values, torch.tensor(sizes), gamma=gamma, lam=lam)
    wanted = []
    for earned, known in zip(rewards.split(sizes), values.split(sizes), strict=True):
        after = torch.cat([known[1:], torch.zeros(1)])
        deltas = earned + gamma * after - known
        wanted += [
            sum((gamma * lam) ** (later - now) * deltas[later] for later in range(now, len(deltas)))
            for now in range(len(deltas))
        ]
    _close(found, [float(one) for one in wanted], 1e-12)


def test_an_answer_earns_its_score_at_its_end_and_pays_for_every_token():
    scores, kl = torch.tensor([1.0, -2.0]), torch.tensor([0.1, -0.2, 0.3])
    found = rewards_of_tokens(scores, kl, torch.tensor([0, 0, 1]), torch.tensor([2, 1]), kl_coefficient=0.5)
    _close(found, [-0.05, 1.1, -2.15], 1e-6)
    _close(rewards_of_tokens(scores, None, torch.tensor([0, 0, 1]), torch.tensor([2, 1]), kl_coefficient=0), [0, 1, -2])


def test_whitening_looks_at_what_counts_alone():
    values, where = torch.tensor([1.0, 3.0, 1e6, float("nan")]), torch.tensor([True, True, False, False])
    _close(whitened(values, where), [-1, 1, 0, 0], 1e-6)
    _close(whitened(values, where, keep_mean=True), [1, 3, 0, 0], 1e-6)


@pytest.mark.parametrize("value", [0.1, 1e6, -3.3])
def test_equal_advantages_are_exactly_nothing(value):
    assert not bool(whitened(torch.full((7,), value), torch.ones(7, dtype=torch.bool)).any())
    assert not bool(whitened(torch.full((7,), value), torch.zeros(7, dtype=torch.bool)).any())


def test_value_clip_is_the_golden_one():
    value, old, wanted = (torch.tensor([one], dtype=torch.double, requires_grad=one == 0.9) for one in (0.9, 0.5, 1.0))
    _close(value_losses(value, old, wanted, clip=0.2).detach(), [0.045])
    _close(value_losses(value, old, wanted, clip=None).detach(), [0.005])
    (gradient,) = torch.autograd.grad(value_losses(value, old, wanted, clip=0.2).sum(), value)
    assert float(gradient) == 0  # it has moved towards the return by more than the clip


def test_value_clip_holds_nothing_back_that_moved_away():
    value = torch.tensor([0.1], dtype=torch.double, requires_grad=True)
    losses = value_losses(value, torch.tensor([0.5]), torch.tensor([1.0]), clip=0.2)
    (gradient,) = torch.autograd.grad(losses.sum(), value)
    _close(gradient, [-0.9])


def test_value_losses_have_the_gradient_of_their_formula():
    random = torch.Generator().manual_seed(0)
    values, old, returns = torch.randn(3, 20, generator=random, dtype=torch.double)
    assert torch.autograd.gradcheck(
        lambda given: value_losses(given, old, returns, clip=0.2).sum(), values.requires_grad_()
    )


def test_the_coefficient_follows_the_divergence():
    change = {"target": 6.0, "answers": 100, "horizon": 10_000}
    assert adapted_coefficient(0.1, 6.0, **change) == 0.1
    assert adapted_coefficient(0.1, 60.0, **change) == pytest.approx(0.1 * 1.002)
    assert adapted_coefficient(0.1, 0.0, **change) == pytest.approx(0.1 * 0.998)
    assert adapted_coefficient(0.1, 6.6, **change) == pytest.approx(0.1 * 1.001)
