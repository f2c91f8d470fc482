"""The display of a run that learns from its own answers, in its terminal and in another one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from likelier.cli import main as cli
from likelier.insight.live.view import evaluation_line, step_line
from likelier.runs.reader import read_run
from tests.helpers.online_runs import OnlineRuns, train_online

STEP = {"step": 3, "loss": 1e-9, "reward": 0.625, "completions/mean_length": 11.5, "completions/clipped_ratio": 0.25}
SPEED = {"entropy": 2.5, "sampling/tokens_per_second": 1234.5}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (STEP | SPEED, "step 3/8  reward 0.625  length 11.5  entropy 2.5  cut 25%  1,234 tokens/s sampled"),
        (STEP | {"kl": 0.5}, "step 3/8  reward 0.625  length 11.5  cut 25%  kl 0.5"),
        ({"step": 3, "loss": 0.5, "ratio/mean": 1.0625, "kl": 0.5}, "step 3/8  ratio 1.062  kl 0.5"),
        ({"step": 3, "loss": 0.5, "kl": 0.25}, "step 3/8  loss 0.500  kl 0.250"),
    ],
)
def test_a_step_is_told_by_what_its_answers_earned(row: dict[str, Any], words: str) -> None:
    assert step_line(row, 8, None, "prompts") == words


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            {"reward": 0.5, "reward_low": 0.25, "reward_high": 0.75, "items": 12.0},
            "held out, step 4: reward 0.5 (0.25 to 0.75), of 12",
        ),
        (
            {"reward": 0.5, "items": 1.0, "reward_gain": -0.25, "reward_gain_low": -0.5, "reward_gain_high": 0.0},
            "held out, step 4: reward 0.5, of 1, gain -0.25 (-0.5 to +0)",
        ),
        ({"no_verdict": 1.0, "items": 12.0}, "held out, step 4: no answer has a reward"),
        ({"loss": 0.5, "reward": 0.25, "items": 12.0}, "held out, step 4: loss 0.5000"),
    ],
)
def test_an_evaluation_is_told_by_what_its_answers_earned(row: dict[str, Any], words: str) -> None:
    assert evaluation_line(row, 4) == words


def test_a_run_shows_itself(online_runs: OnlineRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--reward", "length:..14 characters", "--eval-fraction", "0.25", "--max-steps", "2"]
    train_online(online_runs.model, online_runs.prompts, tmp_path / "run", *words)
    lines = capsys.readouterr().err.splitlines()
    assert not any("out of order" in line for line in lines)
    assert [line.split(":")[0] for line in lines if line.startswith("held out")] == [
        "held out, step 0",
        "held out, step 1",
        "held out, step 2",
    ]
    last = next(line for line in lines if line.startswith("step 2/2  reward "))
    assert "prompts/s" in last and last.endswith("tokens/s sampled")


def test_a_run_is_seen_from_another_terminal(online_runs: OnlineRuns, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["watch", str(online_runs.adapter), "--once"]) == 0
    shown = capsys.readouterr().out
    for words in ("in training", "tokens an answer", "cut answers", "nats a token", "gain ", "tokens/s sampled"):
        assert words in shown
    assert "loss" not in shown


def test_an_evaluation_without_a_loss_is_one(online_runs: OnlineRuns) -> None:
    run = read_run(online_runs.adapter)
    logged = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert len(run.evaluations) == sum("eval_items" in row for row in logged) > 1
    assert run.card.facts.writes_answers and run.card.facts.items == "prompts"
    assert run.card.data.held_out == run.evaluations[0]["items"] == 8
