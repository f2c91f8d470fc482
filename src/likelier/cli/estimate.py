"""`likelier estimate`: memory plans side by side, as a table or as JSON."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from likelier.cli.flags import add_section_flags, given_options
from likelier.cli.planned_run import WRITING, online_estimate_of, take_run_file, writes_answers
from likelier.cli.run_rows import add_data_flags, given_chat, given_loading, refuse_without_data
from likelier.models.options import LoraOptions
from likelier.training.options import TrainingOptions, refuse_evaluation_options
from likelier.utils.errors import ConfigError

if TYPE_CHECKING:
    from likelier.advice.estimate import Estimate
    from likelier.advice.rundata import RowPlan
    from likelier.data.options import DataSet

_ADAPTER = ("lora_r", "lora_targets", "load_in_4bit")
_MEMORY = (
    *("max_length", "token_budget", "batch_size", "activation_checkpointing", "shard"),
    *("reference_scores", "reference_moves"),
)
_LOSSES = ("loss",)  # of all hyperparameters those that change what a run holds, or how often it scores


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `likelier estimate`: those of a run that change its memory, with the run's names."""
    from likelier.cli.flags import add_hyperparameter_flags, add_online_flags
    from likelier.training.config import RunOptions

    parser.add_argument("config", nargs="?", help="a run file, as for train; flags win over it")
    add_section_flags(parser, RunOptions, ("method", "model", "dtype"))
    add_hyperparameter_flags(parser, _LOSSES)
    add_machine_flags(parser)
    adapter = parser.add_argument_group("adapter (without one all weights, LoRA and QLoRA are planned)")
    add_section_flags(adapter, LoraOptions, _ADAPTER)
    add_section_flags(parser.add_argument_group("memory, as for train"), TrainingOptions, _MEMORY)
    parser.add_argument(
        "--rows", type=int, metavar="N", help="without --data: how many rows there will be, for the time they take"
    )
    parser.add_argument("--data", metavar="FILE", help="plan for the lengths of its rows, not for rows of --max-length")
    add_data_flags(parser)
    add_online_flags(parser, WRITING)
    add_section_flags(parser, RunOptions, ("reference",))
    parser.add_argument(
        "--format", choices=["text", "json"], default="text", help="how the plan is printed (default: text)"
    )


def add_machine_flags(parser: argparse.ArgumentParser) -> None:
    """What it is planned for."""
    parser.add_argument(
        "--memory",
        metavar="SIZE",
        help="memory of the device, such as 24GB or 24GiB; the plan then names the token budget that fits",
    )
    parser.add_argument(
        "--gpu", metavar="NAME", help="plan for this GPU, its memory and its speed: a100-80gb, rtx-4090, ..."
    )
    parser.add_argument(
        "--device", choices=["cpu", "cuda"], help="what it will run on (default: what a run here takes)"
    )
    parser.add_argument("--gpus", type=int, default=1, metavar="N", help="over how many GPUs it goes (default: 1)")
    parser.add_argument(
        "--verify",
        action="store_true",
        help="trace the model and time this machine again, also where that was done before for the same rows",
    )


def take_gpu(flags: argparse.Namespace) -> None:
    """A GPU that is named decides the device, and the memory unless that is named too. Raises `ConfigError`."""
    if flags.gpu is None:
        return
    if flags.device == "cpu":
        raise ConfigError("gpu and device=cpu contradict each other; drop one of them")
    from likelier.advice.gpus import gpu_of

    flags.device, flags.memory = "cuda", flags.memory or str(gpu_of(flags.gpu).memory)


def run(flags: argparse.Namespace) -> None:
    """Plan and print."""
    take_run_file(flags)
    take_gpu(flags)
    from likelier.advice.known import remembered_plans

    with remembered_plans(anew=flags.verify):
        estimate = online_estimate_of(flags) if writes_answers(flags) else _estimate(flags)
    if flags.format == "json":
        sys.stdout.write(json.dumps(estimate.as_json(), indent=2) + "\n")
        return
    from likelier.advice.tables import estimate_text

    sys.stdout.write(estimate_text(estimate))


def _estimate(flags: argparse.Namespace) -> Estimate:
    """The plans that the flags ask for. Raises `ConfigError` for options that are out of range or without effect."""
    from likelier.advice.estimate import Estimate, bytes_of, models_in_memory, peaks, ways
    from likelier.advice.memory import planner_for
    from likelier.advice.speed import speed_for
    from likelier.advice.spread import Spread
    from likelier.advice.timing import times_of
    from likelier.training.config import objective_of

    objective = objective_of(flags.method, {name: value for name, value in vars(flags).items() if value is not None})
    asked = LoraOptions(**given_options(flags, LoraOptions))
    options, rows = TrainingOptions(**given_options(flags, TrainingOptions)), None
    if not (flags.data or flags.rows):
        refuse_without_data(flags)
    elif not hasattr(flags, "eval_data") and not hasattr(flags, "eval_fraction"):
        refuse_evaluation_options(options)
    if flags.data:
        rows = _rows(flags, options)
    spread = Spread(flags.gpus, options.shard)
    planners = {
        words: planner_for(
            flags.model,
            method=objective,
            lora=lora,
            dtype="bfloat16" if flags.dtype == "pure-bfloat16" and lora.lora_r and not asked.lora_r else flags.dtype,
            device=flags.device,
            max_length=options.max_length,
            memory=None if flags.memory is None else bytes_of(flags.memory),
            activation_checkpointing=options.activation_checkpointing,
            reference_scores=options.reference_scores,
            reference_moves=options.reference_moves,
            batch_size=options.batch_size,
            rows=None if rows is None else rows.rows,
            spread=spread,
        )
        for words, lora in ways(flags.model, asked, flags.device, spread).items()
    }
    budget, fit = options.token_budget, flags.memory is not None
    plans = {words: planner.plan(budget, fit=fit) for words, planner in planners.items()}
    methods = {} if rows else {words: peaks(planner, budget) for words, planner in planners.items()}
    models = {words: models_in_memory(planner, budget) for words, planner in planners.items()}
    many = f"{flags.rows:,} " if flags.rows else ""
    rows_from = _named(flags.data) if flags.data else f"{many}made up, at the maximum length"
    timed = rows or _made_up(flags, next(iter(planners.values())).asked.max_length)
    times, untimed = {}, "no --data and no --rows"
    if timed is not None:
        runs = {words: (planner, timed) for words, planner in planners.items()}
        times, untimed = times_of(runs, options, budget, speed_for(flags.gpu))
    known = (rows, times, untimed, timed is not None)
    return Estimate(flags.model, flags.method, plans, methods, models, rows_from, *known)


def _named(data: str | tuple[DataSet, ...]) -> str:
    return data if isinstance(data, str) else ", ".join(one.path for one in data)


def _made_up(flags: argparse.Namespace, max_length: int) -> RowPlan | None:
    """So many rows as there will be, where that is all that is known of them."""
    from likelier.advice.timing import made_up_rows
    from likelier.cli.run_rows import refuse_of_files

    if flags.rows is None:
        return None
    if flags.data:
        raise ConfigError("rows has no effect with --data, whose rows are counted; drop one of them")
    if flags.rows < 1:
        raise ConfigError(f"rows={flags.rows}: at least 1 is needed")
    refuse_of_files(flags)
    return made_up_rows(flags.rows, max_length, flags.method, held_out=given_loading(flags).get("eval_fraction", 0.0))


def _rows(flags: argparse.Namespace, options: TrainingOptions) -> RowPlan:
    from likelier.advice.timing import rows_of_run
    from likelier.data.columns import columns_of
    from likelier.data.load import load_preferences

    how = given_loading(flags)
    data = load_preferences(flags.data, **how, seed=options.seed, columns=columns_of(flags.columns))
    return rows_of_run(data, flags.model, flags.method, options=options, chat=given_chat(flags))
