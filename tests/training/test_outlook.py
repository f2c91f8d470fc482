"""The plan of a run with its time, before the first step, and what is left by the pace of its own steps."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from likelier import DPO, PreferenceTrainer, SimPO
from likelier.scoring import attach_scorer
from likelier.training.outlook import Outlook
from likelier.training.prepared import prepare_run
from tests.helpers.clocks import Clock
from tests.helpers.support import chat_pairs, lora_policy

SETTINGS: dict[str, Any] = {"batch_size": 8, "eval_steps": 2, "eval_new_tokens": 6, "eval_prompts": 4, "max_steps": 9}


def outlook(folder: Path, objective: Any = None, *, held_out: int = 10) -> Outlook:
    policy = lora_policy(dtype=torch.float32)
    options: dict[str, Any] = SETTINGS if held_out else {"batch_size": 8, "max_steps": 9}
    run = prepare_run(
        policy, objective or DPO(), chat_pairs(24), eval_data=chat_pairs(held_out, seed=1), output_dir=folder, **options
    )
    attach_scorer(policy.model)
    found = Outlook(run, 512, torch.device("cpu"), clock=Clock())
    found.say_plan(policy.model, None)
    return found


def stepped(found: Outlook, steps: int) -> None:
    for step in range(1, steps + 1):
        found.on_step_begin()
        found.on_step_end(None, SimpleNamespace(global_step=step), None)  # type: ignore[arg-type]


def test_the_plan_names_steps_rows_evaluations_and_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outlook(tmp_path / "run")
    said = capsys.readouterr().err
    assert "plan: 9 steps of 8 from 24 pairs; 10 held-out rows are evaluated" in said
    assert "before the first step, every 2 steps and at the end with up to 4 answers of 6 tokens" in said
    assert "plan: 9 steps, about" in said and "% either way" in said
    assert all(part in said for part in ("reference", "training", "evaluating"))


def test_what_a_run_does_not_do_is_not_in_its_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = outlook(tmp_path / "run", SimPO(), held_out=0)
    said = capsys.readouterr().err
    assert "nothing is held out" in said and "reference" not in said and "evaluating" not in said
    assert found.foreseen().seconds["training"] > 0


def test_the_time_of_the_parts_follows_what_is_left(tmp_path: Path) -> None:
    found = outlook(tmp_path / "run")
    whole, late = found.foreseen().seconds, found.foreseen(6).seconds
    assert late["training"] == pytest.approx(whole["training"] * 3 / 9, rel=0.01)
    assert 0 < late["evaluating"] < found.foreseen(0).seconds["evaluating"] < whole["evaluating"]


def test_after_a_few_steps_what_is_left_is_told_once_by_their_pace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = outlook(tmp_path / "run")
    at_start = found.foreseen().seconds["evaluating"] - found.foreseen(0).seconds["evaluating"]
    metrics = {"eval_seconds": at_start * 2}  # twice as slow as foreseen
    found.on_evaluate(None, SimpleNamespace(global_step=0), None, metrics)  # type: ignore[arg-type]
    capsys.readouterr()
    stepped(found, 6)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "left: 6 steps of 1 s, evaluations" in said[0]
    assert found._evaluations_left(3) == pytest.approx(2 * found.foreseen(3).seconds["evaluating"])


def test_a_run_that_is_nearly_over_says_no_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = outlook(tmp_path / "run", held_out=0)
    capsys.readouterr()
    stepped(found, 9)
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_a_run_tells_its_plan_before_the_reference_and_the_first_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = SETTINGS | {"max_steps": 4}
    run: dict[str, Any] = {"eval_data": chat_pairs(10, seed=1), "output_dir": tmp_path / "run", **settings}
    PreferenceTrainer(lora_policy(dtype=torch.float32), DPO(), chat_pairs(24), save_steps=2, **run).train()
    said = capsys.readouterr().err
    assert said.index("plan: 4 steps of 8") < said.index("plan: 4 steps, about") < said.index("reference:")
