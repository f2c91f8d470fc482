"""What held-out answers earn: intervals that stay within what a reward can be, and are never surer than the rows."""

from __future__ import annotations

import pytest
import torch

from likelier.online.evaluation import earned, gained
from likelier.utils.statistics import wilson


def test_verdicts_are_a_share() -> None:
    verdicts = torch.tensor([0.0, 0.0, 0.0, 1.0])
    assert earned(verdicts) == {"reward": 0.25, **_limits("reward", *wilson(1, 4))}
    none = earned(torch.zeros(24))
    assert none["reward_low"] == 0.0 and none["reward_high"] == pytest.approx(0.138, abs=0.001)


def test_a_gain_in_verdicts_stays_within_one() -> None:
    found = gained(torch.ones(24), torch.zeros(24))
    assert found["reward_gain"] == found["reward_gain_high"] == 1.0 and 0.7 < found["reward_gain_low"] < 0.95
    same = gained(torch.ones(24), torch.ones(24))
    assert same["reward_gain"] == 0.0 and same["reward_gain_low"] < -0.05 and same["reward_gain_high"] > 0.05


def test_other_rewards_have_a_mean() -> None:
    rewards = torch.tensor([1.0, 2.0, 3.0])
    assert earned(rewards)["reward_low"] == pytest.approx(2 - 4.3027 / 3**0.5, abs=1e-3)
    assert gained(rewards, rewards) == {"reward_gain": 0.0, **_limits("reward_gain", 0.0, 0.0)}
    assert earned(torch.tensor([0.5])) == {"reward": 0.5}


def _limits(name: str, low: float, high: float) -> dict[str, float]:
    return {f"{name}_low": low, f"{name}_high": high}
