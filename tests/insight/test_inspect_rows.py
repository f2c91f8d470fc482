"""`likelier inspect` without a row proposes some, and one that cannot be used names the nearest."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from likelier.cli import main as cli
from tests.helpers.small_runs import SmallRuns, pair_rows, save_tiny, train, write_rows

pytestmark = pytest.mark.slow


def test_rows_are_proposed_and_can_be_typed(runs: SmallRuns, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", str(runs.adapter)]) == 0
    said = capsys.readouterr().out
    commands = re.findall(r"likelier (inspect \S+ --row \d+)", said)
    assert "held out: " in said and "trained on: the longest answers" in said and len(commands) > 3
    for command in (commands[0], commands[-1]):
        assert cli.main(shlex.split(command)) == 0
        assert ("held out" in capsys.readouterr().out) == (command == commands[0])


def test_rows_are_proposed_where_the_file_was_named_without_its_folder(
    runs: SmallRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(tmp_path / "pairs.jsonl", pair_rows(8))
    monkeypatch.chdir(tmp_path)
    run = train(runs.model, Path("pairs.jsonl"), tmp_path / "run", "--eval-fraction", "0.5")
    capsys.readouterr()
    assert cli.main(["inspect", str(run)]) == 0
    assert re.search(r"--row \d+ +held out: ", capsys.readouterr().out)


def test_held_out_rows_of_another_file_are_named_as_such(
    runs: SmallRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_rows(tmp_path / "other.jsonl", pair_rows(8)[::-1])
    run = train(runs.model, runs.pairs, tmp_path / "run", "--eval-data", str(other))
    capsys.readouterr()
    assert cli.main(["inspect", str(run)]) == 0
    assert re.search(r"--row \d+ --held-out +held out: ", capsys.readouterr().out)


def test_a_row_that_cannot_be_used_names_the_nearest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[dict[str, Any]] = [row | {"score_chosen": 5, "score_rejected": 0} for row in pair_rows(6)]
    rows[2]["rejected"] = rows[2]["chosen"]
    rows[4]["score_chosen"] = 1
    data = write_rows(tmp_path / "pairs.jsonl", rows)
    run = train(save_tiny(tmp_path / "tiny"), data, tmp_path / "run", "--min-score-gap", "2")
    capsys.readouterr()
    assert cli.main(["inspect", str(run), "--row", "5"]) == 2
    assert "left the row out (scores-too-close); the nearest that can be inspected" in capsys.readouterr().err
    assert cli.main(["inspect", str(run), "--row", "3"]) == 2
    assert "nearest that can be inspected is --row 2" in capsys.readouterr().err
    assert cli.main(["inspect", str(run), "--row", "99"]) == 2
    assert "nearest that can be inspected is --row 6" in capsys.readouterr().err


def test_how_it_is_shown_needs_a_row(runs: SmallRuns, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", str(runs.adapter), "--json"]) == 2
    assert "name a row with --row N" in capsys.readouterr().err
