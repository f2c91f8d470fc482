"""What is refused leaves nothing behind: an output folder that was only begun is as it was."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from likelier.errors import LikelierError


@contextmanager
def nothing_left(folder: Path, has_begun: Callable[[], bool]) -> Iterator[None]:
    """Around work in an output folder. An error of ours before the work `has_begun` takes away what is new in it, and
    the folders that were made for it.
    """
    missing = [place for place in (folder, *folder.parents) if not os.path.lexists(place)]
    before = set() if missing else {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    try:
        yield
    except LikelierError:
        if _is_first_rank() and not has_begun():
            _take_away(folder, before, missing)
        raise


def _is_first_rank() -> bool:
    """Of several processes of one run, which is the one that makes folders."""
    return os.environ.get("RANK", "0") == "0"


def _take_away(folder: Path, before: set[str], missing: list[Path]) -> None:
    for entry in folder.iterdir() if folder.is_dir() else ():
        if entry.name not in before:
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    for place in missing:
        if place.is_dir() and not any(place.iterdir()):
            place.rmdir()
