"""A run replaces and deletes what runs made; its user's files are refused or left, and a refusal changes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from likelier.cli import main as cli
from likelier.runs.folder import RunFolder
from likelier.runs.ownership import stranger_in, take_away_begun, was_begun
from likelier.utils.errors import RunFolderError
from tests.helpers.small_runs import SmallRuns, write_card
from tests.security.test_links import state

REFUSED = [
    *("README.md", "run.json", "audit.json", "metrics.jsonl", "config.json", "tokenizer.json", "chat_template.jinja"),
    *("vocab.txt", "generation_config.json", "model.safetensors.index.json", "spiece.model"),
]
REFUSED_FOLDERS = ["checkpoints", "evaluations", "skipped", ".new-files", "additional_chat_templates"]
LEFT = ["train.log", "notes.txt", ".gitignore", ".mine.1234.tmp", "run.yaml", ".run.json.backup.tmp", ".lock"]
BEGUN = {"status": "training", "versions": {"likelier": "0.1.0"}, "fingerprint": {}}


def words(runs: SmallRuns, output: Path, command: str = "train", *more: str) -> list[str]:
    given = [
        command,
        "--model",
        runs.model,
        "--data",
        runs.pairs,
        "--output",
        output,
        "--max-steps",
        "1",
        "--warmup",
        "0",
        *more,
    ]
    return [*map(str, given), "--batch-size", "4"]


@pytest.mark.parametrize("more", [[], ["--resume"]])
@pytest.mark.parametrize("name", [*REFUSED, *(f"{folder}/mine" for folder in REFUSED_FOLDERS)])
def test_a_run_is_refused_and_changes_nothing(name: str, more: list[str], runs: SmallRuns, tmp_path: Path) -> None:
    mine = tmp_path / "run" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("mine", encoding="utf-8")
    before = state(tmp_path)
    assert cli.main(words(runs, tmp_path / "run", "train", *more)) == 2
    with pytest.raises(RunFolderError):
        RunFolder(tmp_path / "run").open(resume=bool(more))
    assert state(tmp_path) == before


def test_other_files_are_left(runs: SmallRuns, tmp_path: Path) -> None:
    output = tmp_path / "run"
    (output / "checkpoint-old").mkdir(parents=True)
    for name in LEFT:
        (output / name).write_text("mine", encoding="utf-8")
    assert cli.main(words(runs, output)) == 0
    assert all((output / name).read_text(encoding="utf-8") == "mine" for name in LEFT)
    assert (output / "checkpoint-old").is_dir() and (output / "run.json").is_file()


@pytest.mark.parametrize("flaw", ["--model", "--data", "--max-length"])
def test_a_refused_run_leaves_no_folder(flaw: str, runs: SmallRuns, tmp_path: Path) -> None:
    before = state(tmp_path)
    assert cli.main(words(runs, tmp_path / "new" / "run", "train", flaw, "1" if "max" in flaw else "/nowhere/x")) == 2
    assert state(tmp_path).keys() == before.keys()


def test_what_was_begun_is_known_by_its_card(tmp_path: Path) -> None:
    assert not was_begun(tmp_path / "nowhere") and stranger_in(tmp_path / "nowhere") is None
    for content in ({}, {"versions": {"other": "1"}}, {**BEGUN, "stages": []}, {"versions": "likelier"}):
        write_card(tmp_path, content)
        assert not was_begun(tmp_path) and stranger_in(tmp_path) == "run.json"
    write_card(tmp_path, BEGUN)
    assert was_begun(tmp_path) and stranger_in(tmp_path) is None
    (tmp_path / "README.md").write_text("mine", encoding="utf-8")
    assert stranger_in(tmp_path) == "README.md"
    (tmp_path / "run.json").write_text("[1]", encoding="utf-8")
    (tmp_path / "audit.json").write_text(json.dumps({"rows": 1, "usable": 1, "findings": []}), encoding="utf-8")
    assert not was_begun(tmp_path)
    (tmp_path / "run.json").unlink()
    assert was_begun(tmp_path)


def test_what_a_killed_run_left_goes_and_the_users_files_stay(tmp_path: Path) -> None:
    write_card(tmp_path, BEGUN)
    for name in ("evaluations/step-0.json", "checkpoints/.staging/checkpoint-1/x", ".new-files/config.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("ours", encoding="utf-8")
    for name in (".run.json.77.tmp", "evaluations/.step-4.json.77.tmp"):
        (tmp_path / name).write_text("ours", encoding="utf-8")
    for name in LEFT:
        (tmp_path / name).write_text("mine", encoding="utf-8")
    RunFolder(tmp_path).open(resume=False)
    gone = ("checkpoints/.staging", ".new-files", ".run.json.77.tmp", "evaluations/.step-4.json.77.tmp")
    assert not [name for name in gone if (tmp_path / name).exists()]
    take_away_begun(tmp_path)
    assert {entry.name for entry in tmp_path.iterdir()} == {*LEFT} - {".lock"}


def test_nothing_is_taken_away_where_no_run_began(tmp_path: Path) -> None:
    for content in ({"mine": 1}, {**BEGUN, "stages": []}):
        write_card(tmp_path, content)
        (tmp_path / "evaluations").mkdir(exist_ok=True)
        before = state(tmp_path)
        take_away_begun(tmp_path)
        assert state(tmp_path) == before


STAGES = "model: {model}\ndata: {data}\noutput: {output}\nmax_steps: 1\nstages:\n  - method: sft\n  - method: dpo\n"


@pytest.mark.parametrize("name", ["README.md", "1-sft/mine", "run.json", "sweep.json", "x"])
@pytest.mark.parametrize("kind", ["stages", "sweep"])
def test_stages_and_sweeps_are_refused_and_change_nothing(
    kind: str, name: str, runs: SmallRuns, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    (output / name).parent.mkdir(parents=True)
    (output / name).write_text("{}", encoding="utf-8")
    file = tmp_path / "run.yaml"
    file.write_text(STAGES.format(model=runs.model, data=runs.pairs, output=output), encoding="utf-8")
    sweep = words(runs, output, "sweep", "--eval-fraction", "0.25", "--vary", "dpo.beta=0.1,0.2")
    before = state(tmp_path)
    for more in ([], ["--resume"]):
        assert cli.main([*(["train", str(file)] if kind == "stages" else sweep), *more]) == 2
    assert state(tmp_path) == before
