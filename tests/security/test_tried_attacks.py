"""Attacks and accidents beside those that the tests of each kind hold: other places, other files, other sizes."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from likelier.cli import main as cli
from likelier.cli.faults import report_error
from likelier.models.policy import load_policy
from likelier.runs.folder import RunFolder
from likelier.runs.ownership import take_away_begun
from likelier.training.origin import origin_of
from likelier.utils.errors import ConfigError, RunFolderError
from likelier.utils.files import flaw_of, is_stream, local, seal, write_whole
from likelier.utils.outputs import check_output
from tests.helpers.small_runs import SmallRuns

DEEP = "[" * 100_000


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder of ours on the file system in memory, whose place is below /dev."""
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("no /dev/shm here")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


def test_a_file_below_dev_is_a_file(runs: SmallRuns, memory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """/dev/shm is where many keep their data: what lies there is somebody's."""
    data = Path(shutil.copy(runs.pairs, memory / "pairs.jsonl"))
    before = data.read_bytes()
    for words in (
        ["convert", data, data],
        ["convert", data, f"/dev/../dev/shm/{memory.name}/pairs.jsonl"],
        ["audit", data, "--output", data],
        ["audit", data, "--format", "json", "--output", memory / "." / "pairs.jsonl"],
    ):
        assert cli.main([*map(str, words)]) == 2
        assert "would be overwritten" in capsys.readouterr().err
        assert data.read_bytes() == before


@pytest.mark.parametrize("name", ["/dev/null", "/dev/stdout", "/dev/stderr", "/dev/fd/1", "/proc/self/fd/2"])
def test_streams_and_devices_are_streams(name: str) -> None:
    assert is_stream(Path(name))
    check_output(name)


@pytest.mark.parametrize("name", ["/dev/shm/x", "/dev/../tmp/x", "/dev/stdout/../../tmp/x", "/dev/fd/x", "/devil/null"])
def test_other_names_are_not(name: str) -> None:
    assert not is_stream(Path(name))


def test_a_file_that_a_stream_leads_into_is_not_cut(tmp_path: Path) -> None:
    """As in `likelier audit F --output /dev/stdout >> log`."""
    log = tmp_path / "log"
    log.write_text("before\n", encoding="utf-8")
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    try:
        write_whole(Path(f"/dev/fd/{descriptor}"), b"one\n")
        write_whole(Path(f"/proc/self/fd/{descriptor}"), b"two\n")
        os.write(descriptor, b"after\n")
    finally:
        os.close(descriptor)
    assert log.read_text(encoding="utf-8") == "before\none\ntwo\nafter\n"


@pytest.mark.parametrize("content", ["[1, 2]", "null", '"x"', DEEP, ""])
@pytest.mark.parametrize("member", ["adapter_config.json", "tokenizer_config.json"])
def test_a_damaged_adapter_is_no_fault_of_ours(
    member: str, content: str, runs: SmallRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(runs.adapter, tmp_path / "run"))
    (run / member).write_text(content, encoding="utf-8")
    assert cli.main(["merge", str(run), str(tmp_path / "out")]) == 2, capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("member", ["config.json", "generation_config.json"])
def test_a_deep_configuration_is_no_fault_of_ours(
    member: str, runs: SmallRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Path(shutil.copytree(runs.model, tmp_path / "model"))
    (model / member).write_text(f'{{"x": {DEEP}', encoding="utf-8")
    words = ["preview", str(runs.pairs), "--model", str(model)]
    code = cli.main(words if member == "config.json" else ["chat", str(model), "--prompt", "x"])
    assert code == 2, capsys.readouterr().err


def test_deep_lines_and_checkpoints_are_damaged(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.metrics_file.write_text(f'{{"step": 1}}\n{DEEP}\n', encoding="utf-8")
    with pytest.raises(RunFolderError, match="damaged"):
        run.read_metrics()
    step = tmp_path / "checkpoints" / "step-1"
    step.mkdir(parents=True)
    (step / "config.json").write_text(DEEP, encoding="utf-8")
    seal(step)
    assert "cannot be read" in (flaw_of(step) or "")


@pytest.mark.parametrize("ends", [[2, 5], 5, [5, 2]])
def test_what_ends_a_turn_is_part_of_a_run(ends: Any, runs: SmallRuns, tmp_path: Path) -> None:
    """It decides where plain answers end and where sampling stops."""
    model = Path(shutil.copytree(runs.model, tmp_path / "model"))
    before = origin_of(load_policy(model))
    assert before == origin_of(load_policy(model))
    path = model / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": ends}), encoding="utf-8")
    after = origin_of(load_policy(model))
    assert [name for name in before if before[name] != after[name]] == ["tokenizer"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("adam_beta1", 1.0), ("adam_epsilon", -1.0), ("adam_beta2", 7.5)),
        *(("torch_compile_backend", "os"), ("optim", "nonsense"), ("neftune_noise_alpha", 5.0)),
    ],
)
def test_what_transformers_and_torch_refuse_is_told(
    name: str, value: Any, runs: SmallRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run.yaml"
    settings = {"model": str(runs.model), "data": str(runs.pairs), "output": str(tmp_path / "out"), "batch_size": 4}
    run.write_text(json.dumps({**settings, "max_steps": 2, "trainer": {name: value}}), encoding="utf-8")
    assert cli.main(["train", str(run)]) == 2
    said = capsys.readouterr().err
    assert "refuses the training options" in said or f"trainer.{name}" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("length", ["9223372036854775807", "9" * 30])
@pytest.mark.parametrize("command", ["audit", "preview"])
def test_a_length_beyond_every_number_of_numpy(command: str, length: str, runs: SmallRuns) -> None:
    assert cli.main([command, str(runs.pairs), "--model", str(runs.model), "--max-length", length]) == 0


def test_scores_of_rows_in_a_file_whose_name_is_not_utf8(runs: SmallRuns, tmp_path: Path) -> None:
    data, out = tmp_path / os.fsdecode(b"rows-\xff.jsonl"), tmp_path / "scores.jsonl"
    shutil.copy(runs.pairs, data)
    assert cli.main(["score", "--model", str(runs.whole), "--data", str(data), "--output", str(out)]) == 0
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 12 and all(os.fsencode(row["source"]).startswith(os.fsencode(data)) for row in rows)


@pytest.mark.parametrize("name", ["~", "~/x", "~/.cache/likelier"])
def test_an_empty_home_is_none(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not the root of all folders, where the cache would be written."""
    monkeypatch.delenv("HOME", raising=False)
    known = local(name)
    monkeypatch.setenv("HOME", "")
    assert local(name) == known and known.is_absolute() and len(known.parts) > 1
    monkeypatch.setattr("os.getuid", lambda: 2**31 - 5)
    with pytest.raises(ConfigError, match="no home folder"):
        local(name)


@pytest.mark.parametrize("place", ["evaluations", "checkpoints", "skipped"])
def test_notes_in_the_folders_of_a_killed_run_stay(place: str, runs: SmallRuns, tmp_path: Path) -> None:
    run = Path(shutil.copytree(runs.adapter, tmp_path / "run"))
    for part in ("evaluations", "checkpoints", "skipped"):
        (run / part).mkdir(exist_ok=True)
        (run / part / "step-3.json").write_text("{}", encoding="utf-8")
    (run / "checkpoints" / "step-4").mkdir()
    (run / place / "notes.md").write_text("mine", encoding="utf-8")
    take_away_begun(run)
    assert [str(left.relative_to(run)) for left in run.rglob("*")] == [place, f"{place}/notes.md"]


@pytest.mark.parametrize("rank", ["0", "-3", "70000", "99999999999999999999999999"])
def test_a_rank_that_no_matrix_has(rank: str, runs: SmallRuns, tmp_path: Path, capsys: Any) -> None:
    words = ["train", "--model", runs.model, "--data", runs.pairs, "--output", tmp_path / "out", "--lora-r", rank]
    assert cli.main([*map(str, words)]) == 2
    assert "is out of range; it must be a whole number from 1 to 65,536" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_too_little_memory_is_told_as_that(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**58, dtype=torch.uint8)
    assert report_error(caught.value) == 2 and "memory" in capsys.readouterr().err
    assert report_error(torch.OutOfMemoryError("CUDA out of memory")) == 2
