"""The run folder: plain files that training writes and everything one looks at reads.

`run.json` is the card, `metrics.jsonl` one object a logged step, `audit.json` the account of the rows,
`evaluations/step-N.json` what an evaluation saw; the model lies in the root, checkpoints in `checkpoints/step-N`. A
lock guards the folder against a second run.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from likelier.errors import RunFolderError
from likelier.paths import sync_files, write_whole
from likelier.records import UnusableRows

FINGERPRINT = "fingerprint.json"
_MODEL_FILES = ("config.json", "adapter_config.json", "*.safetensors", "*.bin")


def _json(value: object, *, indent: int | None = None) -> str:
    return json.dumps(value, indent=indent, ensure_ascii=False, default=str, allow_nan=False)


class RunFolder:
    """A folder that holds one run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        self._lock: int | None = None

    @property
    def card_file(self) -> Path:
        """run.json"""
        return self.path / "run.json"

    @property
    def metrics_file(self) -> Path:
        """metrics.jsonl"""
        return self.path / "metrics.jsonl"

    @property
    def evaluations(self) -> Path:
        """The folder of evaluations."""
        return self.path / "evaluations"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    def check(self, *, resume: bool) -> None:
        """Raises `RunFolderError` if the folder holds a run or a model, or nothing to resume from; creates nothing."""
        if resume:
            if self.latest_checkpoint() is None:
                raise RunFolderError(f"{self.path} has no checkpoint to resume from; runs write them with --save-steps")
            return
        if self.metrics_file.exists():
            raise RunFolderError(f"{self.path} already holds a run; use --resume to go on, or name another output")
        held = [name for pattern in _MODEL_FILES for name in self.path.glob(pattern)]
        if held:
            raise RunFolderError(
                f"{self.path} already holds a model ({held[0].name}), which would be overwritten; name another output"
            )

    @property
    def staging(self) -> Path:
        """Where a checkpoint is written before it is moved into place."""
        return self.checkpoints / ".staging"

    def lock(self) -> None:
        """Create the folder and lock it. Raises `RunFolderError` if it cannot be written, or is in use."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise RunFolderError(
                f"{self.path} cannot be written: {error.strerror or error}; name another output"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.close()
            raise RunFolderError(
                f"{self.path} is in use by another run; wait for it, or name another output"
            ) from error

    def open(self, *, resume: bool) -> None:
        """`lock` it. Raises `RunFolderError` if it is not free, or holds nothing to resume from."""
        self.lock()
        try:
            self.check(resume=resume)
        except RunFolderError:
            self.close()
            raise
        shutil.rmtree(self.staging, ignore_errors=True)  # what a killed run left half written

    def close(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __del__(self) -> None:
        self.close()

    def read_card(self) -> dict[str, Any]:
        """run.json's content. Raises `RunFolderError` if there is none."""
        try:
            return json.loads(self.card_file.read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError) as error:
            raise RunFolderError(f"{self.card_file} cannot be read: {error}") from error

    def is_finished(self) -> bool:
        """Whether a run ended here as it should."""
        return self.card_file.is_file() and self.read_card().get("status") == "done"

    def update_card(self, changes: Mapping[str, Any]) -> None:
        """Write `changes` into run.json, whole; None takes an entry out."""
        before = self.read_card() if self.card_file.exists() else {}
        card = {name: value for name, value in {**before, **changes}.items() if value is not None}
        write_whole(self.card_file, (_json(card, indent=2) + "\n").encode())

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
        write_whole(self.path / "audit.json", (_json(content, indent=2) + "\n").encode())

    def append_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Add one object to metrics.jsonl, as one write."""
        with open(self.metrics_file, "a", encoding="utf-8") as stream:
            stream.write(_json(metrics) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """Every object of metrics.jsonl."""
        if not self.metrics_file.exists():
            return []
        return [json.loads(line) for line in self.metrics_file.read_text(encoding="utf-8").splitlines()]

    def truncate_metrics(self, step: int) -> None:
        """Drop what was logged and evaluated after `step`, when a run goes on from there."""
        kept = [metrics for metrics in self.read_metrics() if metrics.get("step", 0) <= step]
        write_whole(self.metrics_file, "".join(_json(metrics) + "\n" for metrics in kept).encode())
        for path in self.evaluations.glob("step-*.json"):
            if int(path.stem.removeprefix("step-")) > step:
                path.unlink()

    def write_evaluation(self, detail: Mapping[str, Any]) -> None:
        """Write evaluations/step-N.json: items, answers and pairs of one evaluation."""
        write_whole(self.evaluations / f"step-{detail['step']}.json", (_json(detail) + "\n").encode())

    def read_evaluation(self, step: int) -> dict[str, Any] | None:
        """The evaluation of a step; None where there is none."""
        path = self.evaluations / f"step-{step}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def latest_checkpoint(self) -> Path | None:
        """The newest whole checkpoint folder."""
        found = self._checkpoint_steps()
        return self.checkpoints / f"step-{found[-1]}" if found else None

    def _checkpoint_steps(self) -> list[int]:
        if not self.checkpoints.is_dir():
            return []
        named = (re.fullmatch(r"step-(\d+)", entry.name) for entry in self.checkpoints.iterdir())
        return sorted(int(match.group(1)) for match in named if match)

    def read_fingerprint(self) -> dict[str, Any]:
        """What the newest checkpoint was made with. Raises `RunFolderError` if that cannot be read."""
        checkpoint = self.latest_checkpoint()
        try:
            return json.loads(((checkpoint or self.checkpoints) / FINGERPRINT).read_text("utf-8"))
        except (OSError, json.JSONDecodeError) as error:
            raise RunFolderError(f"{checkpoint or self.path} cannot be resumed: {error}") from error

    def check_fingerprint(self, now: Mapping[str, Any]) -> None:
        """Raises `RunFolderError` naming what differs between the interrupted run and this one."""
        before, after = self.read_fingerprint(), json.loads(_json(now))
        names = [name for name in after if before.get(name) != after[name]]
        if names:
            changed = "; ".join(f"{name}: was {before.get(name)!r}, is {after[name]!r}" for name in names)
            raise RunFolderError(
                f"{self.path} cannot go on: these differ from the interrupted run: {changed}. "
                "Give the same options and data, or start a new run"
            )

    def publish_checkpoint(self, staged: Path, step: int, keep: int | None, fingerprint: Mapping[str, Any]) -> Path:
        """Move a checkpoint that was written whole into its place, then delete the oldest beyond `keep`."""
        (staged / FINGERPRINT).write_text(_json(fingerprint), encoding="utf-8")
        sync_files(staged)
        final = self.checkpoints / f"step-{step}"
        if final.exists():
            shutil.rmtree(final)
        os.replace(staged, final)
        staged.parent.rmdir()
        for old in self._checkpoint_steps()[: -keep if keep else 0]:
            shutil.rmtree(self.checkpoints / f"step-{old}")
        return final


def final_folder(path: str | Path) -> Path:
    """A staged run's folder gives the folder of its last finished stage; any other path comes back as it is.

    A staged run's run.json lists its `stages`, each with a `folder` below the root, and the root holds no model.
    Raises `RunFolderError` if no stage is finished.
    """
    root = Path(path)
    run = RunFolder(root)
    stages = run.read_card().get("stages") if run.card_file.is_file() else None
    if not stages or any(held for pattern in _MODEL_FILES for held in run.path.glob(pattern)):
        return root
    for stage in reversed(stages):
        folder = run.path / stage["folder"]
        if RunFolder(folder).is_finished():
            return folder
    names = ", ".join(str(stage["name"]) for stage in stages)
    raise RunFolderError(f"{path} is a run in stages ({names}), and none of them is finished yet")
