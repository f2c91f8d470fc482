"""What the commands do: load, train, score. Each step is another room's; this only puts them in a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from transformers import TrainerCallback

from likelier.data.load import PreferenceData, load_preferences
from likelier.data.prepare import fitting_records
from likelier.data.views import joined
from likelier.models.loading import check_name
from likelier.models.options import Dtype
from likelier.models.policy import load_policy
from likelier.models.tokenizer import check_template_of
from likelier.runs.folder import RunFolder
from likelier.runs.hub import check_repository, push_run
from likelier.runs.model_card import write_model_card
from likelier.runs.ownership import nothing_left
from likelier.training.config import RunConfig, RunOptions
from likelier.training.launcher import with_launcher
from likelier.training.run_card import refuse_other_options
from likelier.training.trackers import check_trackers
from likelier.training.trainer import PreferenceTrainer
from likelier.utils.console import say, speaks
from likelier.utils.distributed import join_ranks
from likelier.utils.files import local


def train(
    config: RunConfig,
    data: PreferenceData | None = None,
    card: Mapping[str, Any] | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> PreferenceTrainer:
    """Load data (unless they are given) and policy, train, and say where the files lie.

    `card` holds what shall stand in `run.json` besides; `callbacks` see the training, such as a live display. What is
    refused before anything was trained or evaluated leaves no folder.
    """
    folder = RunFolder(config.run.output)
    folder.check(resume=config.run.resume)  # before anything slow
    check_trackers(config.training.report_to)
    with nothing_left(folder.path, folder.holds_results):
        return _train(config, folder, data, card, callbacks)


def _train(
    config: RunConfig,
    folder: RunFolder,
    data: PreferenceData | None,
    card: Mapping[str, Any] | None,
    callbacks: Sequence[TrainerCallback],
) -> PreferenceTrainer:
    config = replace(config, training=with_launcher(config.training))
    join_ranks(config.training.trainer.get("ddp_timeout"))  # each on its device, before a model is loaded there
    run, seed = config.run, config.training.seed
    if run.push_to_hub is not None:
        check_repository(run.push_to_hub)
    if run.resume and speaks():
        refuse_other_options(folder, config)
    for name in {run.model, run.reference} - {"start", "base"}:
        check_name(name)
    held_out: dict[str, Any] = {"eval_data": run.eval_data, "eval_fraction": run.eval_fraction}
    data = data or load_preferences(run.data, **held_out, seed=seed, columns=run.columns, merge_votes=run.merge_votes)
    if config.objective.data != "answers":  # fails before a model is loaded
        fitting_records(joined(data.train, data.test), config.objective.method, config.objective.data)
    check_template_of(run.model, joined(data.train, data.test), config.chat)
    empty = config.training.shard and not speaks()  # the first rank's weights are split between all
    how = {"chat": config.chat, "empty": empty, "values": config.objective.reads_values}
    policy = load_policy(run.model, dtype=run.dtype, lora=config.lora, seed=seed, **how)
    say(f"policy: {policy.words}")
    trainer = PreferenceTrainer(
        policy,
        config.objective,
        data.train,
        eval_data=data.test,
        output_dir=run.output,
        reference=named_reference(run.reference, run.dtype, empty=empty),
        options=config.training,
        resume=run.resume,
        unusable=data.unusable,
        card=command_card(config, data) | dict(card or {}),
        callbacks=list(callbacks),
    )
    trainer.train()
    if speaks():  # of several processes the first one does the rest
        finish(folder, run, trainer.state.global_step)
    return trainer


def finish(folder: RunFolder, run: RunOptions, steps: int) -> None:
    """Write the model's own card, say where everything lies, and upload it where that was asked for."""
    with folder.writing("README.md"):
        write_model_card(folder)
    say(f"done: {steps} steps; model, metrics.jsonl and run.json lie in {run.output}")
    if run.push_to_hub is not None:
        say(f"uploaded: {push_run(folder.path, run.push_to_hub)}")


def command_card(config: RunConfig, data: PreferenceData) -> dict[str, Any]:
    """What the command knows of the run beyond the trainer's own."""
    return {
        "run": absolute_options(config.run),
        "lora": {name: value for name, value in asdict(config.lora).items() if value},
        "data_format": data.format,
        "unusable_rows": data.unusable.counts(),
    }


def absolute_options(run: RunOptions) -> dict[str, Any]:
    """The options of a run, their paths as they hold from anywhere."""
    return {name: _absolute(value) for name, value in asdict(run).items()}


def _absolute(value: Any) -> Any:
    """A local path as one that holds from anywhere, also within data sets; anything else as it is."""
    if isinstance(value, (list, tuple)):
        return [_absolute(one) for one in value]
    if isinstance(value, dict):
        return value | {"path": _absolute(value["path"])} if "path" in value else value
    return str(local(value).resolve()) if isinstance(value, str) and local(value).exists() else value


def named_reference(name: str, dtype: Dtype, *, empty: bool = False) -> Any:
    """`start` and `base` are words; anything else is a model (see `load_policy`)."""
    return name if name in ("start", "base") else load_policy(name, dtype=dtype, empty=empty)
