"""What takes long in a command is told of, by its own name or the command's."""

from __future__ import annotations

from pathlib import Path

import pytest

from likelier.cli import main as cli
from likelier.utils import terminal
from tests.helpers.phases import recorded_phases
from tests.helpers.small_runs import SmallRuns


def test_a_command_is_told_of_under_its_name_unless_it_waits_for_somebody(monkeypatch: pytest.MonkeyPatch) -> None:
    found = recorded_phases(monkeypatch)
    for words in (
        ["diagnose", "runs/a"],
        ["chat", "runs/a"],
        ["watch", "runs/a"],
        ["merge", "--help"],
        ["nothing"],
        [],
    ):
        with cli._told_of(words):
            pass
    assert [phase.words for phase in found.seen] == ["likelier diagnose"]


def test_a_terminal_that_is_drawn_on_shows_the_parts_and_not_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    found = recorded_phases(monkeypatch)
    monkeypatch.setattr(terminal, "_is_drawn_on", lambda console: True)
    with cli._told_of(["diagnose", "runs/a"]):
        pass
    assert found.seen == []


def test_a_merge_tells_of_its_check_and_of_writing(
    runs: SmallRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = recorded_phases(monkeypatch)
    assert cli.main(["merge", str(runs.adapter), str(tmp_path / "merged")]) == 0
    checks = found.of("scoring the rows that the merge is checked on")
    assert len(checks) == 3 and all(phase.done == phase.total for phase in checks)
    assert len(found.of("writing the merged model")) == 1
