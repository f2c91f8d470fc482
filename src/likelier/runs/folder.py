"""The run folder: plain files that training writes and everything one looks at reads.

`run.json` is the card, `metrics.jsonl` one object a logged step, `audit.json` the account of the rows,
`evaluations/step-N.json` what an evaluation saw, `skipped/step-N.json` a step that was not finite,
`rollouts/step-N.jsonl` what an online run wrote to learn a step from; the model lies in the root, checkpoints in
`checkpoints/step-N`. A lock guards the folder against a second run. A write that fails ends the run, and says what is
still whole.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from likelier.data.records import UnusableRows
from likelier.runs.card import CARD, RunCard
from likelier.runs.checkpoints import FINGERPRINT, Checkpoints, differences, step_of
from likelier.runs.lock import LOCK, FolderLock
from likelier.runs.ownership import OF_STEPS, refuse_links, stranger_in, take_away_temporary, was_begun
from likelier.runs.shapes import is_evaluation, read_checked
from likelier.runs.written import written_in
from likelier.utils.console import warn
from likelier.utils.errors import RunFolderError, unwritable, writing
from likelier.utils.files import (
    append_line,
    below,
    cause_of_failed_write,
    local,
    moved_when_whole,
    refuse_link,
    require_utf8,
    sync_file,
    write_whole,
)
from likelier.utils.redaction import without_secrets
from likelier.utils.strict_json import encodable

_MODEL_FILES = ("config.json", "adapter_config.json", "*.safetensors", "*.bin")


def _json(value: object, *, indent: int | None = None) -> str:
    return encodable(json.dumps(value, indent=indent, ensure_ascii=False, default=str, allow_nan=False))


class RunFolder:
    """A folder that holds one run."""

    def __init__(self, path: str | Path) -> None:
        self.path = local(path)
        self._lock = FolderLock(self.path)
        self.checkpoints = Checkpoints(self.path / "checkpoints")

    @property
    def card_file(self) -> Path:
        """run.json"""
        return self.path / "run.json"

    @property
    def metrics_file(self) -> Path:
        """metrics.jsonl"""
        return self.path / "metrics.jsonl"

    def check(self, *, resume: bool) -> None:
        """Raises `RunFolderError` if the folder holds a run or a model, or nothing to resume from; creates nothing."""
        refuse_links(self.path)
        if resume:
            self._check_resume()
            return
        if self.metrics_file.exists():
            raise RunFolderError(f"{self.path} already holds a run; use --resume to go on, or name another output")
        held = [name for pattern in _MODEL_FILES for name in self.path.glob(pattern)]
        if held:
            raise RunFolderError(
                f"{self.path} already holds a model ({held[0].name}), which would be overwritten; name another output"
            )
        stranger = stranger_in(self.path)
        if stranger is not None:
            raise RunFolderError(
                f"{self.path} holds {stranger}, which no run made and which this one would replace; move it away, or "
                "name another output"
            )

    def _check_resume(self) -> None:
        flaws = self.checkpoints.flaws()
        if None in flaws.values() or (not flaws and self.is_begun()):
            return
        if flaws:
            told = "; ".join(f"checkpoints/step-{step}: {flaw}" for step, flaw in flaws.items())
            raise RunFolderError(
                f"no checkpoint of {self.path} is whole ({told}), so it cannot go on; begin anew in another output"
            )
        why = "its run is done" if self.is_finished() else "it holds no unfinished run"
        raise RunFolderError(
            f"{self.path} has no checkpoint to resume from, and {why}; drop --resume to begin a run. Runs write "
            "checkpoints with --save-steps"
        )

    def is_begun(self) -> bool:
        """Whether a run began here and is not done: it has a card of its own, or was cut just before it wrote one."""
        if self.card_file.exists():
            card = self.card()
            return card.status != "done" and bool(card.fingerprint)
        return was_begun(self.path)

    def lock(self) -> None:
        """Create the folder and lock it. Raises `RunFolderError` if it cannot be written, or is in use."""
        require_utf8(self.path, "the output")
        with writing(self.path, mend="name another output", kind=RunFolderError):
            self.path.mkdir(parents=True, exist_ok=True)
            is_free = self._lock.take()
        if not is_free:
            raise RunFolderError(f"{self.path} is in use by another run; wait for it, or name another output")

    def open(self, *, resume: bool) -> None:
        """`lock` it. Raises `RunFolderError` if it is not free, or holds nothing to resume from."""
        if not (self.path / LOCK).exists():
            self.check(resume=resume)  # what is refused leaves not even a lock
        self.lock()
        try:
            self.check(resume=resume)
        except RunFolderError:
            self.close()
            raise
        if resume or was_begun(self.path):
            take_away_temporary(self.path)

    def close(self) -> None:
        """Release the lock."""
        self._lock.release()

    @contextmanager
    def writing(self, name: str) -> Iterator[None]:
        """Around everything that writes the file or folder `name` of this one.

        Raises `RunFolderError` where the write fails, with the cause and with what is still whole, and where the folder
        that was locked is there no more: it is not made anew.
        """
        self._require_itself()
        try:
            yield
        except Exception as error:
            cause = cause_of_failed_write(error)
            if cause is None:
                raise
            self._require_itself()
            newest = self.checkpoints.newest()
            rest = (
                "no checkpoint was written before, so a new run is needed"
                if newest is None
                else f"checkpoints/{newest.name} is whole: make room, then the same command with --resume goes on"
            )
            raise RunFolderError(unwritable(self.path / name, cause, rest)) from error

    def _require_itself(self) -> None:
        """Raises `RunFolderError` where the path leads to another folder than the locked one, or to none."""
        if self._lock.is_lost():
            raise RunFolderError(
                f"{self.path} is lost: it was deleted, moved or unmounted while the run wrote into it. Nothing is "
                "written in its place; bring it back and use --resume, or begin a new run"
            )

    def card(self) -> RunCard:
        """run.json. Raises `RunFolderError` if there is none, or it is damaged."""
        return RunCard.of(read_checked(self.card_file, CARD))

    def read_card(self) -> dict[str, Any]:
        """The content of run.json, to go on writing it. Raises as `card`."""
        return dict(self.card().raw)

    def holds_results(self) -> bool:
        """Whether it holds more than the accounts of its data and options: a step, an evaluation or a checkpoint."""
        names = (self.metrics_file.name, "evaluations", "skipped", "checkpoints")
        return any((self.path / name).exists() for name in names)

    def is_finished(self) -> bool:
        """Whether a run ended here as it should."""
        return self.card_file.is_file() and self.card().status == "done"

    def update_card(self, changes: Mapping[str, Any]) -> None:
        """Write `changes` into run.json, whole; None takes an entry out."""
        before = self.read_card() if self.card_file.exists() else {}
        card = {name: value for name, value in {**before, **changes}.items() if value is not None}
        self._write("run.json", _json(without_secrets(card), indent=2))

    def end_card(self, changes: Mapping[str, Any]) -> None:
        """The last `changes` of a run that ends, with what it wrote (see `written`)."""
        with self.writing("run.json"):
            files = written_in(self.path)
        self.update_card({**changes, "files": files})

    def write_audit(self, rows: int, unusable: UnusableRows, audit: Mapping[str, Any]) -> None:
        """Write audit.json: how many of the rows were used, and which were not, by reason, with their places; and the
        audit of those that were.
        """
        usable = rows - len({row.source for row in unusable})
        findings = [
            {"name": name, "count": count, "examples": [str(row.source) for row in unusable if row.reason == name][:20]}
            for name, count in unusable.counts().items()
        ]
        content = {"rows": rows, "usable": usable, "findings": findings, "audit": audit}
        self._write("audit.json", _json(without_secrets(content), indent=2))

    def _write(self, name: str, content: str) -> None:
        with self.writing(name):
            if "/" in name:
                refuse_link((self.path / name).parent)
            write_whole(self.path / name, f"{content}\n".encode())

    def append_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Add one object to metrics.jsonl, as one write, which leaves a whole line or none."""
        line = _json(metrics)
        with self.writing(self.metrics_file.name):
            append_line(self.metrics_file, line)

    def read_metrics(self) -> list[dict[str, Any]]:
        """Every object of metrics.jsonl. Raises `RunFolderError` for a line that is damaged."""
        rows, damaged = self._metrics()
        if damaged is not None:
            raise RunFolderError(damaged)
        return rows

    def _metrics(self) -> tuple[list[dict[str, Any]], str | None]:
        """The rows of metrics.jsonl, and what is wrong with its last line, which a power cut may leave unfinished."""
        refuse_link(self.metrics_file)
        try:
            *lines, rest = self.metrics_file.read_bytes().split(b"\n")
        except FileNotFoundError:
            return [], None
        rows: list[dict[str, Any]] = []
        lines += [rest] if rest else []
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                step = row.get("step", 0) + 0
            except (ValueError, TypeError, AttributeError, RecursionError) as error:
                damaged = f"{self.metrics_file}:{number} is damaged: {error}"
                if number < len(lines):
                    raise RunFolderError(damaged) from error
                return rows, damaged
            rows.append({**row, "step": step} if "step" in row else row)
        return rows, None

    def go_back_to(self, step: int, *, again: bool = False, unlogged: bool = False) -> None:
        """Drop what was logged, evaluated and skipped after `step`, where a run goes on from; -1 drops everything.

        `again`: the evaluation at `step` is dropped as well, because it will be made once more; `unlogged`: so is the
        line of its loss, which was written after the checkpoint (a last logging window that is not full). A last line
        that is damaged is dropped with a warning; raises `RunFolderError` for any other.
        """
        refuse_links(self.path)
        rows, damaged = self._metrics()
        if damaged is not None:
            warn(f"{damaged}; the line is dropped")
        kept = [row for row in rows if row.get("step", 0) <= step]
        if again:
            kept = [row for row in kept if not is_evaluation(row) or row.get("step", 0) < step]
        if unlogged:
            kept = [row for row in kept if is_evaluation(row) or row.get("step", 0) < step]
        if self.card_file.exists():
            self.update_card({"files": None})  # they are written again from here on
        with self.writing(self.metrics_file.name):
            write_whole(self.metrics_file, "".join(f"{_json(row)}\n" for row in kept).encode())
            for name in OF_STEPS:
                for path in (self.path / name).glob("step-*.json*"):
                    if step_of(path) > step:
                        path.unlink()

    def write_evaluation(self, detail: Mapping[str, Any]) -> None:
        """Write evaluations/step-N.json: items, answers and pairs of one evaluation."""
        self._write(f"evaluations/step-{detail['step']}.json", _json(detail))

    def write_rollout(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rollouts/step-N.jsonl: what was written to learn a step from, a line a prompt."""
        self._write(f"rollouts/step-{step}.jsonl", "\n".join(_json(without_secrets(row)) for row in rows))

    def write_skipped(self, detail: Mapping[str, Any], rank: int = 0) -> str:
        """Write skipped/step-N.json: a step that was not finite, with its rows, those of one rank; gives its name."""
        name = f"skipped/step-{detail['step']}{f'.rank-{rank}' if rank else ''}.json"
        self._write(name, _json(without_secrets(detail), indent=2))
        return name

    def skipped_steps(self) -> set[int]:
        """The steps that were skipped."""
        return {step_of(path) for path in self.path.glob("skipped/step-*.json")}

    def read_evaluation(self, step: int) -> dict[str, Any] | None:
        """The evaluation of a step; None where there is none."""
        path = self.path / "evaluations" / f"step-{step}.json"
        refuse_link(path.parent)
        refuse_link(path)
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def latest_checkpoint(self) -> Path | None:
        """The newest whole checkpoint folder; one that is torn is passed over with a warning that names it."""
        return self.checkpoints.newest(warned=True)

    def read_fingerprint(self) -> dict[str, Any]:
        """What the newest whole checkpoint was made with; without one, what the card says of the run that began here
        (nothing, where it was cut before it had a card). Raises `RunFolderError` if that cannot be read.
        """
        found = self.checkpoints.read_fingerprint()
        if found is None and self.card_file.exists():
            return dict(self.card().fingerprint)
        return dict(found or {})

    def check_fingerprint(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        """Raises `RunFolderError` naming what differs between the run `before` and this one; see `differences`."""
        found = differences(without_secrets(before), json.loads(_json(without_secrets(now))))  # as they are written
        if found is not None:
            raise RunFolderError(f"{self.path} cannot go on: {found}")

    def publish_checkpoint(self, staged: Path, step: int, keep: int | None, fingerprint: Mapping[str, Any]) -> Path:
        """Move a checkpoint that was written whole into its place, then delete all but the newest `keep` whole ones."""
        (staged / FINGERPRINT).write_text(_json(without_secrets(fingerprint)), encoding="utf-8")
        if self.metrics_file.exists():
            sync_file(self.metrics_file)  # what was logged before a checkpoint must not be lost after it
        return self.checkpoints.put(staged, step, keep)

    @contextmanager
    def staged(self, step: int) -> Iterator[None]:
        """Around the writing of a checkpoint; an error leaves nothing of it. Raises as `writing`."""
        try:
            with self.writing(f"checkpoints/step-{step}"):
                yield
        except BaseException:
            if self._lock.is_taken:
                shutil.rmtree(self.checkpoints.staging, ignore_errors=True)
            raise

    @contextmanager
    def whole_files(self) -> Iterator[Path]:
        """A folder for files that are moved into the run folder once all are whole and on disk: the model."""
        with self.writing("the model"), moved_when_whole(self.path) as staging:
            yield staging


class OtherRanksFolder(RunFolder):
    """The folder of a run in several processes, as all but the first see it: they read it, and write nothing but their
    rows of a step that was not finite.
    """

    def _left_to_the_first(self, *_: Any, **__: Any) -> None:
        """Left to the first rank."""

    lock = open = update_card = end_card = append_metrics = go_back_to = write_evaluation = _left_to_the_first


def final_folder(path: str | Path) -> Path:
    """A staged run's folder gives the folder of its last finished stage; any other path comes back as it is.

    A staged run's run.json lists its `stages`, each with a `folder` below the root, and the root holds no model.
    Raises `RunFolderError` if no stage is finished.
    """
    root = Path(path)
    run = RunFolder(root)
    stages = run.card().stages if run.card_file.is_file() else ()
    if not stages or any(held for pattern in _MODEL_FILES for held in run.path.glob(pattern)):
        return root
    for stage in reversed(stages):
        folder = below(run.path, stage.folder)
        if RunFolder(folder).is_finished():
            return folder
    names = ", ".join(stage.name for stage in stages)
    raise RunFolderError(f"{path} is a run in stages ({names}), and none of them is finished yet")
