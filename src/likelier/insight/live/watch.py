"""A run that is followed while it goes on, its warnings kept; seen from another terminal, until it ends."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from likelier.insight.live.view import evaluation_line, pace_of, status_words, step_line, view_of, warning_line
from likelier.insight.report.account import duration, unit
from likelier.insight.verdicts import Verdict
from likelier.runs.lock import is_held
from likelier.runs.reader import ChangedRunError, Run, RunReader
from likelier.utils.console import put, say
from likelier.utils.errors import RunFolderError

ENDED_BADLY = 3
PATIENCE = 30.0  # seconds in which a run that is not there may appear
QUIET = 60.0  # seconds without a word after which it is said


def look_once(path: Path) -> int:
    """Show how a run stands now; gives its exit code, 0 while it trains. Raises `RunFolderError` if there is none."""
    from likelier.utils.terminal import SafeConsole

    follower = Follower(path)
    now = follower.read()
    console = SafeConsole()
    console.print(view_of(now, follower.warnings, note=_note(path, now), ascii_only=console.options.ascii_only))
    return _code(now) if _is_over(path, now) else 0


def watch(path: Path, interval: float) -> int:
    """Look at a run every `interval` seconds until it is over; gives its exit code. Raises `RunFolderError` if none
    appears.
    """
    from likelier.utils.terminal import SafeConsole

    follower = Follower(path)
    _wait_for(path, follower)
    console = SafeConsole()
    if console.is_terminal and not console.is_dumb_terminal:
        last = _show(path, follower, interval, console)
    else:
        last = _tell(path, follower, interval)
    say(_last_words(path, last))
    return _code(last)


def _wait_for(path: Path, follower: Follower) -> None:
    """Until there is a run to look at: a little while, or as long as a process prepares one.

    Raises `RunFolderError` where none appears.
    """
    began, is_told = time.monotonic(), False
    while True:
        try:
            follower.read()
            return
        except ChangedRunError:
            raise
        except RunFolderError:
            if time.monotonic() - began > PATIENCE and not is_held(path):
                raise
        if not is_told:
            say(f"waiting for a run in {path}")
            is_told = True
        time.sleep(0.2)


def _show(path: Path, follower: Follower, interval: float, console: Any) -> Run:
    """A live display until the run is over."""
    from rich.live import Live

    def view() -> Any:
        now = follower.read()
        return now, view_of(now, follower.warnings, note=_note(path, now), ascii_only=console.options.ascii_only)

    now, shown = view()
    with Live(shown, console=console, auto_refresh=False) as live:
        while not _is_over(path, now):
            time.sleep(interval)
            now, shown = view()
            live.update(shown, refresh=True)
    return now


def _tell(path: Path, follower: Follower, interval: float) -> Run:
    """Plain lines until the run is over: what is new since the last look."""
    lines = Lines(put)
    while True:
        now = follower.read()
        lines.tell(now, _note(path, now), [warning_line(verdict) for verdict in follower.new_warnings()])
        if _is_over(path, now):
            return now
        time.sleep(interval)


class Lines:
    """Says what is new of a run, each thing once."""

    def __init__(self, out: Callable[[str], None]) -> None:
        self._out = out
        self._folder: Path | None = None
        self._steps = self._evaluations = 0
        self._is_quiet = False

    def tell(self, run: Run, note: str, warnings: list[str]) -> None:
        """Every evaluation, the last step, warnings, and a note when it begins."""
        if run.folder != self._folder:  # the first look, or the next stage
            self._out(f"{run.name}: {run.method}, {status_words(run)}")
            self._folder, self._steps, self._evaluations = run.folder, 0, 0
        if len(run.steps) > self._steps:
            total = run.card.total_steps
            self._out(step_line(run.steps[-1], total, pace_of(run.steps), unit(run)))
        for row in run.evaluations[self._evaluations :]:
            self._out(evaluation_line(row, row.get("step", 0)))
        self._steps, self._evaluations = len(run.steps), len(run.evaluations)
        for line in [*warnings, *([note] if note and not self._is_quiet else [])]:
            self._out(line)
        self._is_quiet = bool(note)


def _note(path: Path, run: Run) -> str:
    """Something to say of a run that says nothing itself."""
    if not run.is_running or (quiet := time.time() - last_written(run.folder)) < QUIET:
        return ""
    since = f"nothing was written for {duration(quiet)}"
    if not is_held(run.folder) and not is_held(path):
        return f"{since}, and no process of this machine holds the folder: it was killed, or runs elsewhere"
    return f"{since}: a long step, evaluation or checkpoint"


def _is_over(path: Path, run: Run) -> bool:
    """Whether nothing more will come: it has ended, and so has the whole that it is a stage of; or it is gone."""
    if run.is_running:
        quiet = time.time() - last_written(run.folder)
        return quiet > QUIET and not is_held(run.folder) and not is_held(path)
    if run.folder == path or run.card.status != "done":
        return True
    return json.loads((path / "run.json").read_text(encoding="utf-8")).get("status") != "training" or not is_held(path)


def _last_words(path: Path, run: Run) -> str:
    if run.is_running:
        return f"{path}: {_note(path, run)}; --resume goes on from its last checkpoint"
    return f"{path}: {status_words(run)}"


def _code(run: Run) -> int:
    return 0 if run.card.status == "done" else ENDED_BADLY


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
