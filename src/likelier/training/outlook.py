"""What a run will do and how long that takes: said before its first step, and again by the pace of its own steps."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from likelier.data.groups import Group
from likelier.data.lengths import row_of
from likelier.runs.checkpoints import step_of
from likelier.scoring.engine import score_groups
from likelier.training.duration import Duration, Speed, clock_words, duration
from likelier.training.evaluation.schedule import DECODING
from likelier.training.prepared import PreparedRun, ReadyRun
from likelier.training.work import Looking, Work, work_of
from likelier.utils.console import say
from likelier.utils.terminal import busy

Clock = Callable[[], float]
_COUNTED = 20_000  # rows whose tokens are counted; of more so many, evenly spaced
TIMED = {"cpu": 256, "cuda": 16_384}  # tokens of the pass that is timed: a small part of what follows
_SHORT = 0.5  # seconds; a shorter pass is made a second time, warm
_OFF = 0.5  # how far the first guess may be off, from one forward pass alone
_PACED = 3  # steps after which their own pace is told, or
_LONG = 20.0  # seconds of steps
_NEARLY_OVER = 10.0  # seconds that are not worth a line


class RunOutlook(TrainerCallback, ABC):
    """Tells the plan of a run with its time, and after a few steps what is left.

    Args:
        run: that will be trained.
        work: of the whole run.
        timed: rows whose forward pass is the measure.
        token_budget: of a micro-batch.
        device: where it is trained.
        clock: seconds.
    """

    def __init__(
        self,
        run: ReadyRun,
        work: Work,
        timed: Sequence[Group],
        token_budget: int,
        device: torch.device,
        clock: Clock = time.perf_counter,
    ) -> None:
        self._clock, self._device, self._budget = clock, device, token_budget
        self._ranks, self._interval, self._options = run.ranks.size, run.eval_interval, run.options
        self._work, self._timed = work, timed
        self._passes = 2 if run.policy.adapter_settings else 3
        self._forward = self._written = 0.0  # seconds a token, and those of one token more of a batch of answers
        self._looked = self._took = self._begun = 0.0
        self._steps = 0

    @abstractmethod
    def _what(self, done: int | None) -> str:
        """Steps, rows and evaluations, of which so many steps are done."""

    @abstractmethod
    def _words(self) -> str:
        """Where the time is from, and what it leaves out."""

    def _measure(self, model: nn.Module) -> None:
        """Time a forward pass of this model; writing is reckoned from it."""
        self._forward = self._pass_seconds(model)
        self._written = self._forward * DECODING.get(self._device.type, DECODING["cpu"])

    # --- before the first step -------------------------------------------------------------------------------------

    def say_plan(self, model: nn.Module, checkpoint: Path | None) -> None:
        """Time this model, and tell what will be done from this checkpoint, or from the beginning."""
        done = None if checkpoint is None else step_of(checkpoint)
        self._measure(model)
        say(f"plan: {self._what(done)}")
        say(f"plan: {self.foreseen(done).line()}")

    def foreseen(self, done: int | None = None) -> Duration:
        """The time of what is left after `done` steps (None: before the evaluation at the start)."""
        forward, ranks = self._forward, self._ranks
        passes = self._passes + (1 if self._options.activation_checkpointing else 0)
        speed = Speed(passes * forward / ranks, forward / ranks, self._written, 0.0, _OFF, self._words())
        whole = duration(self._left(done), speed, weights=0, trained=0)
        return replace(whole, seconds={**whole.seconds, "starting": 0.0})

    def _left(self, done: int | None) -> Work:
        work = self._work
        if done is None:
            return work
        share = (work.steps - done) / work.steps
        return replace(
            work,
            steps=work.steps - done,
            training=round(share * work.training),
            statistics=round(share * work.statistics),
            sampling=Looking(round(share * work.sampling.scored), round(share * work.sampling.written)),
            start=Looking(),
            intervals=work.intervals - self._intervals_until(done),
        )

    def _intervals_until(self, step: int) -> int:
        return 0 if self._interval is None else min(step // self._interval, self._work.intervals)

    def _pass_seconds(self, model: nn.Module) -> float:
        """Seconds a token forward; the random state and the weights are left as they are."""
        with busy("timing a forward pass"):
            seconds = self._one_pass(model)
            if seconds < _SHORT and self._ranks == 1:  # ranks must all make as many
                seconds = self._one_pass(model)
        return seconds / sum(row_of(group).tokens for group in self._timed)

    def _one_pass(self, model: nn.Module) -> float:
        begun = self._clock()
        for part in score_groups(model, self._timed, token_budget=self._budget, device=self._device):
            part.scores.logps.sum().item()  # waits for the device
        return self._clock() - begun

    # --- while it trains -------------------------------------------------------------------------------------------

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: Any = None, **kwargs: Any
    ) -> None:
        """What the evaluation at the start took is the measure of the others."""
        if state.global_step == 0 and metrics:
            self._looked = float(metrics.get("eval_seconds", 0.0))

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """Evaluations and checkpoints lie between steps, and are no part of their pace."""
        self._begun = self._clock()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """After a few steps, or a long one: what is left. The first of several is left out, since it warms up."""
        if self._steps < 0:
            return
        took = self._clock() - self._begun
        self._steps += 1
        self._took = took if self._steps <= 2 else self._took + took
        if self._steps >= _PACED or self._took >= _LONG:
            self._say_left(state.global_step, self._took / max(1, self._steps - 1))
            self._steps = -1

    def _say_left(self, step: int, pace: float) -> None:
        training = pace * (self._work.steps - step)
        evaluating = self._evaluations_left(step)
        if training + evaluating < _NEARLY_OVER:
            return
        parts = [f"{self._work.steps - step:,} steps of {_pace_words(pace)}"]
        if evaluating:
            parts.append(f"evaluations {clock_words(evaluating)}")
        say(f"about {clock_words(training + evaluating)} left: {', '.join(parts)}")

    def _evaluations_left(self, step: int) -> float:
        """Seconds: as foreseen, at the pace of the evaluation at the start."""
        speed = self.foreseen(step).seconds["evaluating"]
        at_start = self.foreseen().seconds["evaluating"] - self.foreseen(0).seconds["evaluating"]
        return speed * self._looked / at_start if self._looked and at_start else speed


class Outlook(RunOutlook):
    """That of a run which learns from preferences."""

    def __init__(
        self, run: PreparedRun, token_budget: int, device: torch.device, *, clock: Clock = time.perf_counter
    ) -> None:
        timed = typical_rows(run.data.train.groups, min(token_budget, TIMED.get(device.type, TIMED["cpu"])))
        super().__init__(run, _work(run, token_budget, device), timed, token_budget, device, clock)
        self._rows = f"{len(run.data.train.groups):,} {'pairs' if run.objective.data == 'pairs' else 'rows'}"
        self._held = len(run.data.held_out.groups)

    def _what(self, done: int | None) -> str:
        """Steps, rows and evaluations."""
        steps = f"{self._work.steps:,} steps of {self._options.batch_size} from {self._rows}"
        if done is not None:
            steps += f", {done:,} of them done"
        if not self._held:
            return f"{steps}; nothing is held out, so nothing is evaluated"
        every = "" if self._interval is None else f", every {self._interval:,} steps"
        answers = min(self._options.answered_prompts, self._held)
        writing = f" with up to {answers} answers of {self._options.answer_tokens} tokens" if answers else ""
        when = f"before the first step{every} and at the end"
        return f"{steps}; {self._held:,} held-out rows are evaluated {when}{writing}"

    def _words(self) -> str:
        stored = "; reference scores that are in the store take no time" if self._work.reference else ""
        return f"from one forward pass here{stored}"


def _pace_words(seconds: float) -> str:
    return clock_words(seconds) if seconds >= 10 else f"{seconds:.2g} s"


def typical_rows(groups: Sequence[Group], tokens: int) -> list[Group]:
    """Rows of middling length, evenly spaced, up to so many tokens; one at least."""
    some = groups[:: max(1, len(groups) // 64)]
    ordered = sorted(some, key=lambda group: row_of(group).tokens)
    found, held = [], 0
    for group in ordered[len(ordered) // 2 :]:
        held += row_of(group).tokens
        if found and held > tokens:
            break
        found.append(group)
    return found


def _work(run: PreparedRun, token_budget: int, device: torch.device) -> Work:
    train, held_out = run.data.train.groups, run.data.held_out.groups
    apart = max(1, len(train) // _COUNTED)
    found = work_of(
        train[::apart],
        held_out[::apart],
        run.objective,
        run.options,
        token_budget=token_budget,
        device="cuda" if device.type == "cuda" else "cpu",
        adapter=bool(run.policy.adapter_settings),
        own_reference=isinstance(run.reference, str),
        share=1 / apart,
    )
    steps = run.planned_steps()
    intervals = 0 if run.eval_interval is None else (steps - 1) // run.eval_interval
    return replace(found, steps=steps, intervals=intervals)
