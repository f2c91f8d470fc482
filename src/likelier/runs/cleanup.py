"""What is refused leaves nothing behind: an output folder that was only begun is as it was."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from likelier.runs.lock import LOCK, is_held
from likelier.utils.console import speaks
from likelier.utils.errors import LikelierError

_MADE = (LOCK, "run.json", "audit.json")  # what a run, stages or a sweep write before there is a result


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
        if speaks() and not has_begun():
            _take_away(folder, before, missing)
        raise


def _take_away(folder: Path, before: set[str], missing: list[Path]) -> None:
    """Nothing is touched where another run has the folder by now, nor what a run does not make before its results."""
    if folder.is_dir() and not is_held(folder):
        for entry in folder.iterdir():
            if entry.name not in before and (entry.name in _MADE or entry.match(".*.tmp")) and entry.is_file():
                entry.unlink()
    for place in missing:
        if place.is_dir() and not any(place.iterdir()):
            place.rmdir()
