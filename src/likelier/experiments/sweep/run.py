"""Runs a sweep: one run after the other in one process, on the same rows, tokenized once, against one reference."""

from __future__ import annotations

import gc
import os
import traceback
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from likelier.data.dates import as_of, now
from likelier.data.token_cache import sharing_ids
from likelier.experiments.sweep.data import SharedData, load_shared, say_budgets
from likelier.experiments.sweep.plan import PlannedRun, SweepPlan
from likelier.experiments.sweep.record import SWEEP_FILE, SweepRecord
from likelier.experiments.watched import train_watched, what_there_is
from likelier.runs.folder import RunFolder
from likelier.runs.ownership import nothing_left
from likelier.utils.console import say
from likelier.utils.errors import ConfigError, LikelierError, RunFolderError
from likelier.utils.files import refuse_link


def run_sweep(plan: SweepPlan) -> SweepRecord:
    """Train every run that is not finished yet; returns the record, in which failed runs say why.

    A run that fails, for whatever reason, is recorded and the next one begins. With `resume` finished runs stay as they
    are, and an interrupted one goes on from its newest checkpoint, or begins again without one. Raises
    `RunFolderError` where the folder is taken, or holds another sweep.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("a sweep runs in one process; start it without torchrun, or its runs one by one with it")
    _check_root(plan)
    with nothing_left(plan.output, lambda: (plan.output / SWEEP_FILE).exists()):
        return _run_in(RunFolder(plan.output), plan)


def _run_in(root: RunFolder, plan: SweepPlan) -> SweepRecord:
    root.lock()
    try:
        say(_words(plan))
        shared = load_shared(plan)
        record = _opened(plan, shared)
        record.content["budgets"] = say_budgets(plan, shared)
        record.write()
        _train_all(plan, shared, record)
    finally:
        root.close()
    return record


def _words(plan: SweepPlan) -> str:
    settings, seeds = plan.settings, ", ".join(map(str, plan.seeds))
    word = "seed" if len(plan.seeds) == 1 else "seeds"
    return f"{len(plan.runs)} runs: {len(settings)} settings ({'; '.join(settings)}), each with {word} {seeds}"


def _check_root(plan: SweepPlan) -> None:
    folder, known = plan.output, (plan.output / SWEEP_FILE).is_file()
    refuse_link(folder / SWEEP_FILE)
    if plan.resume and not known:
        raise RunFolderError(f"{folder} holds no sweep to go on with (there is no {SWEEP_FILE})")
    if known and not plan.resume:
        raise RunFolderError(f"{folder} already holds a sweep; use --resume to go on, or name another output")
    if known:
        SweepRecord.read(folder)  # a damaged one is refused before anything is made
    held = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith(".")) if folder.is_dir() else []
    if held and not known:
        raise RunFolderError(f"{folder} is not empty (it holds {held[0]}); name another output")


def _opened(plan: SweepPlan, shared: SharedData) -> SweepRecord:
    """The record of the sweep: a new one, or that of the sweep which goes on, if it is the same."""
    now = SweepRecord.of(plan, shared.card())
    if not plan.resume:
        return now
    record = SweepRecord.read(plan.output)
    record.check_same(now)
    record.content["status"] = "training"
    return record


def _train_all(plan: SweepPlan, shared: SharedData, record: SweepRecord) -> None:
    try:
        with sharing_ids(), as_of(record.content.get("began") or now()):  # the date of all runs
            for number, run in enumerate(plan.runs, 1):
                _train_one(run, f"run {number} of {len(plan.runs)}, {run.name}", shared, record)
    except BaseException as error:
        with suppress(RunFolderError):  # the error to tell is the first one, also where nothing can be written
            record.end("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
        raise
    failed = any(entry["status"] == "failed" for entry in record.content["runs"])
    record.end("failed" if failed else "done")


def _train_one(run: PlannedRun, said: str, shared: SharedData, record: SweepRecord) -> None:
    found = what_there_is(RunFolder(run.config.run.output), "run")
    if found == "done":
        say(f"{said}: done already")
        record.update(run.name, status="done", error=None)
        return
    say(f"\n{said}")
    record.update(run.name, status="training", error=None)
    config = replace(run.config, run=replace(run.config.run, resume=found == "checkpoints"))
    try:
        train_watched(config, shared.of(run.config), card=_card(run, record, shared))
    except Exception as error:
        record.update(run.name, status="failed", error=_named(error))
        if not isinstance(error, LikelierError):
            traceback.print_exception(error)  # from a judge of the user's, say: the message alone does not tell where
        say(f"{run.name} failed: {_named(error)}\nThe sweep goes on with the next run")
    except BaseException as error:
        status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        with suppress(RunFolderError):
            record.update(run.name, status=status, error=_named(error))
        raise
    else:
        record.update(run.name, status="done", error=None)
    finally:
        _free_memory()


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _card(run: PlannedRun, record: SweepRecord, shared: SharedData) -> dict[str, Any]:
    """What stands on the run's own card, from its first moment on: the sweep, and which rows are held out."""
    held_out = record.content["held_out"] | shared.held_out_of(run.config)
    return {"sweep": {"file": str(Path("..") / SWEEP_FILE), "setting": run.setting, "held_out": held_out}}


def _free_memory() -> None:
    """The run's model and optimizer, before the next ones are loaded."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
