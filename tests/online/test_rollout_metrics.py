"""What is logged of a rollout, against TRL's own functions and by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from trl.trainer.utils import nanstd

from likelier.data.prompts import Prompt
from likelier.data.records import Source
from likelier.objectives.metrics import MetricSums
from likelier.online.rollout import Asked, Rollout
from likelier.online.sampling import Sampled

NAN = float("nan")


def rollout(lengths: list[int], whole: list[bool], parts: list[list[float]]) -> Rollout:
    """Two answers to each prompt."""
    answers = [
        Sampled(np.zeros(size, dtype=np.int32), np.full(size, -0.5), "eos" if ends else "length")
        for size, ends in zip(lengths, whole, strict=True)
    ]
    asked = [Asked(n, np.zeros(1, dtype=np.int32), Prompt("ask", Source("rows", n))) for n in range(len(answers) // 2)]
    made = Rollout.of(asked, [answers[2 * n : 2 * n + 2] for n in range(len(asked))])
    values = torch.tensor(parts, dtype=torch.float64)
    return replace(made, names=("json", "length"), parts=values, rewards=values.nansum(1))


MIXED = rollout([3, 9, 4, 12], [True, True, False, True], [[1, NAN], [0, 2], [1, NAN], [0.5, 5]])
CUT = rollout([8, 8], [False, False], [[1, NAN], [0, 1]])


def test_lengths_and_spreads_are_those_of_the_step() -> None:
    found = MIXED.metrics().means()
    for number, name in enumerate(("json", "length")):
        assert found[f"rewards/{name}/std"] == pytest.approx(float(nanstd(MIXED.parts[:, number])))
    assert (found["completions/min_length"], found["completions/max_length"]) == (3, 12)
    ended = [found[f"completions/{which}_terminated_length"] for which in ("min", "mean", "max")]
    assert ended == [3, 8, 12]


def test_what_no_answer_has_is_left_out() -> None:
    found = CUT.metrics().means()
    assert (found["completions/min_length"], found["completions/max_length"]) == (8, 8)
    assert not [name for name in found if "terminated" in name]
    assert "rewards/length/std" not in found  # of a single verdict
    assert found["rewards/json/std"] == pytest.approx(0.5**0.5)


def test_over_several_steps_their_mean_is_logged() -> None:
    window = MetricSums().merge([MIXED.metrics(), CUT.metrics()]).means()
    assert (window["completions/min_length"], window["completions/max_length"]) == (5.5, 10)
    assert window["completions/min_terminated_length"] == 3  # of the one step that has it
    spreads = [float(nanstd(one.parts[:, 0])) for one in (MIXED, CUT)]
    assert window["rewards/json/std"] == pytest.approx(sum(spreads) / 2)
