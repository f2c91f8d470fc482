"""Doing the stages of a run one after another, with their lineage in `run.json`, and going on where one was cut."""

from __future__ import annotations

import gc
from contextlib import suppress
from dataclasses import replace
from typing import Any

from likelier.data.dates import as_of, now
from likelier.experiments.stages.plan import Stage, StagedConfig
from likelier.experiments.stages.sample_step import SampleStage, sample_stage
from likelier.experiments.watched import train_any_watched, what_there_is
from likelier.runs.card import RunCard
from likelier.runs.folder import OtherRanksFolder, RunFolder
from likelier.runs.ownership import nothing_left, refuse_links
from likelier.utils.console import say
from likelier.utils.distributed import Ranks, join_ranks
from likelier.utils.errors import ConfigError, DataError, RunFolderError
from likelier.utils.versions import versions


def train_stages(staged: StagedConfig) -> RunFolder:
    """Train stage after stage; with `resume` go on in the one that was cut, and skip those that are done.

    Returns the folder of the whole, whose card tells each stage's model, data and reference. Raises `RunFolderError`
    where the folder is taken, or where stages that are done differ from what is asked for now.
    """
    runs = staged.runs
    ranks = join_ranks(runs[0].config.training.trainer.get("ddp_timeout"))
    if ranks.several and len(runs) < len(staged.stages):
        raise ConfigError(
            f"the stages hold a sample, which one process writes, and {ranks.size} were started: start one, with a "
            "vLLM server to write where that takes long (sampler: vllm), or write pairs beforehand with likelier sample"
        )
    root = RunFolder(staged.output) if ranks.is_first else OtherRanksFolder(staged.output)
    with nothing_left(root.path, lambda: any((root.path / stage.folder).exists() for stage in staged.stages)):
        _train_in(root, staged, ranks)
    _say_what_was_earned(staged)
    say(f"all {len(staged.stages)} stages done; the model of the last lies in {root.path / runs[-1].folder}")
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
    turn = f" (round {stage.round})" if stage.round else ""
    said = f"stage {number} of {len(staged.stages)}, {stage.name}{turn}"
    if isinstance(stage, SampleStage):
        _sample_stage(stage, said)
    else:
        _train_run(root, stage, said, ranks)
    gc.collect()  # the stage's model and optimizer, before the next one is loaded


def _sample_stage(stage: SampleStage, said: str) -> None:
    if stage.is_finished:
        say(f"{said}: done already")
        return
    say(said)
    try:
        sample_stage(stage)
    except (ConfigError, DataError) as error:
        raise type(error)(f"{said}: {error}") from error


def _train_run(root: RunFolder, stage: Stage, said: str, ranks: Ranks) -> None:
    found = ranks.text_of_first(what_there_is(RunFolder(root.path / stage.folder), "stage") if ranks.is_first else "")
    if found == "done":
        say(f"{said}: done already")
        return
    say(said)
    train_any_watched(replace(stage.config, run=replace(stage.config.run, resume=found == "checkpoints")))


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
        if isinstance(stage, SampleStage):
            stage.require_as_it_was()
            continue
        known = recorded.get(stage.folder)
        finished = RunFolder(root.path / stage.folder).is_finished()
        if finished and (known is None or known.options != stage.as_json()):
            was = {} if known is None else known.options
            names = [name for name, value in stage.as_json().items() if was.get(name) != value]
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
        if entry["status"] == "not begun":
            entry["status"] = "sampling" if entry["method"] == SampleStage.method else "training"
    root.update_card({"stages": entries})


def _entry(root: RunFolder, stage: Stage | SampleStage) -> dict[str, Any]:
    """A stage as the whole's card tells it; from the stage's own account once that is written."""
    shared = {
        "name": stage.name,
        "folder": stage.folder,
        "round": stage.round,
        "method": stage.method,
        "begins_with": stage.begins_with,
    }
    own = _of_run(root, stage) if isinstance(stage, Stage) else _of_sample(stage)
    return {name: value for name, value in (shared | own).items() if value is not None}


def _of_run(root: RunFolder, stage: Stage) -> dict[str, Any]:
    folder = RunFolder(root.path / stage.folder)
    card = folder.card() if folder.card_file.exists() else RunCard()
    return {
        "status": card.status or "not begun",
        "reference": {"named": stage.reference, **card.block("reference")},
        "data": card.raw.get("data"),
        "evaluation_end": card.raw.get("evaluation_end"),
        "options": stage.as_json(),
    }


def _of_sample(stage: SampleStage) -> dict[str, Any]:
    told = stage.account()
    kept = {name: told.get(name) for name in ("weights", "answers", "pairs", "files", "evaluation")}
    return {"status": told.get("status", "not begun"), **kept, "options": stage.as_json()}


def _say_what_was_earned(staged: StagedConfig) -> None:
    """What the answers to held-out prompts earned, from before the first round to the end."""
    samples = [(number, one) for number, one in enumerate(staged.stages, 1) if isinstance(one, SampleStage)]
    for number, stage in samples:
        found = stage.account().get("evaluation", {})
        if "reward" in found:
            turn = f"before round {stage.round}" if stage.round else f"before stage {number}"
            interval = f" [{found['reward_low']:.4g}, {found['reward_high']:.4g}]" if "reward_low" in found else ""
            when = "at the end" if stage.only_held_out else turn
            say(f"{found['prompts']} held-out prompts {when}: reward {found['reward']:.4g}{interval}")
