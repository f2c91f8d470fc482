"""What every study shares: cells that are computed once, intervals over seeds, verdicts by a rule, one JSON file.

A study is a file with a `STUDY`. `python -m studies.NAME` computes the cells (a setting with a seed each) that
`docs/studies/NAME.json` does not hold yet, writes the file after every one of them, judges all, and draws the plots;
`python -m studies` does so for all of them and makes their page. The rules stand in the study's file and were written
before it ran: a study that changes what a cell computes raises its `version`, and all its cells go.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from likelier.utils.files import write_whole
from likelier.utils.statistics import Mean, mean_of, wilson
from likelier.utils.strict_json import parse_json
from likelier.utils.versions import versions
from studies.plots import Plot, drawn

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "studies"
Setting = Mapping[str, Any]
Found = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """A table of the page: `head` over `rows`, all of them text."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Results:
    """The cells of a study that were computed, each `{"setting", "seed", "seconds", "found"}`, seconds of processor."""

    cells: Sequence[Mapping[str, Any]]

    def of(self, **setting: Any) -> list[Found]:
        """What was found in the cells that agree with this setting, seed by seed."""
        return [cell["found"] for cell in self._cells(**setting)]

    def _cells(self, **setting: Any) -> Iterator[Mapping[str, Any]]:
        named = setting.items()
        return (cell for cell in self.cells if all(cell["setting"].get(key) == value for key, value in named))

    def values(self, name: str, **setting: Any) -> list[float]:
        """One number of each of these cells that has it."""
        return [found[name] for found in self.of(**setting) if found.get(name) is not None]

    def mean(self, name: str, **setting: Any) -> Mean:
        """Its mean over the seeds with Student's interval; of what is 0 or 1 the share with Wilson's. Raises
        `LookupError` where no cell has it.
        """
        if not (values := self.values(name, **setting)):
            raise LookupError(f"no cell of {setting} has {name}")
        found = mean_of(values)
        return replace(found, **_wilson(values)) if set(values) <= {0.0, 1.0} else found

    def difference(self, name: str, other: str, **setting: Any) -> Mean | None:
        """How far one number is above another, seed by seed; None where no seed has both."""
        return _apart(self._by_seed(name, **setting), self._by_seed(other, **setting))

    def between(self, name: str, setting: Setting, other: Setting) -> Mean | None:
        """How far a number of one setting is above that of another, seed by seed; None where no seed has both."""
        return _apart(self._by_seed(name, **setting), self._by_seed(name, **other))

    def _by_seed(self, name: str, **setting: Any) -> dict[int, float]:
        found = ((cell["seed"], cell["found"].get(name)) for cell in self._cells(**setting))
        return {seed: value for seed, value in found if value is not None}

    def has(self, name: str, **setting: Any) -> bool:
        """Whether any of these cells has that number."""
        return bool(self.values(name, **setting))


def _apart(one: Mapping[int, float], two: Mapping[int, float]) -> Mean | None:
    known = [value - two[seed] for seed, value in one.items() if seed in two]
    return mean_of(known) if known else None


def _wilson(values: Sequence[float]) -> dict[str, float]:
    return dict(zip(("low", "high"), wilson(sum(values), len(values)), strict=True))


@dataclass(frozen=True)
class Claim:
    """A sentence as people say it, who says it (`source`), and the `rule` that decides it, all written before the study
    ran. `judged` tells of every case whether the rule held there, and the numbers that say so. `figure` is the name of
    the plot that shows them; without one it is the study's first.
    """

    claim: str
    source: str
    rule: str
    judged: Callable[[Results], Mapping[str, tuple[bool, str]]]
    figure: str = ""

    def verdict(self, results: Results) -> dict[str, Any]:
        """`holds`, `fails`, or `holds where ...`, with the numbers of every case."""
        cases = self.judged(results)
        fitting = [case for case, (holds, _) in cases.items() if holds]
        words = "holds" if fitting else "fails"
        if 0 < len(fitting) < len(cases):
            words = f"holds where {'; '.join(fitting)}"
        numbers = {case: text for case, (_, text) in cases.items()}
        about = {"claim": self.claim, "source": self.source, "rule": self.rule}
        return about | {"verdict": words if cases else "unknown", "numbers": numbers}


@dataclass(frozen=True)
class Study:
    """One study. `settings` and `run` make its cells: `run(setting, seed, quick)` gives numbers by name; the rest is
    made from all of them. `quick` settings take seconds and stand in no document. `text` was written before it ran,
    `reading`, what we make of the numbers, after. `setup` is what was run, in a line of the page's table.
    """

    name: str
    title: str
    text: str
    version: int
    settings: Sequence[Setting]
    seeds: int
    run: Callable[[Setting, int, bool], Found]
    claims: Sequence[Claim]
    tables: Callable[[Results], Sequence[Table]]
    plots: Callable[[Results], Sequence[Plot]]
    quick: Sequence[Setting] = field(default_factory=tuple)
    reading: str = ""
    setup: str = field(kw_only=True)

    @property
    def file(self) -> Path:
        """Where its results lie."""
        return FOLDER / f"{self.name}.json"


def told(mean: Mean) -> str:
    """A mean and its 95 % interval; without one where a single seed ran."""
    return f"{mean.value:.3g} [{mean.low:.3g}, {mean.high:.3g}]" if mean.cases > 1 else f"{mean.value:.3g}"


def read(study: Study) -> dict[str, Any]:
    """The file of its results; without cells where there is none of this version."""
    if study.file.is_file():
        content: Any = parse_json(study.file.read_bytes())
        if content["version"] == study.version:
            return content
    return {"cells": []}


def computed(study: Study, folder: Path, *, quick: bool = False, again: bool = False, seeds: int = 0) -> Results:
    """Compute what is missing, and write the results and the plots into the folder."""
    cells = [] if again or quick else list(read(study)["cells"])
    known = {_key(cell["setting"], cell["seed"]) for cell in cells}
    settings, count = (study.quick or study.settings[:1], 1) if quick else (study.settings, seeds or study.seeds)
    for seed in range(count):
        for setting in settings:
            if _key(setting, seed) not in known:
                start = time.process_time()
                found = study.run(setting, seed, quick)
                took = round(time.process_time() - start, 2)
                cells.append({"setting": dict(setting), "seed": seed, "seconds": took, "found": _rounded(found)})
                _write(study, folder, cells)
                print(f"{study.name} {dict(setting)} seed {seed}: {took:.1f} s", flush=True)
    _write(study, folder, cells)
    results = Results(cells)
    for plot in study.plots(results):
        write_whole(folder / f"{study.name}-{plot.name}.svg", drawn(plot).encode())
    return results


def _key(setting: Setting, seed: int) -> str:
    return json.dumps({**setting, "seed": seed}, sort_keys=True)


def _rounded(found: Any) -> Any:
    """Six digits: files that people read, and differences that are none of the machine's."""
    if isinstance(found, Mapping):
        return {name: _rounded(value) for name, value in found.items()}
    if isinstance(found, list | tuple):
        return [_rounded(value) for value in found]
    return float(f"{found:.6g}") if isinstance(found, float) else found


def _write(study: Study, folder: Path, cells: Sequence[Mapping[str, Any]]) -> None:
    about: dict[str, Any] = {
        "study": study.name,
        "version": study.version,
        "versions": versions(),
        "machine": machine(),
    }
    about["seconds"] = round(sum(cell["seconds"] for cell in cells), 1)
    lines = ",\n".join(map(json.dumps, cells))  # one a line, so that a cell that changed is one line that changed
    write_whole(folder / study.file.name, f'{json.dumps(about)[:-1]}, "cells": [\n{lines}\n]}}\n'.encode())


def machine() -> str:
    """What it ran on, as far as times depend on it."""
    return f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def main(*studies: Study) -> bool:
    """The command line of one study, or of several; whether anything that is kept was written."""
    name = f".{studies[0].name}" if len(studies) == 1 else ""
    parser = argparse.ArgumentParser(
        prog=f"python -m studies{name}", description="; ".join(one.title for one in studies)
    )
    parser.add_argument("--quick", action="store_true", help="a small setting in seconds; writes nothing that is kept")
    parser.add_argument("--again", action="store_true", help="computes everything anew")
    parser.add_argument("--seeds", type=int, default=0, help="how many (default: what the study has)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for study in studies:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) if options.quick else FOLDER
            results = computed(study, folder, quick=options.quick, again=options.again, seeds=options.seeds)
        _tell(study, results, is_judged=not options.quick)
    return not options.quick


def _tell(study: Study, results: Results, *, is_judged: bool) -> None:
    for verdict in (claim.verdict(results) for claim in study.claims):
        words = verdict["verdict"] if is_judged else "(one seed: no verdict)"
        print(f"\n{verdict['claim']} ({verdict['source']})\n  {verdict['rule']}\n  {words}")
        for case, numbers in verdict["numbers"].items():
            print(f"    {case}: {numbers}")
