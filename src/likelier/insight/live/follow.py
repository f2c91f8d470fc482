"""A run that is followed while it goes on: read again and again, its warnings kept."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from likelier.insight.verdicts import Verdict
from likelier.runs.reader import Run, RunReader

_THRIFT = 100  # looking for warnings takes at most one part in so many of the time


class Follower:
    """A run, and the warnings that it gives so far.

    Looking for warnings costs more than reading, so that they are looked for when something new was written, and not
    again until a hundred times as long has passed as it took.
    """

    def __init__(self, path: str | Path) -> None:
        self._reader = RunReader(path)
        self.run: Run | None = None
        self.warnings: Sequence[Verdict] = ()
        self._told: set[str] = set()
        self._seen, self._next_look = -1, 0.0

    def read(self) -> Run:
        """The run as it is now. Raises `RunFolderError` as long as there is none."""
        self.run = self._reader.read()
        written = len(self.run.steps) + len(self.run.evaluations)
        if written != self._seen and time.monotonic() >= self._next_look:
            self._look(self.run, written)
        return self.run

    def _look(self, run: Run, written: int) -> None:
        from likelier.insight.diagnose import live_warnings

        begun = time.monotonic()
        self.warnings = live_warnings(run)
        self._seen = written
        self._next_look = time.monotonic() + _THRIFT * (time.monotonic() - begun)

    def new_warnings(self) -> list[Verdict]:
        """Those that were not given out before."""
        found = [verdict for verdict in self.warnings if verdict.name not in self._told]
        self._told.update(verdict.name for verdict in found)
        return found


def last_written(folder: Path) -> float:
    """When the run last wrote something, as `time.time` counts."""
    files = [folder / name for name in ("run.json", "metrics.jsonl", "evaluations", "checkpoints")]
    return max((file.stat().st_mtime for file in files if file.exists()), default=0.0)
