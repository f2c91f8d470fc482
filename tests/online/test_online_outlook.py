"""What a run that writes its answers says before its first step. No clock decides."""

from pathlib import Path
from typing import Any

import pytest
import torch

from likelier.online.outlook import OnlineOutlook
from likelier.online.sampling import GeneratingSampler
from tests.helpers.clocks import Clock
from tests.helpers.online_trainers import online_trainer as trainer
from tests.helpers.support import tiny_policy


def outlook(folder: Path, sampler: Any = None, **more: Any) -> OnlineOutlook:
    made = trainer(folder, max_steps=6, **more)
    found = OnlineOutlook(made.run, sampler or made._maker.sampler, 256, torch.device("cpu"), clock=Clock())
    found.say_plan(made.policy.model, None)
    return found


def test_the_plan_has_prompts_answers_and_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = outlook(tmp_path / "run", held_out=3)
    said = " ".join(capsys.readouterr().err.split())
    assert "plan: 6 steps; 9 prompts, 4 to a step with 8 answers each of at most 8 tokens" in said
    assert "3 held-out prompts are answered before the first step, every 1 steps and at the end" in said
    assert "plan: 6 steps, about" in said and "without what the rewards take" in said
    seconds = found.foreseen().seconds
    assert seconds["training"] > 0 and seconds["sampling"] == found._work.sampling.scored * found._forward
    left = found.foreseen(3).seconds
    assert left["training"] == pytest.approx(seconds["training"] / 2) and left["evaluating"] < seconds["evaluating"]


def test_without_held_out_prompts_nothing_is_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = outlook(tmp_path / "run")
    assert "nothing is held out, so nothing is evaluated" in " ".join(capsys.readouterr().err.split())
    assert found.foreseen().seconds["evaluating"] == 0


def test_prompts_that_are_not_shared_are_answered_one_by_one(tmp_path: Path) -> None:
    policy = tiny_policy()
    made = trainer(tmp_path / "run", policy)
    apart = GeneratingSampler(policy, made._maker.sampler.sampling)
    alone = OnlineOutlook(made.run, apart, 256, torch.device("cpu"))
    assert (
        alone._work.together
        == 8
        < OnlineOutlook(made.run, made._maker.sampler, 256, torch.device("cpu"))._work.together
    )
