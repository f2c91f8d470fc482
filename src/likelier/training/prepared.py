"""What is found out before a trainer exists: options that fit together, rows as tokens, their account, the plan."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from array import array
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import TrainingArguments

from likelier.data.audit.checks import run_audit
from likelier.data.dates import asks_for_date, now
from likelier.data.groups import Group, ids_key
from likelier.data.packing import StepSampler
from likelier.data.prepare import PreparedData, prepare_data
from likelier.data.records import Record, UnusableRows, last_turn
from likelier.data.tokenize import default_max_length
from likelier.data.views import joined
from likelier.models.layers import value_head
from likelier.models.policy import Policy
from likelier.models.token_budget import default_token_budget
from likelier.objectives import Objective
from likelier.runs.folder import OtherRanksFolder, RunFolder
from likelier.training.arguments import training_arguments
from likelier.training.evaluation import Judge, judge_of, planned_interval
from likelier.training.guards import RunGuard
from likelier.training.launcher import take_over_precision, with_launcher
from likelier.training.options import (
    TrainingOptions,
    for_model_of,
    refuse_evaluation_options,
    refuse_inert_options,
    refuse_process_options,
    with_changes,
)
from likelier.training.reference import Named
from likelier.training.trackers import check_trackers
from likelier.utils.console import say, warn
from likelier.utils.distributed import Ranks, join_ranks
from likelier.utils.errors import ConfigError, ModelError
from likelier.utils.terminal import busy

Ready = TypeVar("Ready", bound="ReadyRun")


@dataclass(frozen=True)
class ReadyRun(ABC):
    """A run that can begin, whatever it learns from: its folder is locked, and holds nothing of it yet.

    `objective` is an `Objective` or an `OnlineObjective`. `eval_interval` are the steps between evaluations, None for
    none between start and end; `card` is what the caller wants to stand in `run.json` besides.
    """

    policy: Policy
    objective: Any
    options: TrainingOptions
    ranks: Ranks
    folder: RunFolder
    guard: RunGuard
    resume: bool
    eval_interval: int | None
    card: Mapping[str, Any]

    def audited(self: Ready) -> Ready:
        """The run once the account of its rows is written."""
        return self

    @abstractmethod
    def planned_steps(self) -> int:
        """Steps of the whole run."""

    def arguments(self) -> TrainingArguments:
        """The options in transformers' words."""
        return training_arguments(
            self.options, self.objective, self.policy, self.folder.path, self.eval_interval, self.ranks
        )

    def token_budget(self, device: torch.device) -> int:
        """Of one micro-batch: as given, as the run began with, or from the device's memory."""
        if self.resume:
            newest = self.folder.latest_checkpoint()
            self.ranks.require_same("run folder (it must be on a disk that all share)", str(newest and newest.name))
        before = self.folder.read_fingerprint().get("token_budget") if self.resume else None
        known = self.options.token_budget or before
        if known is not None:
            return int(known)
        checkpointing = self.options.activation_checkpointing
        budget = default_token_budget(self.policy.model, device, checkpointing=checkpointing)
        return int(self.ranks.lowest(torch.tensor(budget)))

    @property
    def has_dropout(self) -> bool:
        """Whether a forward pass in training differs from the next."""
        return bool((self.policy.adapter_settings or {}).get("dropout"))


@dataclass(frozen=True)
class PreparedRun(ReadyRun):
    """A run that learns from preferences.

    `objective` has its hyperparameters that depend on the data filled in; `records` are what was given, for the audit,
    with the rows that were left out; `judge` gives the policy's answers rewards.
    """

    objective: Objective
    data: PreparedData
    records: tuple[Sequence[Record], Sequence[Record], UnusableRows]
    reference: Named
    judge: Judge | None

    def audited(self) -> PreparedRun:
        """Write the account of the rows of a fresh run and their audit. The run that comes back holds no records."""
        goes_on = self.resume and self.folder.card_file.exists()  # with its account, if the data are the same
        if self.ranks.is_first and not goes_on:
            train, held_out, left_out = self.records
            with busy("auditing the rows"):
                self.folder.write_audit(*self.data.account(left_out), run_audit(train, held_out, left_out))
        return replace(self, records=((), (), UnusableRows()))

    def sampler(self) -> StepSampler:
        """Which rows make which step."""
        options = self.options
        groups = self.data.train.groups
        if options.group_by is None:  # only their number counts
            return step_sampler(range(len(groups)), options)
        return step_sampler(array("q", (ids_key(group.prompt) for group in groups)), options)

    def seen_and_first(self) -> tuple[Sequence[int], list[int]]:
        """Numbers of the rows that some step reaches, and those of the first step where its own forward pass, which has
        dropout, proves nothing.
        """
        sampler = self.sampler()
        return sampler.seen(self.options.max_steps), next(iter(sampler)) if self.has_dropout else []

    def planned_steps(self) -> int:
        """Steps of the whole run."""
        return steps_of(self.sampler(), self.options)

    def questions(self) -> dict[str, str]:
        """The last turn of each held-out row's prompt, by its place, for answers to be shown with."""
        return {str(record.source): words for record in self.records[1] if (words := last_turn(record.prompt))}


def _require_head(policy: Policy, objective: Objective) -> None:
    """Raises `ModelError` where the method asks the model for what its head does not give."""
    if objective.reads_values and value_head(policy.model) is None:
        raise ModelError(f"{objective.method} trains a model that gives values; take load_policy(..., values=True)")
    if not objective.reads_values and value_head(policy.model) is not None:
        raise ModelError(f"{policy.name} gives values and writes nothing, and {objective.method} needs words")


def prepare_run(
    policy: Policy,
    objective: Objective,
    train: Sequence[Record],
    *,
    output_dir: str | Path,
    eval_data: Sequence[Record] = (),
    reference: Named = "start",
    options: TrainingOptions | None = None,
    resume: bool = False,
    unusable: UnusableRows | None = None,
    card: Mapping[str, Any] | None = None,
    judge: Judge | None = None,
    **more: Any,
) -> PreparedRun:
    """Check everything that can be checked without the model, and make tokens of the rows.

    Arguments and errors are those of `PreferenceTrainer`. Of several ranks all call it.
    """
    options = with_launcher(with_changes(options or TrainingOptions(), more))
    check_trackers(options.report_to)
    take_over_precision(policy.autocast)
    ranks = join_ranks(options.trainer.get("ddp_timeout"))
    refuse_process_options(options, ranks)
    refuse_inert_options(objective, options, named_reference=reference != "start")
    options = for_model_of(objective, options, held_out=bool(eval_data))
    _require_head(policy, objective)
    if not eval_data:
        refuse_evaluation_options(options)
    judged_by = judge_of(options, judge, held_out=bool(eval_data))
    folder = RunFolder(output_dir) if ranks.is_first else OtherRanksFolder(output_dir)
    guard = RunGuard(folder, ranks, options.rank_timeout)
    with guard.watching():
        folder.open(resume=resume)
        take_date(policy, joined(train, eval_data), folder if resume else None, ranks)
        with ranks.first_before_others(), busy("preparing the rows"):  # the others then find its cached token ids
            data = _prepare(policy, objective, options, train, eval_data)
        ranks.require_same("data", data.hash + data.held_out_hash)
        objective = objective.resolved(data.median_length)
        _say_what_does_not_fit(objective, data.train.groups, options.batch_size)
        run = PreparedRun(
            policy,
            objective,
            options,
            ranks,
            folder,
            guard,
            resume,
            eval_interval=None,
            card=dict(card or {}),
            data=data,
            records=(train, eval_data, unusable or UnusableRows()),
            reference=reference,
            judge=judged_by,
        )
        _refuse_a_still_reference(options, run.planned_steps())
        return replace(run, eval_interval=_eval_interval(run))


def _refuse_a_still_reference(options: TrainingOptions, steps: int) -> None:
    """Raises `ConfigError` for a reference that would move after the last step at the earliest."""
    if options.reference_moves is not None and options.moves_every >= steps:
        raise ConfigError(
            f"reference_moves={options.reference_moves} has no effect: it moves after every {options.moves_every} "
            f"steps, and the run has {steps}. Give a smaller reference_every, or drop it"
        )


def take_date(policy: Policy, records: Sequence[Any], begun: RunFolder | None, ranks: Ranks) -> None:
    """What a template that asks the clock is told, for all of the run: a run that goes on has its own moment. `records`
    have a `prompt`.
    """
    if asks_for_date(policy.tokenizer.chat_template) and any(isinstance(one.prompt, tuple) for one in records):
        before = begun.read_fingerprint().get("date") if begun is not None else None
        policy.chat = replace(policy.chat, date=ranks.text_of_first(policy.chat.date or before or now()))


def _prepare(
    policy: Policy,
    objective: Objective,
    options: TrainingOptions,
    train: Sequence[Record],
    eval_data: Sequence[Record],
) -> PreparedData:
    limit, context = options.max_length, policy.context
    if limit and context and limit > context:
        raise ConfigError(f"max_length={limit} is beyond the model's context of {context} tokens; lower it")
    return prepare_data(
        train,
        eval_data,
        policy.tokenizer,
        method=objective.method,
        wants=objective.data,
        partners=objective.needs_partner,
        max_length=limit or default_max_length(context),
        truncation=options.truncation,
        chat=policy.chat,
        signals=options.signals,
    )


def step_sampler(prompts: Sequence[Hashable], options: TrainingOptions) -> StepSampler:
    """Which rows make which step, of rows with these prompts."""
    return StepSampler(
        prompts,
        batch_size=options.batch_size,
        order=options.order,
        group_by=options.group_by,
        seed=options.seed,
    )


def steps_of(sampler: StepSampler, options: TrainingOptions) -> int:
    """Steps of a whole run."""
    return options.max_steps or math.ceil(len(sampler) * (options.epochs or 1))


def _eval_interval(run: PreparedRun) -> int | None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    options, steps = run.options, run.planned_steps()
    interval = planned_interval(options, run.data.train.groups, run.data.held_out.groups, steps, device)
    if options.eval_items is not None and (interval is None or interval >= steps):
        warn("eval_items has no effect: nothing is evaluated between the first and the last step; see eval_steps")
    return interval


def _say_what_does_not_fit(objective: Objective, groups: Sequence[Group], batch_size: int) -> None:
    """Warn of what is wrong with an objective on these groups, and propose hyperparameters that suit them better."""
    labels = Counter(group.desirable for group in groups)
    desirable, undesirable = labels[True], labels[False]
    for warning in objective.warnings(batch_size, desirable, undesirable):
        warn(warning)
    for proposal in objective.proposals(desirable, undesirable):
        say(proposal)
