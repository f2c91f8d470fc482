"""Sums and counts merge exactly."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from likelier.objectives import DPO, KTO, Scored
from likelier.objectives.metrics import MetricSums, item_metrics, readable

VALUES = st.lists(st.floats(-100, 100), min_size=1, max_size=30)


@given(values=VALUES, cut=st.integers(0, 30))
def test_merging_parts_is_the_whole(values: list[float], cut: int) -> None:
    whole, left, right = MetricSums(), MetricSums(), MetricSums()
    tensor = torch.tensor(values, dtype=torch.double)
    whole.add("x", tensor)
    left.add("x", tensor[:cut])
    right.add("x", tensor[cut:])
    assert MetricSums().merge([left, right]).means()["x"] == pytest.approx(whole.means()["x"], abs=1e-9)


def test_a_mean_of_means_is_never_taken() -> None:
    sums = MetricSums()
    sums.add("x", torch.tensor([0.0, 0.0, 0.0]))
    sums.add("x", torch.tensor([4.0]))
    assert sums.means() == {"x": 1.0}


def _scored(**more: torch.Tensor) -> Scored:
    logps = torch.tensor([-1.0, -2.0, -3.0, -3.0])
    return Scored.of(logps, torch.tensor([1, 2, 3, 4]), torch.tensor([-2.0, -2.0, -3.0, -3.0]), **more)


def test_a_tie_is_wrong() -> None:
    scored = _scored(pairs=torch.tensor([[0, 1], [2, 3]]))
    objective = DPO(beta=0.5)
    metrics = readable(item_metrics(scored, objective.losses(scored), objective.rewards(scored)))
    assert metrics["rewards/accuracies"] == 0.5
    assert metrics["rewards/chosen"] == 0.25 and metrics["rewards/rejected"] == 0.0
    assert metrics["rewards/margins"] == 0.25
    assert metrics["logps/chosen"] == -2.0 and metrics["lengths/rejected"] == 3.0
    assert metrics["loss"] == pytest.approx((math.log(1 + math.exp(-0.5)) + math.log(2)) / 2)


def test_labels_are_judged_against_the_baseline() -> None:
    rows, desirable = torch.tensor([0, 1, 2]), torch.tensor([True, False, True])
    scored = _scored(rows=rows, desirable=desirable, partners=torch.tensor([3]))
    objective = KTO(beta=1.0)
    statistics = torch.tensor([0.5, 0.25, 1.0])
    losses = objective.losses(scored, statistics)
    metrics = readable(item_metrics(scored, losses, objective.rewards(scored), objective.reward_baseline(statistics)))
    assert metrics["rewards/accuracies"] == pytest.approx(2 / 3)  # rewards 1, 0, 0 against 0.5
    assert metrics["rewards/margins"] == 0.5
    assert metrics["loss"] == pytest.approx(float(losses.mean()))


def test_ktos_baseline_is_clamped_and_its_error_is_that_of_a_mean() -> None:
    ratios = torch.tensor([1.0, -2.0, 0.5, -1.5], dtype=torch.double)
    scored = Scored.of(ratios, torch.ones(4), torch.zeros(4, dtype=torch.double), partners=torch.arange(4))
    objective = KTO()
    found = objective.statistics_metrics(objective.step_statistics(scored))
    assert found["kl"] == 0.0
    assert found["kl_standard_error"] == pytest.approx(float(ratios.std() / 2))
    one = objective.statistics_metrics(torch.tensor([2.0, 4.0, 1.0]))
    assert one == {"kl": 2.0}
