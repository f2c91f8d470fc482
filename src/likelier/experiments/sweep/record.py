"""`sweep.json`: what a sweep runs and how far it is. A sweep that goes on must be the same one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from likelier.data.dates import now
from likelier.experiments.sweep.plan import SweepPlan
from likelier.runs.shapes import SWEEP_FILE, SWEEP_TO_GO_ON, read_checked
from likelier.training.config import RunConfig
from likelier.utils.errors import RunFolderError
from likelier.utils.files import write_output
from likelier.utils.redaction import without_secrets
from likelier.utils.strict_json import encodable
from likelier.utils.versions import versions


class SweepRecord:
    """The file sweep.json of a sweep's folder."""

    def __init__(self, folder: Path, content: dict[str, Any]) -> None:
        self.path = folder / SWEEP_FILE
        self.content = content

    @staticmethod
    def of(plan: SweepPlan, rows: Mapping[str, Any]) -> SweepRecord:
        """The record of a sweep that begins; `rows` is what it says of its data, `held_out` and `data`."""
        base = plan.base
        entries = [
            {
                "name": run.name,
                "folder": run.name,
                "setting": run.setting,
                "method": run.method,
                "varied": dict(run.varied),
                "seed": run.config.training.seed,
                "status": "not begun",
                "options": run.config.as_json(but=("output", "resume")),  # the folder may move
            }
            for run in plan.runs
        ]
        content = {
            "status": "training",
            "started": _now(),
            "began": now(),
            "words": list(plan.words),
            "seeds": list(plan.seeds),
            "model": base.run.model,
            "held_out": {"named": _named(base), **rows["held_out"]},
            "data": rows["data"],
            "versions": versions(),
            "runs": entries,
        }
        return SweepRecord(plan.output, json.loads(json.dumps(content, default=str)))

    @staticmethod
    def read(folder: Path) -> SweepRecord:
        """The record that lies in a folder. Raises `RunFolderError` if there is none, or it is damaged."""
        return SweepRecord(folder, read_checked(folder / SWEEP_FILE, SWEEP_TO_GO_ON))

    def check_same(self, now: SweepRecord) -> None:
        """Raises `RunFolderError` naming what differs between the sweep that began here and the one asked for now."""
        then, wanted = ({run["name"]: run for run in one.content["runs"]} for one in (self, now))
        found = [f"{name} is new" for name in wanted if name not in then]
        found += [f"{name} is gone" for name in then if name not in wanted]
        for name in wanted.keys() & then.keys():
            before, after = then[name]["options"], wanted[name]["options"]
            names = [one for one in {**before, **after} if before.get(one) != after.get(one)]
            found += [f"{one} of {name}: was {before.get(one)!r}, is {after.get(one)!r}" for one in names]
        for part in ("held_out", "data"):
            if self.content[part] != now.content[part]:
                found.append(f"{part}: was {self.content[part]}, is {now.content[part]}")
        if found:
            more = f"; and {len(found) - 5} more" if len(found) > 5 else ""
            raise RunFolderError(
                f"{self.path.parent} cannot go on: the sweep that began there was another one: {'; '.join(found[:5])}"
                f"{more}. Give the same file, words, seeds and data, or another output"
            )

    def update(self, name: str, **changes: Any) -> None:
        """Write what is new of a run; None takes an entry out."""
        entry = next(run for run in self.content["runs"] if run["name"] == name)
        entry.update(changes)
        for key in [key for key, value in changes.items() if value is None]:
            del entry[key]
        self.write()

    def end(self, status: str) -> None:
        """Write how the sweep ended."""
        self.content |= {"status": status, "ended": _now()}
        self.write()

    def write(self) -> None:
        """Write the file, whole. Raises `RunFolderError` where that is not possible."""
        text = json.dumps(without_secrets(self.content), indent=2, ensure_ascii=False, default=str, allow_nan=False)
        write_output(self.path, encodable(text) + "\n", kind=RunFolderError)


def _named(base: RunConfig) -> str:
    """Where the held-out rows come from, in words."""
    run = base.run
    if run.eval_fraction is not None:
        return f"{run.eval_fraction:g} of the prompts of {run.data}, drawn by seed {base.training.seed}"
    return str(run.eval_data)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
