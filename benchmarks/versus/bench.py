"""The benchmark's main process: one worker after the other, results written after each. Standard library only.

It stays small so that a worker's memory and caches are its own.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from versus.cases import GROWTH, PROFILED, RIVALS, Case, Plan
from versus.flops import Shape
from versus.launch import run_worker
from versus.machine import GB, available_memory, machine
from versus.memory import guessed_peak
from versus.report import markdown
from versus.summary import summarise

_TOO_LONG = {"lengths", "shared_steps", "trace", "trained", "precomputed", "tokens_fed"}  # for thousands of pairs


@dataclass(frozen=True)
class Run:
    """One run of one rival; `table` is where its result goes."""

    table: str
    case: Case
    rival: str
    repeat: int


@dataclass
class Bench:
    """A run of the benchmark; `results` is what is written."""

    plan: Plan
    device: str
    data: Path
    output: Path
    verbose: bool = False
    started: float = field(default_factory=time.monotonic)
    results: dict[str, Any] = field(default_factory=dict)
    prepared: dict[str, dict[str, Any]] = field(default_factory=dict)
    work: Path = Path()

    def run(self) -> None:
        """All of the plan, as far as its minutes go."""
        tables: dict[str, Any] = {name: {} for name in ("cases", "profile", "growth", "problems")}
        self.results = {"plan": self.plan.name, "device": self.device, "machine": machine()}
        self.results |= {"date": time.strftime("%Y-%m-%d"), **tables}
        runs = list(schedule(self.plan))
        with tempfile.TemporaryDirectory(prefix="versus-") as folder:
            self.work = Path(folder)
            for number, run in enumerate(runs, 1):
                outcome = self._measure(run)
                name = f"{run.case.name:<22} {run.rival:<15} {run.repeat + 1}"
                self._say(f"{number:2}/{len(runs)}  {name}  {outcome}")
                self._write()
        self.results["minutes"] = round(self._elapsed() / 60, 1)
        self._write()
        self._say(f"written: {self._file('json').name}, {self._file('md').name}")

    # --- one run ---------------------------------------------------------------------------------------------------

    def _measure(self, run: Run) -> str:
        """Prepare the rows if that was not done yet, run, keep the result; returns what to tell of it."""
        if run.case.name not in self.prepared:
            job = {"kind": "rows", "data": str(self.data), "folder": str(self.work)}
            self.prepared[run.case.name] = facts = self._worker(run.case, job)
            self._keep_facts(run, facts)
        facts = self.prepared[run.case.name]
        if "status" in facts:
            return f"no rows: {facts['status']}"
        found = self._refusal(run, facts) or self._worker(run.case, self._job(run, facts))
        record = {"rival": run.rival, "repeat": run.repeat + 1, **_shortened(run, found)}
        self.results[run.table][run.case.name]["runs"].append(record)
        return _outcome(record, run.case)

    def _keep_facts(self, run: Run, facts: dict[str, Any]) -> None:
        if "status" in facts:
            self.results["problems"][run.case.name] = facts["status"]
            return
        kept = {name: value for name, value in facts.items() if name not in ("rows", "model")}
        kept["mean_lengths"] = [sum(column) / len(facts["lengths"]) for column in zip(*facts["lengths"], strict=True)]
        self.results[run.table][run.case.name] = {
            "case": asdict(run.case),
            "facts": _shortened(run, kept),
            "runs": [],
        }

    def _refusal(self, run: Run, facts: dict[str, Any]) -> dict[str, Any] | None:
        """A status instead of a run that would take more memory than there is."""
        if self.device != "cpu":
            return None
        need = guessed_peak(Shape(**facts["shape"]), run.case, run.rival, [tuple(row) for row in facts["lengths"]])
        there = available_memory()
        if need is None or there is None or need <= there:
            return None
        return {"status": f"out of memory: about {need / GB:.0f} GB needed, {there / GB:.0f} GB free; not begun"}

    def _job(self, run: Run, facts: dict[str, Any]) -> dict[str, Any]:
        return {
            "kind": "profile" if run.table == "profile" else "train",
            "rows": facts["rows"],
            "model": facts["model"],
            "rival": run.rival,
            "device": self.device,
            "folder": str(self.work / "run"),
            "store": str(self.work / f"store-{run.case.name}-{run.repeat}"),
        }

    def _worker(self, case: Case, job: dict[str, Any]) -> dict[str, Any]:
        left = self.plan.minutes * 60 - self._elapsed()
        if left < 5:
            return {"status": "not run: the time is up"}
        shutil.rmtree(self.work / "run", ignore_errors=True)  # what a run that was ended may have left
        job = job | {"case": asdict(case)}
        return run_worker(job, self.work, device=self.device, seconds=left, verbose=self.verbose)

    # --- what is shown and kept ------------------------------------------------------------------------------------

    def _elapsed(self) -> float:
        return time.monotonic() - self.started

    def _file(self, suffix: str) -> Path:
        return self.output / f"versus_trl_{self.plan.name}.{suffix}"

    def _write(self) -> None:
        for record in self.results["cases"].values():
            record["summary"] = summarise(record, self.device)
        self.output.mkdir(parents=True, exist_ok=True)
        self._file("json").write_text(json.dumps(self.results, indent=1) + "\n", encoding="utf-8")
        self._file("md").write_text(markdown(self.results), encoding="utf-8")

    def _say(self, words: str) -> None:
        seconds = round(self._elapsed())
        print(f"{seconds // 60:3}:{seconds % 60:02}  {words}", flush=True)


def schedule(plan: Plan) -> Iterator[Run]:
    """The plan's cases, the share of matrix products, the growth, and then the further repeats of the cases."""
    turns = list(_in_turn("cases", plan.cases))
    yield from (run for run in turns if run.repeat == 0)
    if plan.extras:
        profiled = (replace(case, model=plan.cases[0].model) for case in PROFILED if plan.cases)
        yield from _in_turn("profile", profiled)
        yield from _in_turn("growth", GROWTH)
    yield from (run for run in turns if run.repeat > 0)


def _in_turn(table: str, cases: Iterable[Case]) -> Iterator[Run]:
    """Rivals in turn within a case, cases in turn, then all again: an aborted run has the first repeat of each."""
    cases = list(cases)
    for repeat in range(max((max(case.repeats.values()) for case in cases), default=0)):
        for case in cases:
            for rival in (name for name in RIVALS if case.repeats.get(name, 0) > repeat):
                yield Run(table, case, rival, repeat)


def _shortened(run: Run, found: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a large run."""
    return {name: value for name, value in found.items() if run.table != "growth" or name not in _TOO_LONG}


def _outcome(record: dict[str, Any], case: Case) -> str:
    if "status" in record:
        return record["status"]
    seconds, memory = record["seconds"], record["memory"]
    peak = memory.get("cuda_peak", memory["peak"])
    return (
        f"{seconds['whole']:7.1f} s whole, {seconds['training']:7.1f} s training, "
        f"{case.pairs / seconds['whole']:7.2f} pairs/s, {peak / GB:6.2f} GB"
    )
