"""DPO's and IPO's closed forms on tabular policies: training on the losses reaches what the papers derive."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from likelier.objectives.losses import dpo_loss, ipo_loss, simpo_loss

ACTIONS = 6


def _minimize(loss: Callable[[Tensor], Tensor], start: Tensor, steps: int = 400) -> Tensor:
    """Log-probabilities of the softmax policy that minimizes a population loss."""
    logits = start.clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS(
        [logits], max_iter=steps, tolerance_grad=1e-14, tolerance_change=1e-18, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(torch.log_softmax(logits, 0))
        value.backward()
        return value

    optimizer.step(closure)
    return torch.log_softmax(logits, 0).detach()


def _kl(left: Tensor, right: Tensor) -> float:
    return float((left.exp() * (left - right)).sum())


def _setting(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ref = torch.log_softmax(torch.randn(ACTIONS, dtype=torch.double, generator=generator), 0)
    return ref, torch.randn(ACTIONS, dtype=torch.double, generator=generator)


FIRST, SECOND = (
    index.flatten() for index in torch.meshgrid(torch.arange(ACTIONS), torch.arange(ACTIONS), indexing="ij")
)


@pytest.mark.slow
@pytest.mark.parametrize("beta", [0.1, 0.5, 2.0])
def test_dpo_reaches_the_optimum_of_rlhf_and_z_cancels(beta: float) -> None:
    ref, reward = _setting(0)
    preferred = torch.sigmoid(reward[FIRST] - reward[SECOND])  # Bradley-Terry

    def population(logps: Tensor) -> Tensor:
        ratios = logps - ref
        return (preferred * dpo_loss(ratios[FIRST], ratios[SECOND], beta=beta)).mean()

    found = _minimize(population, ref)
    log_z = torch.logsumexp(ref + reward / beta, 0)
    optimum = ref + reward / beta - log_z
    assert abs(_kl(optimum, found)) < 1e-8
    implicit = beta * (found - ref)
    assert float((implicit - reward).std()) < 1e-6
    assert float((implicit - reward).mean()) == pytest.approx(float(-beta * log_z), abs=1e-5)
    value = (optimum.exp() * (reward - implicit)).sum()  # E r - beta KL at the optimum
    assert float(value) == pytest.approx(float(beta * log_z), abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("tau", [0.1, 0.5, 1.0])
def test_ipo_reaches_its_closed_form(tau: float) -> None:
    ref, reward = _setting(1)
    preferred = torch.sigmoid(reward[FIRST] - reward[SECOND])
    ones = torch.ones(len(FIRST))

    def population(logps: Tensor) -> Tensor:
        ratios = logps - ref
        values = ipo_loss(ratios[FIRST], ratios[SECOND], ones, ones, tau=tau)
        return (preferred * values).mean()

    found = _minimize(population, ref)
    against_uniform = torch.sigmoid(reward[:, None] - reward[None]).mean(1)
    optimum = torch.log_softmax(ref + against_uniform / tau, 0)
    assert abs(_kl(optimum, found)) < 1e-8


@pytest.mark.slow
@pytest.mark.parametrize(("tau", "share"), [(0.1, 0.99331), (0.5, 0.73106), (1.0, 0.62246), (10.0, 0.51250)])
def test_ipo_stops_where_dpo_runs_to_the_edge(tau: float, share: float) -> None:
    ref = torch.full((2,), math.log(0.5), dtype=torch.double)
    one = torch.ones(())

    def ipo(logps: Tensor) -> Tensor:
        return ipo_loss(logps[0] - ref[0], logps[1] - ref[1], one, one, tau=tau)

    def dpo(logps: Tensor) -> Tensor:
        return dpo_loss(logps[0] - ref[0], logps[1] - ref[1], beta=tau)

    assert float(_minimize(ipo, ref).exp()[0]) == pytest.approx(share, abs=1e-3)
    logits = torch.zeros(2, dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.5)
    margins = []
    for _ in range(3):
        for _ in range(100):
            optimizer.zero_grad()
            dpo(torch.log_softmax(logits, 0)).backward()
            optimizer.step()
        margins.append(float((logits[0] - logits[1]).detach()))
    assert margins[0] < margins[1] < margins[2]  # deterministic preferences: the margin grows without bound


@pytest.mark.slow
@pytest.mark.parametrize("tau", [0.1, 0.5, 1.0])
def test_ipo_on_three_ranked_arms(tau: float) -> None:
    ref = torch.full((3,), -math.log(3), dtype=torch.double)
    pairs = torch.tensor([(0, 1), (1, 2), (0, 2)])
    ones = torch.ones(3)

    def loss(logps: Tensor) -> Tensor:
        ratios = logps - ref
        return ipo_loss(ratios[pairs[:, 0]], ratios[pairs[:, 1]], ones, ones, tau=tau).mean()

    unit = 1 / (3 * tau)
    expected = torch.softmax(torch.tensor([2 * unit, unit, 0.0], dtype=torch.double), 0)
    torch.testing.assert_close(_minimize(loss, ref).exp(), expected, atol=1e-3, rtol=0)


def test_policy_equal_to_reference_has_reward_zero_and_the_known_loss() -> None:
    zero, lengths = torch.zeros(4), torch.tensor([3, 5, 8, 1])
    assert torch.allclose(dpo_loss(zero, zero, beta=0.3), torch.tensor(math.log(2)))
    assert torch.allclose(ipo_loss(zero, zero, lengths, lengths, tau=0.1), torch.tensor(25.0))


def test_dpo_leaves_mass_on_answers_nobody_compared() -> None:
    """Any policy without the rejected answer is optimal for DPO, wherever its mass went (arXiv 2404.10719)."""
    ref = torch.tensor([0.5, 0.5], dtype=torch.double).log()

    def loss(policy: tuple[float, float]) -> float:
        logps = torch.tensor(policy, dtype=torch.double).log()
        return float(dpo_loss(logps[0] - ref[0], logps[1] - ref[1], beta=1.0))

    assert loss((0.1, 1e-12)) <= loss((1 - 1e-12, 1e-12)) + 1e-6


@pytest.mark.slow
def test_simpo_without_margin_forgets_the_reference_on_ties() -> None:
    ref = torch.tensor([0.7, 0.2, 0.1], dtype=torch.double).log()
    first, second = torch.tensor([0, 1, 0, 2, 1, 2]), torch.tensor([1, 0, 2, 0, 2, 1])
    ones = torch.ones(6)

    def simpo(logps: Tensor) -> Tensor:
        return simpo_loss(logps[first], logps[second], ones, ones, beta=1.0, gamma_beta_ratio=0.0).mean()

    def dpo(logps: Tensor) -> Tensor:
        ratios = logps - ref
        return dpo_loss(ratios[first], ratios[second], beta=1.0).mean()

    assert _kl(_minimize(simpo, ref), ref) == pytest.approx(0.3243, abs=1e-3)
    assert _kl(_minimize(dpo, ref), ref) == pytest.approx(0.0, abs=1e-6)
