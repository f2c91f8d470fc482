"""A run folder as its readers see it: what training wrote, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from likelier.runs.account import Account, checked_account
from likelier.runs.card import RunCard, checked_card
from likelier.runs.evaluations import NO_DETAIL, Detail, checked_evaluation
from likelier.runs.folder import RunFolder, final_folder
from likelier.runs.lock import is_held
from likelier.runs.ownership import refuse_links
from likelier.runs.rollouts import WrittenStep, read_rollouts
from likelier.runs.shapes import SKIPPED, checked, checked_line, is_evaluation
from likelier.runs.written import Written, what_changed, written_files, written_in
from likelier.utils.console import warn
from likelier.utils.errors import RunFolderError
from likelier.utils.files import below, local
from likelier.utils.redaction import without_secrets
from likelier.utils.strict_json import BrokenJson, parse_json

Row = Mapping[str, Any]
T = TypeVar("T")
_QUIET = 60.0  # seconds in which the end of a line may still come


@dataclass(frozen=True)
class Run:
    """One run: its card, a row for each logged step, a row for each evaluation (names without `eval_`), the account of
    its data.
    """

    folder: Path
    card: RunCard
    steps: Sequence[Row]
    evaluations: Sequence[Row]
    audit: Account = Account()

    @property
    def name(self) -> str:
        """The folder's name; a stage's with that of the whole before it."""
        here = self.folder.resolve()
        staged = (here.parent / "run.json").is_file()
        parts = Path(without_secrets(str(here))).parts
        return "/".join(parts[-2:] if staged else parts[-1:])

    @property
    def method(self) -> str:
        """The objective's name."""
        return self.card.method or ""

    @property
    def is_running(self) -> bool:
        """Whether it has not ended, as far as its card says."""
        return self.card.status == "training"

    def column(self, name: str) -> tuple[list[int], list[float]]:
        """The steps at which a training metric was logged, and its values."""
        return _column(self.steps, name)

    def evaluated(self, name: str) -> tuple[list[int], list[float]]:
        """The steps at which an evaluation metric was measured, and its values."""
        return _column(self.evaluations, name)

    def detail(self, when: str) -> Detail:
        """The evaluation at `start`, `end`, or the last at any time (`last`); `NO_DETAIL` without one."""
        return one_of(self.details(), when)

    def details(self) -> list[Detail]:
        """The files of all evaluations, in order of their steps."""
        paths = (self.folder / "evaluations").glob("step-*.json")
        found = [checked_evaluation(_json(path), path) for path in paths]
        return sorted(found, key=lambda detail: detail.step)

    def rollouts(self) -> list[WrittenStep]:
        """What it wrote to learn from, of the steps of which that is kept."""
        return read_rollouts(self.folder)

    def skipped(self) -> list[Mapping[str, Any]]:
        """The files of the steps that were not finite, in order; each process of a run writes its own."""
        paths = (self.folder / "skipped").glob("step-*.json")
        return sorted((checked(_json(path), SKIPPED, path) for path in paths), key=lambda content: content["step"])


def one_of(details: Sequence[Detail], when: str) -> Detail:
    """As `Run.detail`, of these evaluations."""
    return next((one for one in reversed(details) if when in ("last", one.when)), NO_DETAIL)


class ChangedRunError(RunFolderError):
    """A run that has ended, and whose files are not as it left them."""


class RunReader:
    """Reads a run again and again, each time only what is new since the last time.

    Of a run in stages the last finished one, or the one that is running.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = local(path)
        self._rows = _Lines(self.path / "metrics.jsonl")
        self._files: dict[Path, tuple[object, Any]] = {}
        self._checked: object = None
        self._is_told = False

    def read(self) -> Run:
        """The run as it is now.

        Raises `RunFolderError` if there is no run, or its files are damaged. A last line of `metrics.jsonl` that is not
        whole yet is passed over: the run may be writing it.
        """
        folder = RunFolder(_stage(self.path))
        if not folder.card_file.is_file():
            raise RunFolderError(
                f"{self.path} holds no run (there is no run.json); name the folder that --output named"
            )
        if self._rows.path != folder.metrics_file:
            self._rows = _Lines(folder.metrics_file)
        refuse_links(folder.path)
        rows, audit = self._rows.read(), folder.path / "audit.json"
        run = Run(
            folder.path,
            self._json(folder.card_file, checked_card),
            [row for row in rows if "loss" in row],
            [without_prefix(row) for row in rows if is_evaluation(row)],
            self._json(audit, checked_account) if audit.is_file() else Account(),
        )
        self._check_end(folder, run)
        return run

    def _check_end(self, folder: RunFolder, run: Run) -> None:
        """Of a run that has ended: that its files are as it left them. Raises `RunFolderError` where they are not."""
        if self._rows.is_torn and not is_held(folder.path):
            self._tell_of_torn_line(run)
        recorded = run.card.files
        versions = [(file, _version(file)) for file in written_files(folder.path)]
        if recorded is None or self._checked == (recorded, versions):
            return
        found = what_changed(recorded, _written_in(folder.path))
        if found is not None and folder.card().files == recorded:  # else it goes on at this moment
            raise ChangedRunError(
                f"{folder.path} is not as its run left it: {found}. Its numbers would not be those of the run: bring "
                "the file back. To read it as it is all the same, take `files` out of its run.json"
            )
        self._checked = (recorded, versions)

    def _tell_of_torn_line(self, run: Run) -> None:
        """A last line that nobody is about to end."""
        where = f"{self._rows.path} ends in the midst of a line, which is not read"
        if run.card.status == "done":
            raise ChangedRunError(f"{where}: the file of a run that is done was cut; bring it back")
        is_old = time.time() - self._rows.path.stat().st_mtime > _QUIET  # else another machine may be writing
        if is_old and not self._is_told and run.card.files is None:
            self._is_told = True
            warn(f"{where}: the run was cut off there; --resume goes on before it")

    def _json(self, path: Path, check: Callable[[Any, object], T]) -> T:
        """The file's content, parsed and checked where it is another one than before."""
        version = _version(path)
        if path not in self._files or self._files[path][0] != version:
            self._files[path] = (version, check(without_secrets(_json(path)), path))
        return self._files[path][1]


def read_run(path: str | Path) -> Run:
    """Read a run folder; see `RunReader.read`."""
    return RunReader(path).read()


class _Lines:
    """The whole lines of a JSON lines file that grows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: object = None
        self._read = 0
        self._rows: list[dict[str, Any]] = []
        self.is_torn = False  # whether the last line has no end

    def read(self) -> list[dict[str, Any]]:
        """Every line so far. Raises `RunFolderError` for one that is damaged."""
        if not self.path.is_file():
            self._file, self._read, self._rows, self.is_torn = None, 0, [], False
            return []
        file = self.path.stat().st_ino
        if file != self._file or self.path.stat().st_size < self._read:  # a resumed run drops lines
            self._file, self._read, self._rows = file, 0, []
        with open(self.path, "rb") as stream:
            stream.seek(self._read)
            new = stream.read()
        whole = new[: new.rfind(b"\n") + 1]
        self.is_torn = len(whole) < len(new)
        before = len(self._rows)
        self._rows += [_row(self.path, before + number, line) for number, line in enumerate(whole.splitlines(), 1)]
        self._read += len(whole)
        return self._rows


def _row(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        return checked_line(parse_json(line), f"{path}:{number}")
    except BrokenJson as error:
        raise RunFolderError(f"{path}:{number} is damaged: {error.within_line}; restore or remove the line") from error


def _version(path: Path) -> object:
    """What changes where a file is written anew."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _written_in(folder: Path) -> Written:
    try:
        return written_in(folder)
    except OSError as error:
        raise RunFolderError(f"{error.filename or folder} cannot be read: {error.strerror or error}") from error


def _stage(path: Path) -> Path:
    """The folder of the stage to look at, in a run of several."""
    run = RunFolder(path)
    stages = run.card().stages if run.card_file.is_file() else ()
    running = [stage.folder for stage in stages if stage.status == "training"]
    if running and (below(path, running[-1]) / "run.json").is_file():
        return below(path, running[-1])
    return final_folder(path)


def _json(path: Path) -> dict[str, Any]:
    try:
        return parse_json(path.read_bytes())
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read: {error.strerror or error}") from error
    except BrokenJson as error:
        raise RunFolderError(f"{path} cannot be read: {error}") from error


def without_prefix(row: Row) -> dict[str, Any]:
    """The metrics of an evaluation without the `eval_` before their names."""
    return {name.removeprefix("eval_"): value for name, value in row.items()}


def _column(rows: Iterable[Row], name: str) -> tuple[list[int], list[float]]:
    known = [(row.get("step", 0), row[name]) for row in rows if isinstance(row.get(name), (int, float))]
    return [step for step, _ in known], [float(value) for _, value in known]
