"""The lock of a run's folder: who has it, until when, and what a file system without locks says."""

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from likelier.runs.folder import RunFolder
from likelier.runs.lock import LOCK, FolderLock, is_held
from likelier.utils.errors import RunFolderError


def test_one_at_a_time_and_readers_see_it(tmp_path: Path) -> None:
    first, second = FolderLock(tmp_path), FolderLock(tmp_path)
    assert not is_held(tmp_path) and not (tmp_path / LOCK).exists()
    assert first.take() and first.is_taken and is_held(tmp_path)
    assert not second.take() and not second.is_taken and is_held(tmp_path)
    first.release()
    assert not is_held(tmp_path) and second.take()


@pytest.mark.slow
def test_it_dies_with_its_process(tmp_path: Path) -> None:
    code = f"import fcntl, os, time; f = open({str(tmp_path / LOCK)!r}, 'wb'); fcntl.flock(f, 2); print(1, flush=True)"
    child = subprocess.Popen([sys.executable, "-c", f"{code}; time.sleep(60)"], stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline() and is_held(tmp_path)
    assert not FolderLock(tmp_path).take()
    child.kill()
    child.communicate()
    assert not is_held(tmp_path) and FolderLock(tmp_path).take()


def test_a_folder_that_was_moved_away_is_lost(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    lock = FolderLock(folder)
    assert not lock.is_lost() and lock.take() and not lock.is_lost()
    folder.rename(tmp_path / "elsewhere")
    assert lock.is_lost()
    folder.mkdir()
    (folder / LOCK).touch()
    assert lock.is_lost()


def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*given: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(RunFolderError, match="No locks available"):
        RunFolder(tmp_path / "run").lock()
