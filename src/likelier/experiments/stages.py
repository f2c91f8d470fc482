"""Several runs in a row, each going on from the model of the one before: one YAML file with a list of `stages`.

Every stage is an ordinary run in a folder of its own, `OUTPUT/1-sft`, `OUTPUT/2-dpo`, ...; `OUTPUT/run.json` holds the
lineage. What stands outside `stages` is shared by all of them.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from likelier.data.dates import as_of, now
from likelier.experiments.watched import train_watched, what_there_is
from likelier.models.options import LoraOptions
from likelier.objectives import METHODS
from likelier.runs.card import RunCard
from likelier.runs.folder import OtherRanksFolder, RunFolder
from likelier.runs.ownership import nothing_left, refuse_links
from likelier.training.config import RIVALS, RunConfig, hyperparameter_fields, parse
from likelier.utils.console import say
from likelier.utils.distributed import Ranks, join_ranks
from likelier.utils.errors import ConfigError, RunFolderError
from likelier.utils.versions import versions

# The model, its precision and where everything goes belong to the whole; a stage cannot have its own.
_OF_THE_WHOLE = ["model", "output", "dtype", "resume", "push_to_hub", *(item.name for item in fields(LoraOptions))]
_WITH_REFERENCE_ONLY = ("reference_scores", "reference_store")


@dataclass(frozen=True)
class Stage:
    """A named run. `folder` lies below the output of the whole; `reference` is what the file says."""

    name: str
    folder: str
    reference: str
    config: RunConfig


@dataclass(frozen=True)
class StagedConfig:
    """All stages of a run, in order."""

    model: str
    output: str
    resume: bool
    stages: tuple[Stage, ...]


def parse_stages(values: Mapping[str, Any]) -> StagedConfig:
    """Make the stages of a run from named values with a list `stages`.

    A stage's `reference` is `start` (the stage before, the default), `original` (the model that the first stage began
    with), `base` or another model. Raises `ConfigError` naming the stage, the option and the mend.
    """
    shared = {str(name).replace("-", "_"): value for name, value in values.items()}
    blocks = shared.pop("stages")
    if not isinstance(blocks, list) or not blocks or not all(isinstance(block, Mapping) for block in blocks):
        raise ConfigError("stages: must be a list of blocks, each with a method and its options")
    for name in ("model", "output"):
        if not isinstance(shared.get(name), str) or not shared[name]:
            raise ConfigError(f"{name} is missing; it stands outside stages")
    for name in ("method", "reference", *hyperparameter_fields()):  # which belong to a stage
        if name in shared:
            raise ConfigError(f"{name} belongs to a single stage: move it into that block of stages")
    stages: list[Stage] = []
    for number, block in enumerate(blocks, 1):
        own = {str(name).replace("-", "_"): value for name, value in block.items()}
        name = str(own.pop("name", own.get("method", "dpo")))
        try:
            stages.append(_stage(number, name, own, shared, stages, last=number == len(blocks)))
        except ConfigError as error:
            raise ConfigError(f"stage {number} ({name}): {error}") from error
    names = [stage.name for stage in stages]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise ConfigError(f"two stages are called {twice!r}; give each a name of its own")
    return StagedConfig(shared["model"], shared["output"], bool(shared.get("resume", False)), tuple(stages))


def _stage(
    number: int, name: str, own: dict[str, Any], shared: dict[str, Any], before: Sequence[Stage], *, last: bool
) -> Stage:
    if not re.fullmatch(r"[\w.-]+", name):
        raise ConfigError(f"name={name!r} becomes a folder's name; use letters, digits, '-', '_' and '.'")
    for option in _OF_THE_WHOLE:
        if option in own:
            raise ConfigError(f"{option} belongs to the whole run; move it out of stages")
    folder = f"{number}-{name}"
    reference = str(own.pop("reference", "start"))
    merged = {**shared, **own, "output": str(Path(shared["output"]) / folder)}
    for one, other in RIVALS.items():
        if one in own and other not in own:
            merged.pop(other, None)  # a stage's own choice takes the place of what all share
    kind = METHODS.get(str(merged.get("method", "dpo")))
    if kind is not None and not kind.needs_reference:
        for option in _WITH_REFERENCE_ONLY:
            if option not in own:
                merged.pop(option, None)
    merged["resume"] = False
    if not last:
        merged.pop("push_to_hub", None)
    if before:
        merged["model"] = before[-1].config.run.output
        for item in fields(LoraOptions):
            merged.pop(item.name, None)  # the adapter of the first stage goes on
    merged["reference"] = _resolved(reference, shared, first=not before)
    return Stage(name, folder, reference, parse(merged))


def _resolved(reference: str, shared: dict[str, Any], *, first: bool) -> str:
    """The reference in a single run's words."""
    if reference != "original":
        return reference
    if first:
        return "start"
    return "base" if shared.get("lora_r") is not None else shared["model"]


def train_stages(staged: StagedConfig) -> RunFolder:
    """Train stage after stage; with `resume` go on in the one that was cut, and skip those that are done.

    Returns the folder of the whole, whose card tells each stage's model, data and reference. Raises `RunFolderError`
    where the folder is taken, or where stages that are done differ from what is asked for now.
    """
    ranks = join_ranks(staged.stages[0].config.training.trainer.get("ddp_timeout"))
    root = RunFolder(staged.output) if ranks.is_first else OtherRanksFolder(staged.output)
    with nothing_left(root.path, lambda: any((root.path / stage.folder).exists() for stage in staged.stages)):
        _train_in(root, staged, ranks)
    say(f"all {len(staged.stages)} stages done; the model of the last lies in {root.path / staged.stages[-1].folder}")
    return root


def _train_in(root: RunFolder, staged: StagedConfig, ranks: Ranks) -> None:
    refusal = ranks.text_of_first(_refusal(root, staged) if ranks.is_first else "")
    if refusal:
        raise RunFolderError(refusal)
    try:
        began = (root.card().began if root.card_file.exists() else None) or now()
        root.update_card({"status": "training", "model": staged.model, "versions": versions(), "began": began})
        try:
            for number in range(1, len(staged.stages) + 1):
                _write_lineage(root, staged, begun=number)
                with as_of(began):  # the date of all stages
                    _train_stage(root, staged, number, ranks)
        except BaseException as error:
            status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            with suppress(RunFolderError):  # the error to tell is the first one, also where nothing can be written
                _write_lineage(root, staged)
                root.update_card({"status": status})
            raise
        _write_lineage(root, staged)
        root.update_card({"status": "done"})
    finally:
        root.close()


def _refusal(root: RunFolder, staged: StagedConfig) -> str:
    """Lock the folder. Why it cannot be used; empty if it can."""
    try:
        _check_root(root, staged)  # what is refused leaves not even a lock
        root.lock()
        _check_root(root, staged)
    except RunFolderError as error:
        root.close()
        return str(error)
    return ""


def _train_stage(root: RunFolder, staged: StagedConfig, number: int, ranks: Ranks) -> None:
    stage = staged.stages[number - 1]
    said = f"stage {number} of {len(staged.stages)}, {stage.name}"
    found = ranks.text_of_first(what_there_is(RunFolder(root.path / stage.folder), "stage") if ranks.is_first else "")
    if found == "done":
        say(f"{said}: done already")
        return
    say(said)
    train_watched(replace(stage.config, run=replace(stage.config.run, resume=found == "checkpoints")))
    gc.collect()  # the stage's model and optimizer, before the next one is loaded


def _check_root(root: RunFolder, staged: StagedConfig) -> None:
    refuse_links(root.path)
    if not root.card_file.exists():
        there = root.path.iterdir() if root.path.is_dir() else ()
        held = [entry.name for entry in there if not entry.name.startswith(".")]
        if held and not staged.resume:
            raise RunFolderError(f"{root.path} is not empty (it holds {sorted(held)[0]}); name another output")
        if staged.resume:
            raise RunFolderError(f"{root.path} holds no run in stages to resume from")
        return
    if not staged.resume:
        raise RunFolderError(f"{root.path} already holds a run; use --resume to go on, or name another output")
    recorded = {stage.folder: stage for stage in root.card().stages}
    if not recorded:
        raise RunFolderError(f"{root.path} holds a run without stages; name another output")
    for stage in staged.stages:
        known = recorded.get(stage.folder)
        finished = RunFolder(root.path / stage.folder).is_finished()
        if finished and (known is None or known.options != stage.config.as_json()):
            was = {} if known is None else known.options
            names = [name for name, value in stage.config.as_json().items() if was.get(name) != value]
            raise RunFolderError(
                f"{root.path / stage.folder} is done, and was trained with other options than these: "
                f"{', '.join(names) or 'some are gone'}. Give the same ones, or another output"
            )
    gone = [folder for folder in recorded if folder not in {stage.folder for stage in staged.stages}]
    if any(RunFolder(root.path / folder).is_finished() for folder in gone):
        raise RunFolderError(f"{root.path} holds the finished stage {gone[0]}, which the file does not have any more")


def _write_lineage(root: RunFolder, staged: StagedConfig, begun: int = 0) -> None:
    """What the stages are by now; number `begun` starts at once (a killed run should not say otherwise)."""
    if isinstance(root, OtherRanksFolder):
        return
    entries = [_entry(root, stage) for stage in staged.stages]
    for entry in entries[begun - 1 : begun] if begun else []:
        entry["status"] = "training" if entry["status"] == "not begun" else entry["status"]
    root.update_card({"stages": entries})


def _entry(root: RunFolder, stage: Stage) -> dict[str, Any]:
    """A stage as the whole's card tells it; from the stage's own card once that is written."""
    folder = RunFolder(root.path / stage.folder)
    card = folder.card() if folder.card_file.exists() else RunCard()
    entry = {
        "name": stage.name,
        "folder": stage.folder,
        "method": stage.config.run.method,
        "status": card.status or "not begun",
        "begins_with": stage.config.run.model,
        "reference": {"named": stage.reference, **card.block("reference")},
        "data": card.raw.get("data"),
        "evaluation_end": card.raw.get("evaluation_end"),
        "options": stage.config.as_json(),
    }
    return {name: value for name, value in entry.items() if value is not None}
