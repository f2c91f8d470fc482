"""A run folder as its readers see it: what training wrote, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from likelier.errors import RunFolderError
from likelier.runs import RunFolder, final_folder

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """One run: its card, a row for each logged step, a row for each evaluation (names without `eval_`), the account of
    its data.
    """

    folder: Path
    card: Mapping[str, Any]
    steps: Sequence[Row]
    evaluations: Sequence[Row]
    audit: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The folder's name; a stage's with that of the whole before it."""
        here = self.folder.resolve()
        staged = (here.parent / "run.json").is_file()
        return f"{here.parent.name}/{here.name}" if staged else here.name

    @property
    def method(self) -> str:
        """The objective's name."""
        return str(self.card.get("method", ""))

    @property
    def is_running(self) -> bool:
        """Whether it has not ended, as far as its card says."""
        return self.card.get("status") == "training"

    def column(self, name: str) -> tuple[list[int], list[float]]:
        """The steps at which a training metric was logged, and its values."""
        return _column(self.steps, name)

    def evaluated(self, name: str) -> tuple[list[int], list[float]]:
        """The steps at which an evaluation metric was measured, and its values."""
        return _column(self.evaluations, name)

    def detail(self, when: str) -> Mapping[str, Any] | None:
        """The file of the evaluation at `start`, `end`, or of the last at any time (`last`); None without one."""
        found = [content for content in self.details() if when in ("last", content.get("when"))]
        return found[-1] if found else None

    def details(self) -> list[Mapping[str, Any]]:
        """The files of all evaluations, in order of their steps."""
        found = [_json(path) for path in (self.folder / "evaluations").glob("step-*.json")]
        return sorted(found, key=lambda content: content.get("step", 0))


def read_run(path: str | Path) -> Run:
    """Read a run folder; of a run in stages the last finished one, or the one that is running.

    Raises `RunFolderError` if there is no run, or its files are damaged. A last line of `metrics.jsonl` that is not
    whole yet is passed over: the run may be writing it.
    """
    folder = RunFolder(_stage(Path(path).expanduser()))
    if not folder.card_file.is_file():
        raise RunFolderError(f"{path} holds no run (there is no run.json); name the folder that --output named")
    card = folder.read_card()
    if not isinstance(card, dict):
        raise RunFolderError(f"{folder.card_file} is damaged: it must hold names and values")
    rows = _lines(folder.metrics_file)
    audit = folder.path / "audit.json"
    return Run(
        folder.path,
        card,
        [row for row in rows if "loss" in row],
        [_without_prefix(row) for row in rows if "eval_loss" in row],
        _json(audit) if audit.is_file() else {},
    )


def _stage(path: Path) -> Path:
    """The folder of the stage to look at, in a run of several."""
    run = RunFolder(path)
    stages = run.read_card().get("stages") if run.card_file.is_file() else None
    running = [stage["folder"] for stage in stages or [] if stage.get("status") == "training"]
    if running and (path / running[-1] / "run.json").is_file():
        return path / running[-1]
    return final_folder(path)


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    whole = path.read_bytes()
    lines = whole[: whole.rfind(b"\n") + 1].splitlines()
    found = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise RunFolderError(f"{path}:{number} is damaged: {error}") from error
        if not isinstance(row, dict):
            raise RunFolderError(f"{path}:{number} is damaged: it must hold names and values")
        found.append(row)
    return found


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise RunFolderError(f"{path} is damaged: it must hold names and values")
    return content


def _without_prefix(row: Row) -> dict[str, Any]:
    return {name.removeprefix("eval_"): value for name, value in row.items()}


def _column(rows: Iterable[Row], name: str) -> tuple[list[int], list[float]]:
    known = [(row.get("step", 0), row[name]) for row in rows if isinstance(row.get(name), (int, float))]
    return [step for step, _ in known], [float(value) for _, value in known]
