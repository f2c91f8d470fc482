"""A folder that appears whole or not at all, and what a killed process left of one, which the next takes away."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from likelier.utils.files import sync_files

_MARK = ".likelier-unfinished"  # in a folder that is being made, locked as long as its process lives


@contextmanager
def folder_when_whole(target: Path) -> Iterator[Path]:
    """A folder beside `target` to write files in, which takes its place once all are on disk; an error leaves none.

    Raises `OSError`, also where `target` is there and not empty.
    """
    temporary = _temporary(target)
    temporary.mkdir()  # ours: nobody's link lies in its place
    mark = None
    try:
        mark = os.open(temporary / _MARK, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
        fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield temporary
        sync_files(temporary)
        (temporary / _MARK).unlink()
        os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if mark is not None:
            os.close(mark)


def check_writable(target: Path) -> None:
    """Raises `OSError` where no such folder can be made."""
    _temporary(target).mkdir()
    _temporary(target).rmdir()


def clear_killed(target: Path) -> None:
    """Take away what processes left that were killed while they made `target`: folders that bear our mark and that
    nobody holds, or that are empty yet. Raises `OSError`.
    """
    ours = re.compile(rf"\.{re.escape(target.name)}\.\d+\.tmp")
    for left in target.parent.iterdir():
        if ours.fullmatch(left.name) and left.is_dir() and not left.is_symlink():
            if _is_killed(left):
                shutil.rmtree(left)
            elif not any(left.iterdir()):
                left.rmdir()


def _temporary(target: Path) -> Path:
    return target.with_name(f".{target.name}.{os.getpid()}.tmp")


def _is_killed(left: Path) -> bool:
    try:
        mark = os.open(left / _MARK, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # its process goes on
        return False
    finally:
        os.close(mark)
    return True
