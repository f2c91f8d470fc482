"""The lock of a run's folder: one process writes there, and readers can tell whether one does.

The kernel's lock on an open file dies with its process, so that a killed run holds nothing.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

LOCK = ".lock"


class FolderLock:
    """The lock of one folder, taken or not."""

    def __init__(self, folder: Path) -> None:
        self._descriptor: int | None = None  # first, for `__del__`
        self._file = folder / LOCK

    @property
    def is_taken(self) -> bool:
        """Whether this object holds it."""
        return self._descriptor is not None

    def take(self) -> bool:
        """Take it; False where another process has it. Raises `OSError` where its file cannot be made or locked."""
        self._descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.release()
            if isinstance(error, BlockingIOError):
                return False
            raise  # a file system without locks
        return True

    def release(self) -> None:
        """Let it go, if it is taken. The file stays."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __del__(self) -> None:
        self.release()

    def is_lost(self) -> bool:
        """Whether it was taken, and its path leads to another file by now, or to none."""
        if self._descriptor is None:
            return False
        try:
            return not os.path.samestat(os.fstat(self._descriptor), self._file.stat())
        except OSError:
            return True


def is_held(folder: Path) -> bool:
    """Whether a process of this machine holds the folder's lock: it trains there. Needs no right to write."""
    try:
        with open(folder / LOCK, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
