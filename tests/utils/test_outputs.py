"""No command writes onto a file that is there, unless likelier made it or --overwrite is given."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from likelier.cli import main as cli
from likelier.data.convert import write_records
from likelier.data.load import load_preferences
from likelier.utils.errors import ConfigError
from likelier.utils.outputs import MARK, check_output, is_own_page
from tests.helpers.small_runs import SmallRuns

TRL = "model_name_or_path: m\ndataset_name: d.jsonl\noutput_dir: o\nloss_type: sigmoid\nbeta: 0.1\n"
Words = Callable[[SmallRuns, Path, Path], list[Any]]
COMMANDS: dict[str, Words] = {
    "convert": lambda runs, data, out: ["convert", data, out],
    "score": lambda runs, data, out: ["score", "--model", runs.adapter, "--data", data, "--output", out],
    "sample": lambda runs, data, out: [
        *("sample", "--model", runs.adapter, "--data", data, "--output", out),
        *("--answers", 1, "--max-new-tokens", 2),
    ],
    "audit": lambda runs, data, out: ["audit", data, "--output", out],
    "audit-html": lambda runs, data, out: ["audit", data, "--format", "html", "--output", out],
    "audit-json": lambda runs, data, out: ["audit", data, "--format", "json", "--output", out],
    "audit-write": lambda runs, data, out: ["audit", data, "--drop", "exact-duplicates", "--write", out],
    "recommend": lambda runs, data, out: ["recommend", data, "--model", runs.model, "--memory", "8GB", "--output", out],
    "import-config": lambda runs, data, out: ["import-config", data.with_name("trl.yaml"), "--output", out],
    "report": lambda runs, data, out: ["report", runs.adapter, "--output", out],
    "compare": lambda runs, data, out: ["compare", runs.adapter, runs.whole, "--output", out],
    "inspect": lambda runs, data, out: ["inspect", runs.adapter, "--data", data, "--row", "1", "--html", out],
}
PAGES = ["audit-html", "report", "compare", "inspect"]


@pytest.fixture
def data(runs: SmallRuns, tmp_path: Path) -> Path:
    (tmp_path / "trl.yaml").write_text(TRL, encoding="utf-8")
    return Path(shutil.copy(runs.pairs, tmp_path / "pairs.jsonl"))


def refused(words: list[Any], capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main([*map(str, words)]) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("way", ["file", "link", "dangling link", "folder", "page of others"])
@pytest.mark.parametrize("command", list(COMMANDS))
def test_what_is_there_stays(
    command: str, way: str, runs: SmallRuns, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, out = tmp_path / "mine", tmp_path / "out.jsonl"
    mine.write_text(f"mine\n{'x' * 3000}{MARK}", encoding="utf-8")
    if way == "folder":
        out.mkdir()
    elif way == "page of others":
        out.write_text("<!doctype html><meta charset=utf-8><title>mine</title>", encoding="utf-8")
    elif way == "file":
        shutil.copy(mine, out)
    else:
        out.symlink_to(mine if way == "link" else tmp_path / "nowhere")
    before = out.read_bytes() if out.is_file() else None
    told = refused(COMMANDS[command](runs, data, out), capsys)
    assert ("a folder" in told or "directory" in told) if way == "folder" else "--overwrite" in told
    assert (out.read_bytes() if out.is_file() else None) == before
    assert not (tmp_path / "nowhere").exists() and out.is_symlink() == ("link" in way)


@pytest.mark.parametrize("way", ["itself", "hard link", "link", "dots"])
@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in ("report", "compare")])
def test_an_input_is_no_output(
    command: str, way: str, runs: SmallRuns, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = data.with_name("trl.yaml") if command == "import-config" else data
    out = tmp_path / "other.jsonl"
    if way == "hard link":
        os.link(source, out)
    elif way == "link":
        out.symlink_to(source)
    else:
        out = source if way == "itself" else tmp_path / "x" / ".." / source.name
        (tmp_path / "x").mkdir()
    before = source.read_bytes()
    told = refused(COMMANDS[command](runs, data, out), capsys)
    assert "would be overwritten" in told or "JSON lines are written" in told
    assert source.read_bytes() == before


@pytest.mark.parametrize("member", ["run.json", "metrics.jsonl", "README.md", "adapter_config.json"])
@pytest.mark.parametrize("command", ["report", "compare", "inspect"])
def test_a_member_of_the_run_is_no_output(
    command: str, member: str, runs: SmallRuns, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (runs.adapter / member).read_bytes()
    assert "exists already" in refused(COMMANDS[command](runs, data, runs.adapter / member), capsys)
    assert (runs.adapter / member).read_bytes() == before


@pytest.mark.parametrize(
    "command", ["convert", "sample", "audit-json", "audit-write", "import-config", "report", "compare"]
)
def test_overwrite_writes(command: str, runs: SmallRuns, data: Path, tmp_path: Path) -> None:
    """A link is replaced, and what it leads to stays."""
    mine = tmp_path / "mine"
    mine.write_text("mine", encoding="utf-8")
    for link in (False, True):
        out = tmp_path / f"{link}.jsonl"
        if link:
            out.symlink_to(mine)
        else:
            out.write_text("mine", encoding="utf-8")
        assert cli.main([*map(str, [*COMMANDS[command](runs, data, out), "--overwrite"])]) in (0, 3)
        assert not out.is_symlink() and out.read_text(encoding="utf-8") != "mine"
    assert mine.read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("command", PAGES)
def test_a_page_of_ours_is_written_again(command: str, runs: SmallRuns, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    for _ in range(2):
        assert cli.main([*map(str, COMMANDS[command](runs, data, out))]) in (0, 3)
        assert is_own_page(out)


def test_a_report_in_a_run_is_written_again_and_a_page_of_the_users_is_not(runs: SmallRuns, tmp_path: Path) -> None:
    run = Path(shutil.copytree(runs.adapter, tmp_path / "run"))
    assert cli.main(["report", str(run)]) == 0 and cli.main(["report", str(run)]) == 0
    (run / "report.html").write_text("mine", encoding="utf-8")
    assert cli.main(["report", str(run)]) == 2 and (run / "report.html").read_text(encoding="utf-8") == "mine"


def test_pipes_and_new_files_are_nobodys(tmp_path: Path) -> None:
    check_output("/dev/null")
    check_output("/dev/stdout")
    check_output(tmp_path / "new")
    for name in ("a", "B"):
        (tmp_path / name).write_text("x", encoding="utf-8")
        with pytest.raises(ConfigError, match="exists already"):
            check_output(tmp_path / name)


def test_a_link_at_a_temporary_name_is_not_followed(data: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("mine", encoding="utf-8")
    (tmp_path / f".out.jsonl.{os.getpid()}.tmp").symlink_to(mine)
    write_records(load_preferences(str(data)).train, tmp_path / "out.jsonl")
    assert mine.read_text(encoding="utf-8") == "mine" and (tmp_path / "out.jsonl").is_file()


def test_a_pipe_is_written_into_and_stays(data: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    assert cli.main(["audit", str(data), "--output", str(pipe)]) in (0, 3)
    assert os.read(reader, 9) and pipe.is_fifo()
    os.close(reader)
    assert cli.main(["audit", str(data), "--output", "/dev/null"]) in (0, 3) and Path("/dev/null").is_char_device()
