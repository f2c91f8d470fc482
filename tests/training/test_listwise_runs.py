"""Runs that learn from all scored answers of a row."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from likelier.cli import main as cli
from likelier.data.groups import Group
from likelier.data.load import load_preferences
from likelier.data.prepare import prepare_groups
from likelier.objectives import InfoNCA, NCAScores
from likelier.objectives.listwise import Listwise
from tests.helpers.small_runs import read_card, save_tiny, write_rows
from tests.helpers.support import tiny_tokenizer
from tests.training.test_step_and_mistakes import assert_same_gradients, gradients, uncut, walk, walker_of

ANSWERS = ["the cat sat", "a dog", "birds sing in the tree", "no"]


def rows(count: int = 12) -> list[dict[str, Any]]:
    """Of two to four answers each."""
    return [
        {
            "prompt": [{"role": "user", "content": f"say {number} of it"}],
            "answers": [[{"role": "assistant", "content": f"{text} {number}"}] for text in ANSWERS[: 2 + number % 3]],
            "scores": [(3 * number + 2 * place) % 7 + place / 10 for place in range(2 + number % 3)],
        }
        for number in range(count)
    ]


def groups() -> list[Group]:
    settings: dict[str, Any] = {"partners": False, "max_length": 512, "truncation": "drop", "method": "infonca"}
    found = prepare_groups(load_preferences(rows(6)).train, tiny_tokenizer(), wants="scores", **settings).groups
    rng = np.random.default_rng(0)
    return [
        replace(
            one, ref_logps=tuple(-9.0 * len(answer) + rng.normal() for answer in one.answers), weight=1 + number / 9
        )
        for number, one in enumerate(found)
    ]


@pytest.mark.parametrize("objective", [InfoNCA(beta=0.5), NCAScores(beta=0.5)], ids=lambda one: one.method)
def test_micro_batches_of_other_sizes_have_the_steps_gradient(objective: Listwise) -> None:
    every = groups()
    expected = uncut(objective, every)
    for budget in (40, 120):
        walker = walker_of(objective, budget)
        done = walk(walker, every)
        assert len(done.parts) > 1
        assert_same_gradients(gradients(walker.model), expected)


@pytest.mark.slow
def test_a_run_from_a_file_of_scored_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, data = save_tiny(tmp_path / "tiny"), write_rows(tmp_path / "rows.jsonl", rows())
    out = tmp_path / "run"
    words = ["train", "--method", "nca_scores", "--model", model, "--data", data, "--output", out, "--batch-size", "4"]
    words += ["--eval-fraction", "0.25", "--epochs", "4", "--learning-rate", "1e-2", "--beta", "0.1"]
    words += ["--reference-store", tmp_path / "store", "--eval-prompts", "0"]
    assert cli.main([str(word) for word in words]) == 0
    said = capsys.readouterr().err
    assert "answer 1, score " in said
    logged = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in logged if "loss" in row]
    assert losses[0] == pytest.approx(2 * np.log(2), abs=1e-5) and losses[-1] < losses[0]
    held = [row for row in logged if "eval_loss" in row]
    assert {"eval_rewards/accuracies", "eval_rewards/margins", "eval_pair_accuracy"} <= held[-1].keys()
    assert read_card(out)["objective"]["items"] == "rows"
    assert cli.main(["inspect", str(out), "--row", "1"]) == 0
    assert "nca_scores's loss compares all scored answers of a row, and these are two" in capsys.readouterr().out
    assert cli.main(["diagnose", str(out)]) in (0, 1)
    assert cli.main(["report", str(out)]) == 0
    for more, why in (
        (["--min-score-gap", "1"], "nca_scores learns from the scores themselves; drop min_score_gap"),
        (["--use-weights", "scores"], "nca_scores learns from the scores themselves; drop use_weights=scores"),
        (["--use-margins", "scores"], "nca_scores has no place for a margin"),
    ):
        again = [str(tmp_path / "no" if word == out else word) for word in words]
        assert cli.main([*again, *more]) != 0
        assert why in capsys.readouterr().err
