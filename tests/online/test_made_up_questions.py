"""Made-up questions from the command line to what was learnt from them, and to a file of answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from likelier.cli.main import main
from tests.helpers.small_runs import read_card, save_tiny

pytest.importorskip("reasoning_gym")
pytestmark = pytest.mark.slow
LEGS = "gym:leg_counting,size=12,max_animals=3"
WRITING = ("--columns", "chat=true", "--reward", "gym:leg_counting", "--max-new-tokens", "4")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny(tmp_path_factory.mktemp("asked") / "model"))


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_run_learns_from_them_and_is_evaluated_on_others(model: str, tmp_path: Path) -> None:
    out, steps = (
        tmp_path / "run",
        ("--batch-size", "2", "--answers-per-prompt", "2", "--max-steps", "2", "--rollout-steps", "1"),
    )
    words = ["train", "--method", "grpo", "--model", model, "--data", LEGS, "--eval-fraction", "0.25", "--output", out]
    both = ("--reward", "length:20 characters")  # a tiny model's answers are all wrong, and something must differ
    assert main([*map(str, words), *WRITING, *both, *steps, "--learning-rate", "1e-3"]) == 0
    card = read_card(out)
    assert (card["data"]["train"]["prompts"], card["data"]["eval"]["prompts"]) == (9, 3)
    assert card["run"]["data"] == LEGS
    asked = [row["source"] for file in (out / "rollouts").glob("step-*.jsonl") for row in rows_of(file)]
    assert len(asked) == 4 and all(source.startswith(f"{LEGS}, question ") for source in asked)


def test_answers_are_judged_by_what_stands_in_their_rows(model: str, tmp_path: Path) -> None:
    out = tmp_path / "answers.jsonl"
    words = ["sample", "--model", model, "--data", LEGS, "--answers", "2", "--output", str(out)]
    assert main([*words, *WRITING]) == 0
    rows = rows_of(out)
    assert len(rows) == 24 and {row["reward"] for row in rows} <= {0.0, 0.01}
    assert set(rows[0]["columns"]) == {"answer", "metadata"}
