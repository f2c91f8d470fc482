"""A reward model's claims against what is right."""

from __future__ import annotations

import math

import pytest
import torch

from likelier.training.evaluation.calibration import calibration
from likelier.utils.statistics import wilson


def logit(share: float) -> float:
    return math.log(share / (1 - share))


def test_claims_are_counted_by_hand() -> None:
    margins = torch.tensor([logit(0.75), logit(0.75), -logit(0.75), logit(0.75), logit(0.95), -logit(0.95), 0.0])
    metrics, bins = calibration(margins, range(7))
    assert [one["pairs"] for one in bins] == [1, 4, 2]
    assert [one["claimed"] for one in bins] == pytest.approx([0.5, 0.75, 0.95])
    assert [one["right"] for one in bins] == [0, 0.75, 0.5]  # a tie is wrong
    assert (bins[1]["low"], bins[1]["high"]) == pytest.approx(wilson(3, 4))
    assert metrics["calibration_error"] == pytest.approx((1 * 0.5 + 4 * 0.0 + 2 * 0.45) / 7)
    assert metrics["confidence"] == pytest.approx((0.5 + 4 * 0.75 + 2 * 0.95) / 7)


def test_one_that_means_what_it_says_has_no_error_but_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    size = 3 * torch.rand(40_000, generator=generator)
    sign = torch.where(torch.rand(40_000, generator=generator) < torch.sigmoid(size), 1.0, -1.0)
    metrics, bins = calibration(size * sign, range(40_000))
    assert metrics["calibration_error"] < 0.01
    too_sure, _ = calibration(3 * size * sign, range(40_000))
    assert too_sure["calibration_error"] > 0.1 and too_sure["confidence"] > metrics["confidence"]
    assert all(one["low"] - 0.01 <= one["claimed"] <= one["high"] + 0.01 for one in bins)


def test_pairs_of_one_prompt_make_an_interval_no_narrower() -> None:
    margins = torch.tensor([1.0, 1.0, 1.0, -1.0] * 10)
    (alone,), (alike,) = (calibration(margins, prompts)[1] for prompts in (range(40), [n // 4 for n in range(40)]))
    assert alike["high"] - alike["low"] >= alone["high"] - alone["low"]
