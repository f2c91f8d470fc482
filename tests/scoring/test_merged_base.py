"""A merged model's base is found by its merge.json: `score` and `chat` need no --reference."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from likelier.cli import main as cli
from tests.helpers.small_runs import SmallRuns

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def merged(runs: SmallRuns, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("merged")
    shutil.copytree(runs.adapter, folder / "adapter")
    assert cli.main(["merge", str(folder / "adapter"), str(folder / "merged")]) == 0
    return folder


def rewards(model: Path, runs: SmallRuns, output: Path) -> list[float]:
    words = ["score", "--model", model, "--data", runs.pairs, "--output", output, "--beta", "1"]
    assert cli.main(list(map(str, words))) == 0
    return [json.loads(line)["chosen"]["reward"] for line in output.read_text(encoding="utf-8").splitlines()]


def test_a_merged_model_scores_as_its_adapter_does(merged: Path, runs: SmallRuns, tmp_path: Path) -> None:
    found = rewards(merged / "merged", runs, tmp_path / "merged.jsonl")
    assert found == pytest.approx(rewards(merged / "adapter", runs, tmp_path / "adapter.jsonl"), abs=1e-3)


def test_a_folder_beside_it_is_found_and_its_weights_are_held_to_the_record(
    merged: Path, runs: SmallRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(merged / "merged", tmp_path / "merged")
    shutil.copytree(runs.model, tmp_path / "tiny")
    rewards(tmp_path / "merged", runs, tmp_path / "right.jsonl")
    shutil.rmtree(tmp_path / "tiny")
    shutil.copytree(runs.whole, tmp_path / "tiny")
    capsys.readouterr()
    words = ["chat", str(tmp_path / "merged"), "--prompt", "hello"]
    assert cli.main(words) == 2
    assert "is not the base that" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "tiny")
    assert cli.main(words) == 2
    assert "give it with --reference" in capsys.readouterr().err


def test_a_model_that_was_rounded_is_held_to_the_same_base(
    merged: Path, runs: SmallRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rounded = tmp_path / "rounded"
    assert cli.main(["merge", str(merged / "adapter"), str(rounded), "--dtype", "bfloat16"]) == 0
    shutil.copytree(runs.whole, tmp_path / "tiny")
    assert cli.main(["chat", str(rounded), "--prompt", "hello"]) == 2
    assert "is not the base that" in capsys.readouterr().err


def test_a_damaged_record_is_told(merged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(merged / "merged", tmp_path / "merged")
    (tmp_path / "merged" / "merge.json").write_text("[1", encoding="utf-8")
    assert cli.main(["chat", str(tmp_path / "merged"), "--prompt", "hello"]) == 2
    assert "merge.json cannot be read" in capsys.readouterr().err
