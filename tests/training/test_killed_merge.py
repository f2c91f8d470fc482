"""A merge that is killed leaves nothing that the next one does not take away; SIGHUP ends a run as SIGTERM does."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from likelier.training.merge import merge_run
from likelier.training.stop_signals import SIGNALS, Interrupted, Interruption
from likelier.utils import folders as unfinished
from likelier.utils.folders import clear_killed, folder_when_whole
from tests.helpers.small_runs import SmallRuns

DIES = """
import os, signal, sys
from pathlib import Path
from likelier.utils.folders import folder_when_whole
with folder_when_whole(Path(sys.argv[1])) as folder:
    (folder / "weights").write_text("half")
    (folder / "deep").mkdir()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(target: Path) -> None:
    found = subprocess.run([sys.executable, "-c", DIES, str(target)])
    assert found.returncode == -signal.SIGKILL


def test_the_next_merge_takes_away_what_a_killed_one_left(runs: SmallRuns, tmp_path: Path) -> None:
    target = tmp_path / "merged"
    killed(target)
    killed(tmp_path / "other")
    (tmp_path / ".merged.77.tmp").mkdir()  # killed before its first file
    assert len(list(tmp_path.iterdir())) == 3
    merge_run(str(runs.adapter), str(target))
    left = {path.name for path in tmp_path.iterdir()} - {"merged", "cache"}
    assert len(left) == 1 and left.pop().startswith(".other.")
    assert not list(target.glob(".*"))


def test_what_is_not_a_killed_ones_stays(tmp_path: Path) -> None:
    target = tmp_path / "merged"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("")
    (tmp_path / ".merged.12.tmp").symlink_to(elsewhere)  # a link
    (tmp_path / ".merged.13.tmp").mkdir()
    (tmp_path / ".merged.13.tmp" / "notes").write_text("of the user's")  # without our mark
    (tmp_path / ".merged.x.tmp").mkdir()  # no name of ours
    (tmp_path / ".merged.14.tmp").write_text("a file")
    with folder_when_whole(target):  # of a process that goes on
        before = sorted(path.name for path in tmp_path.iterdir())
        clear_killed(target)
        assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert (elsewhere / "kept").exists()


def test_a_mark_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    left = tmp_path / ".merged.9.tmp"
    left.mkdir()
    (tmp_path / "file").write_text("")
    (left / unfinished._MARK).symlink_to(tmp_path / "file")
    clear_killed(tmp_path / "merged")
    assert left.exists()


@pytest.mark.parametrize("error", [OSError("full"), KeyboardInterrupt()], ids=repr)
def test_an_error_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), folder_when_whole(tmp_path / "merged") as folder:
        (folder / "file").write_text("")
        raise error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGHUP, 129), (signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_waits_for_the_step_and_a_second_ends_at_once(number: int, code: int) -> None:
    assert number in SIGNALS
    with Interruption() as interruption:
        interruption.is_patient = True
        os.kill(os.getpid(), number)
        assert interruption.asked == number and interruption.settle()
        with pytest.raises(Interrupted) as caught:
            os.kill(os.getpid(), number)
    assert caught.value.exit_code == code


def test_nohup_is_left_alone() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interruption() as interruption:
            os.kill(os.getpid(), signal.SIGHUP)
            assert interruption.asked is None
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
