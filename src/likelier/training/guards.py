"""A trainer whose steps may be interrupted: by a signal, by a resume in their midst, by numbers that are not finite."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from likelier.models.sharding import whole
from likelier.objectives import Objective
from likelier.training.checkpointing import SavingTrainer, read_progress
from likelier.training.heartbeat import PATIENCE, Vigil, speaks_of
from likelier.training.log_window import MetricWindow
from likelier.training.movement import UNMOVED, Movement
from likelier.training.nonfinite import StepJudge
from likelier.training.step import StepResult
from likelier.training.stop_signals import EndWhenAsked, Interrupted, Interruption
from likelier.training.timer import TrainingClock
from likelier.utils.console import say, say_error, warn
from likelier.utils.errors import OTHER_RANK_ENDED, OtherRankEndedError, RunFolderError, TrainingError

_GO_ON = "the run ends; start it again with --resume, and it goes on from its last checkpoint"


class ResilientTrainer(SavingTrainer):
    """What `PreferenceTrainer` does between a step that was computed and weights, metrics and checkpoints."""

    def _keep_vigil(self, patience: float | None) -> None:
        """Of several ranks, watch over the others from now on."""
        self._begun = False  # whether the card is this run's, and no earlier one's
        self._vigil = Vigil(self.ranks, patience or PATIENCE, self._end_with_another)
        self._vigil.start()

    def _end_with_another(self, told: str) -> None:
        """End this process, whose main thread may wait for another one for good (see `Vigil`)."""
        self._write_end(OtherRankEndedError(told))
        if speaks_of(told, self.ranks):
            say_error(f"error: {told}: {_GO_ON}")
        os._exit(OTHER_RANK_ENDED)

    @contextmanager
    def _told_to_all(self) -> Iterator[None]:
        """Around all of training: its end is written into the card, and other ranks learn of it."""
        try:
            yield
        except BaseException as ended:
            together = isinstance(ended, Interrupted) and self._interruption.agreed is not None
            other = None if together else self._vigil.failed(ended)
            error = ended if other is None else OtherRankEndedError(f"{other or 'another rank is gone'}: {_GO_ON}")
            self._write_end(error)
            with suppress(Exception):  # a tracker that is out of reach, say: the error to tell is the first one
                self.callback_handler.on_train_end(self.args, self.state, self.control)
            if other is None:
                raise
            raise error from ended
        finally:
            self._vigil.close()
            self.folder.close()

    def _write_end(self, error: BaseException) -> None:
        if self._begun:  # else the card is that of a run before, which a refused resume leaves alone
            status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            with suppress(RunFolderError):  # the error to tell is the first one, also where nothing can be written
                self.folder.end_card({"status": status, "error": f"{type(error).__name__}: {error}"})

    def _watch_steps(self, objective: Objective) -> None:
        """Before anything else is done with them."""
        self._window = MetricWindow(objective, self.ranks)
        self._clock = TrainingClock(self.args.device)
        self._interruption = Interruption(self.ranks.highest)
        self.add_callback(EndWhenAsked(self._interruption))
        self._movement = Movement(self.policy.model, self.ranks)
        self.add_callback(self._movement)
        decode = self.policy.tokenizer.decode
        self._step_judge = StepJudge(self.folder, decode, self.ranks.all, self.ranks.rank)
        self._step: StepResult | None = None  # the one that is being made; None if it is skipped
        self._step_rows = 0  # of all ranks

    def _log_last_window(self) -> None:
        """One that is not full; after the last step, and before the evaluation there."""
        if self._window:
            self.log({"loss": math.nan})  # the window's takes its place

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted."""
        return 0

    def progress(self) -> dict[str, Any]:
        return {**self._clock.read(), "window": self._window.state(), "moved": self._movement.anywhere()}

    def _go_on_from(self, checkpoint: Path | None, planned_steps: int) -> None:
        """Take over what an interrupted run had done; without a checkpoint it begins again."""
        step = -1 if checkpoint is None else int(checkpoint.name.removeprefix("step-"))
        if checkpoint is None:
            say(f"{self.folder.path} has no checkpoint: the run begins again")
        else:
            say(f"going on from step {step}")
            progress = read_progress(checkpoint)
            self._clock.go_on_from(progress)
            self._window.load(progress["window"])
            self._movement.moved = progress.get("moved", True)
            self._saved_step = step
        self.folder.go_back_to(step, again=step >= planned_steps, unlogged=bool(self._window))
        self.ranks.wait()
        self._step_judge.go_on_from(step)

    def _end_if_asked(self) -> None:
        """After the steps: raises `Interrupted` where a signal has ended them, or came after the last one's end."""
        self._interruption.is_patient = False
        if not self._interruption.settle():
            return
        if self._saved_step != self.state.global_step:
            self._save_checkpoint(self.model_wrapped, None)  # type: ignore[arg-type]
        words = f"ended after step {self.state.global_step}, with a checkpoint"
        say(f"the run {words}; the same command with --resume goes on from there")
        raise Interrupted(self._interruption.agreed or 0, words)

    def _require_movement(self) -> None:
        """Raises `TrainingError` where the weights are those that training began with."""
        if not self._movement.anywhere():
            raise TrainingError(f"{UNMOVED} in {self.state.global_step} steps: {self._movement.why_not()}")

    def _judge_step(self, done: StepResult, rows: int, model: nn.Module) -> Tensor | None:
        """None if a step that was computed may go on to the optimizer; else the loss of 0 that stands in its place.
        `rows` is the number of its rows on all ranks.
        """
        self._step_rows = rows
        self._step = done if self._step_judge.accepts_loss(self.state.global_step + 1, done) else None
        return self._skip_step(model) if self._step is None else None

    def _skip_step(self, model: nn.Module) -> Tensor:
        """Leave the optimizer nothing: without gradients it changes neither weights nor moments. Gives a loss of 0."""
        model.zero_grad(set_to_none=True)
        self._window.skip(self._step_rows)
        return torch.zeros((), device=self.args.device)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        norm: Any = whole(super()._get_grad_norm(model, grad_norm))  # type: ignore[arg-type]
        if self._step is None:  # skipped: there is no gradient
            return None
        if self.state.global_step == 0 and float(norm) == 0.0:
            warn("the first step's gradient is 0: no trainable weight reaches the loss; look at what is frozen")
        if not self._step_judge.accepts_gradient(self.state.global_step + 1, self._step, float(norm)):
            self._skip_step(model)
            return None
        self._movement.saw_gradient(float(norm))
        for part in self._step.parts:
            self._window.add(part, self._step.statistics)
        self._window.end_step(self._step.statistics)
        self._step = None
        return norm
