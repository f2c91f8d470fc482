"""The checkpoints of a run: which are whole, how one comes to its place, and whether it is this run that wrote them."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from likelier.utils.console import warn
from likelier.utils.errors import RunFolderError
from likelier.utils.files import flaw_of, read_object, refuse_link, seal, sync_folder

FINGERPRINT = "fingerprint.json"
PROGRESS = "progress.json"  # how far the run had come, and what its objective carried
ORIGIN = {
    "policy": "the model that the run begins with (its weights or its config)",
    "tokenizer": "the tokenizer or what ends a turn",
    "chat": "the chat template, its arguments or the system prompt",
}
_OF_THE_DATA = {"data_hash": "the training data", "eval_hash": "the evaluation data"}
_DATE = {"date": "the date that the chat template is told"}
_KNOWN_LATER = ("reference", *ORIGIN)


class Checkpoints:
    """The folder `checkpoints` of a run, with `step-N` in it for each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._told: set[str] = set()  # flaws

    @property
    def staging(self) -> Path:
        """Where one is written before it is moved into place."""
        return self.path / ".staging"

    def flaws(self) -> dict[int, str | None]:
        """What is wrong with each, by its step, the newest first; None for a whole one."""
        refuse_link(self.path)
        if not self.path.is_dir():
            return {}
        steps = sorted((step_of(entry) for entry in self.path.iterdir()), reverse=True)
        return {step: flaw_of(self.path / f"step-{step}") for step in steps if step >= 0}

    def newest(self, *, warned: bool = False) -> Path | None:
        """The newest whole one; `warned`: of those that are torn and newer, once."""
        for step, flaw in self.flaws().items():
            if flaw is None:
                return self.path / f"step-{step}"
            if warned and flaw not in self._told:
                self._told.add(flaw)
                warn(f"{self.path / f'step-{step}'} is not whole ({flaw}) and is passed over")
        return None

    def read_fingerprint(self) -> dict[str, Any] | None:
        """What the newest whole one was made with; None without one. Raises `RunFolderError` if it is damaged."""
        newest = self.newest()
        try:
            return None if newest is None else read_object(newest / FINGERPRINT)
        except (OSError, ValueError) as error:
            raise RunFolderError(f"{newest} cannot be resumed: {error}") from error

    def put(self, staged: Path, step: int, keep: int | None) -> Path:
        """Move one that was written whole into its place, then delete all but the newest `keep` whole ones."""
        seal(staged)
        final = self.path / f"step-{step}"
        if final.exists():
            os.replace(final, self.staging / "old")
        os.replace(staged, final)
        sync_folder(self.path)
        sync_folder(self.path.parent)  # where `checkpoints` itself may be new
        shutil.rmtree(self.staging)
        if keep:
            flaws = self.flaws()
            whole = [known for known, flaw in flaws.items() if flaw is None]
            for known in flaws.keys() - set(whole[:keep]):
                shutil.rmtree(self.path / f"step-{known}")
        return final


def step_of(path: Path) -> int:
    """The number in `step-N`, `step-N.json`, `step-N.jsonl` or `step-N.rank-R.json`; -1 for another name."""
    match = re.fullmatch(r"step-(\d+)(\.rank-\d+)?(\.jsonl?)?", path.name)
    return int(match.group(1)) if match else -1


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """In words, what differs between the fingerprints of the run that was interrupted and of the one that shall go on;
    None if nothing does. What is not known yet on either side (the reference, what the run begins with) or was not
    recorded is not compared, nor an empty `before`.
    """
    compared = [
        name for name in now if before and (name not in _KNOWN_LATER or None not in (before.get(name), now[name]))
    ]
    names = [name for name in compared if before.get(name) != now[name] and (name in before or name not in _DATE)]
    if not names:
        return None
    changed = [what for name, what in {**ORIGIN, **_DATE}.items() if name in names]
    if not changed:  # whose token ids would be others as well
        changed = [what for name, what in _OF_THE_DATA.items() if name in names]
    if "date" in names:
        names = [name for name in names if name not in _OF_THE_DATA]
    said = f"{' and '.join(changed)} changed since the run began. " if changed else ""
    listed = "; ".join(f"{name}: was {before.get(name)!r}, is {now[name]!r}" for name in names)
    return f"{said}These differ from the interrupted run: {listed}. Give the same options and data, or start a new run"
