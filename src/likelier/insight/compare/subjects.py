"""What is compared: runs, or the settings of a sweep, each with one run a seed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from likelier.runs.card import RunCard
from likelier.runs.reader import Run, read_run
from likelier.runs.shapes import SWEEP, SWEEP_FILE, read_checked
from likelier.utils.errors import ConfigError, RunFolderError
from likelier.utils.files import base_names, below, local
from likelier.utils.redaction import without_secrets

_NOT_OF_THE_METHOD = ("report_to", "logging_steps", "save_steps", "save_total_limit", "reference_store", "trainer")
_OF_THE_RUN = ("model", "data", "reference", "dtype")
_MAIN = ("beta", "tau")  # shown also where only one subject has it


@dataclass(frozen=True)
class Subject:
    """A run, or the runs of one setting that differ in their seed.

    `named` are the options that the name tells; `options` are others in which subjects differ.
    """

    name: str
    runs: tuple[Run, ...]
    named: frozenset[str] = frozenset()
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def method(self) -> str:
        """The objective's name."""
        return self.runs[0].method


@dataclass(frozen=True)
class Lost:
    """A run of a sweep that is not compared: it failed, was interrupted, or has not begun."""

    name: str
    status: str
    error: str = ""


@dataclass(frozen=True)
class Comparison:
    """All that is compared."""

    title: str
    subjects: tuple[Subject, ...]
    lost: tuple[Lost, ...] = ()
    is_sweep: bool = False

    @property
    def options(self) -> list[str]:
        """The names of the options in which the subjects differ."""
        return list(dict.fromkeys(name for subject in self.subjects for name in subject.options))

    @property
    def runs(self) -> list[Run]:
        """Every run of every subject."""
        return [run for subject in self.subjects for run in subject.runs]


def read_comparison(paths: Sequence[str | Path]) -> Comparison:
    """Read run folders, and folders of sweeps with all their finished runs.

    Raises `RunFolderError` for what is no run, `ConfigError` where there is nothing to compare.
    """
    folders = [local(path) for path in paths]
    twice = next((path for at, path in enumerate(folders) if path.resolve() in map(Path.resolve, folders[:at])), None)
    if twice is not None:
        raise ConfigError(f"{twice} was named twice; name each run once")
    subjects: list[Subject] = []
    lost: list[Lost] = []
    sweeps = [path for path in folders if (path / SWEEP_FILE).is_file()]
    for path in folders:
        if path in sweeps:
            found, missing = _settings(path)
            subjects += found
            lost += missing
        else:
            run = read_run(path)
            subjects.append(Subject(run.name, (run,)))
    if not subjects:
        raise RunFolderError(f"{paths[0]}: no run of the sweep is done yet: {_told(lost)}")
    if len(subjects) < 2 and not sweeps:
        raise ConfigError("there is nothing to compare with; name two or more runs, or the folder of a sweep")
    title = base_names(str(folders[0].resolve())) if len(folders) == 1 else f"{len(subjects)} runs compared"
    named = _with_options(_distinct(subjects))
    return Comparison(title, tuple(named), tuple(lost), bool(sweeps))


def _settings(folder: Path) -> tuple[list[Subject], list[Lost]]:
    """The settings of a sweep with their finished runs, and the runs that are not finished."""
    entries = read_checked(folder / SWEEP_FILE, SWEEP)["runs"]
    done = [entry for entry in entries if entry["status"] == "done"]
    lost = [Lost(one["name"], one["status"], one.get("error") or "") for one in entries if one["status"] != "done"]
    groups: dict[str, list[Run]] = {entry["setting"]: [] for entry in done}
    for entry in done:
        groups[entry["setting"]].append(read_run(below(folder, entry["folder"])))
    named = frozenset(name for entry in done for name in entry["varied"]) | {"seed"}
    return [Subject(name, tuple(runs), named) for name, runs in groups.items()], lost


def _told(lost: Iterable[Lost]) -> str:
    return "; ".join(f"{one.name}: {one.error or one.status}" for one in lost)


def _distinct(subjects: Sequence[Subject]) -> list[Subject]:
    """Subjects of one name are told apart by the folders that hold them, as few of these as that takes."""
    names = [subject.name for subject in subjects]
    parts = [Path(without_secrets(str(subject.runs[0].folder.absolute()))).parts for subject in subjects]
    for depth in range(2, max(map(len, parts)) + 1):
        found = [
            "/".join(own[-depth:]) if names.count(name) > 1 else name for name, own in zip(names, parts, strict=True)
        ]
        if len(set(found)) == len(found):
            return [replace(subject, name=name) for subject, name in zip(subjects, found, strict=True)]
    return list(subjects)


# --- options ---


def _with_options(subjects: Sequence[Subject]) -> list[Subject]:
    """The subjects with the options in which they differ and which no name tells."""
    known = [options_of(subject.runs[0].card) for subject in subjects]
    told = frozenset[str]().union(*(subject.named for subject in subjects))
    every = dict.fromkeys(name for one in known for name in one if name not in told)
    names = [name for name in every if _differs(name, known) or (name in _MAIN and not told)]
    return [
        replace(subject, options={name: option_words(one[name]) for name in names if name in one})
        for subject, one in zip(subjects, known, strict=True)
    ]


def options_of(card: RunCard) -> dict[str, Any]:
    """Everything that a card says of how a run was set up, under one name each; evaluation aside."""
    run, found = card.block("run"), dict(card.hyperparameters)
    found |= {} if card.learning_rate is None else {"learning_rate": card.learning_rate.value}
    found |= {
        name: value
        for name, value in card.block("options").items()
        if name not in (*_NOT_OF_THE_METHOD, "learning_rate") and not name.startswith("eval_")
    }
    found |= {name: value for name, value in card.block("online").items() if name != "rollout_steps"}
    return found | {**card.options.trainer, **card.lora} | {name: run[name] for name in _OF_THE_RUN if name in run}


def _differs(name: str, known: Sequence[Mapping[str, Any]]) -> bool:
    values = [json.dumps(one[name], sort_keys=True, default=str) for one in known if name in one]
    return len(set(values)) > 1


def option_words(value: Any) -> str:
    """An option's value, a path by its last part."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(option_words(one) for one in value)
    if isinstance(value, Mapping):
        return option_words(value.get("name") or value.get("path") or json.dumps(dict(value), default=str))
    return str(value).rstrip("/").rsplit("/", 1)[-1]
