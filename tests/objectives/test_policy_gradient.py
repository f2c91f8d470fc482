"""The policy losses against the formulas: golden numbers and gradients in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from likelier.objectives.policy_gradient import (
    Aggregation,
    RatioLevel,
    aggregate,
    clamped_weight_losses,
    clipped_losses,
    log_ratios_at,
    reinforce_losses,
    truncated_weights,
)
from likelier.objectives.rollout import StepCounts

# Two answers: log-ratios new - old, log-probabilities, and advantages of 1 and -1.
RATIOS = torch.tensor([0.25, -0.30, -0.40, 0.0, 0.30, -0.05], dtype=torch.double)
LOGPS = torch.tensor([-1.0, -2.0, -0.5, -1.5, -0.3, -2.5], dtype=torch.double)
ANSWER_OF, LENGTHS = torch.tensor([0, 0, 1, 1, 1, 1]), torch.tensor([2, 4])
ADVANTAGES = torch.tensor([1.0, 1.0, -1.0, -1.0, -1.0, -1.0], dtype=torch.double)
STEP = StepCounts(tokens=6, answers=2, max_length=8)


def together(losses: Tensor, how: Aggregation) -> float:
    return aggregate(losses, ANSWER_OF, LENGTHS, how=how, step=STEP).sum().item()


AGGREGATED: dict[Aggregation, tuple[float, float]] = {
    "sequence-mean": (0.027431, 0.007431),
    "token": (0.360045, 0.346712),
    "constant": (0.135017, 0.130017),
    "sequence-sum": (1.080135, 1.040135),
}


@pytest.mark.parametrize("how", AGGREGATED)
def test_the_clipped_loss_added_up_in_four_ways(how: Aggregation) -> None:
    found = [together(clipped_losses(RATIOS, ADVANTAGES, low=0.2, high=high), how) for high in (0.2, 0.28)]
    assert found == pytest.approx(AGGREGATED[how], abs=5e-7)


def test_gspo() -> None:
    ratios = log_ratios_at("geometric", RATIOS, ANSWER_OF, LENGTHS)
    assert ratios.exp()[[0, 2]].tolist() == pytest.approx([0.975310, 0.963194], abs=5e-7)
    losses = clipped_losses(ratios, ADVANTAGES, low=3e-4, high=4e-4)
    assert (
        together(losses, "sequence-mean") == pytest.approx(0.024390 / 2, abs=5e-7) == pytest.approx(0.012195, abs=1e-6)
    )


@pytest.mark.parametrize(("low", "high", "expected"), [(0.0, 5.0, -0.308755), (0.8, 1.2, -0.306346)])
def test_cispo(low: float, high: float, expected: float) -> None:
    losses = clamped_weight_losses(RATIOS, LOGPS, ADVANTAGES, low=low, high=high)
    assert together(losses, "token") == pytest.approx(expected, abs=5e-7)


def test_a_whole_answers_ratio_as_rloo_has_it() -> None:
    ratios = log_ratios_at("sequence", RATIOS, ANSWER_OF, LENGTHS)
    losses = clipped_losses(ratios, ADVANTAGES, low=0.2, high=0.2)
    assert losses[[0, 2]].mean().item() == pytest.approx(-0.045261, abs=5e-7)


def test_dual_clip_bounds_a_bad_answer_that_became_likely() -> None:
    ratio, advantage = torch.tensor([1.5, 1.5], dtype=torch.double), torch.tensor([-1.0, 1.0], dtype=torch.double)
    single, dual = (clipped_losses(ratio, advantage, low=0.2, high=0.2, dual=dual) for dual in (None, 3.0))
    assert single.tolist() == pytest.approx([4.481689, -1.2], abs=5e-7) and dual.tolist() == pytest.approx([3, -1.2])


def test_truncated_importance_weights() -> None:
    drift = torch.tensor([0.02, -0.5, 1.2, 0.0], dtype=torch.double)
    whose, length = torch.zeros(4, dtype=torch.long), torch.tensor([4])

    def weights(level: RatioLevel, cap: float) -> list[float]:
        return truncated_weights(log_ratios_at(level, drift, whose, length), cap=cap).tolist()

    assert weights("token", 100) == pytest.approx([1.020201, 0.606531, 3.320117, 1], abs=5e-7)
    assert weights("token", 2) == pytest.approx([1.020201, 0.606531, 2, 1], abs=5e-7)
    assert weights("sequence", 100) == pytest.approx([2.054433] * 4, abs=5e-7)
    assert weights("geometric", 100) == pytest.approx([1.197217] * 4, abs=5e-7)


def test_the_clip_takes_the_gradient_on_one_side_only() -> None:
    """A good answer that rose enough and a bad one that fell enough have none; on the other sides they keep it."""
    ratios = torch.tensor([0.5, -0.5, 0.5, -0.5], dtype=torch.double, requires_grad=True)
    losses = clipped_losses(ratios, torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.double), low=0.2, high=0.2)
    (found,) = torch.autograd.grad(losses.sum(), ratios)
    assert found.tolist() == pytest.approx([0, -(2.718281828**-0.5), 2.718281828**0.5, 0], abs=1e-8)


def test_a_ratio_that_overflows_on_the_clipped_side_has_gradient_zero() -> None:
    ratios = torch.tensor([200.0, -200.0], requires_grad=True)
    losses = clipped_losses(ratios, torch.tensor([1.0, -1.0]), low=0.2, high=0.2)
    (found,) = torch.autograd.grad(losses.sum(), ratios)
    assert losses.tolist() == pytest.approx([-1.2, 0.8]) and found.tolist() == [0, 0]


def test_a_lower_clip_of_1_holds_nothing_back() -> None:
    ratio, advantage = torch.tensor([-50.0], dtype=torch.double), torch.tensor([-2.0], dtype=torch.double)
    assert clipped_losses(ratio, advantage, low=1.0, high=0.2).item() == pytest.approx(2 * torch.exp(ratio).item())


CHECKED: dict[str, Callable[[Tensor], Tensor]] = {
    "clipped": lambda x: clipped_losses(x - LOGPS, ADVANTAGES, low=0.2, high=0.28),
    "dual": lambda x: clipped_losses(x - LOGPS, ADVANTAGES, low=0.2, high=0.2, dual=1.25),
    "geometric": lambda x: clipped_losses(
        log_ratios_at("geometric", x - LOGPS, ANSWER_OF, LENGTHS), ADVANTAGES, low=0.1, high=0.1
    ),
    "sequence": lambda x: clipped_losses(
        log_ratios_at("sequence", x - LOGPS, ANSWER_OF, LENGTHS), ADVANTAGES, low=0.2, high=0.2
    ),
    "reinforce": lambda x: reinforce_losses(x, ADVANTAGES),
    "clamped weight": lambda x: clamped_weight_losses(RATIOS, x, ADVANTAGES, low=0.8, high=1.2),
    **{
        f"added up by {how}": lambda x, how=how: aggregate(x**2, ANSWER_OF, LENGTHS, how=how, step=STEP)
        for how in AGGREGATED
    },
}


@pytest.mark.parametrize("name", CHECKED)
def test_gradients_in_fp64(name: str) -> None:
    assert torch.autograd.gradcheck(CHECKED[name], ((LOGPS + RATIOS).requires_grad_(),))


def test_a_clamped_weight_has_no_gradient_of_its_own() -> None:
    logps = (LOGPS + RATIOS).requires_grad_()
    losses = clamped_weight_losses(logps - LOGPS, logps, ADVANTAGES, low=0.0, high=1.2)
    (found,) = torch.autograd.grad(losses.sum(), logps)
    assert found.tolist() == pytest.approx((-RATIOS.exp().clamp(max=1.2) * ADVANTAGES).tolist(), abs=1e-12)


def test_a_step_in_which_no_answer_counts_has_loss_zero() -> None:
    nothing = torch.zeros(6, dtype=torch.double)
    step = StepCounts.of(LENGTHS, torch.tensor([False, False]), 8)
    assert step == StepCounts(0, 0, 8)
    for how in AGGREGATED:
        assert aggregate(nothing, ANSWER_OF, LENGTHS, how=how, step=step).tolist() == [0, 0]
