"""A run's life from its first check to its last checkpoint, whatever it learns from.

It hands transformers' calls to its parts: `Checkpointer` writes and reads, `StepGuard` lets a step reach the weights,
`RunGuard` sees to how the run ends. What a step and an evaluation are, those who inherit say.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from torch import nn
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback

from likelier.data.groups import Group
from likelier.models.layers import checkpoint_activations, compile_layers
from likelier.models.sharding import shard_policy, whole
from likelier.objectives.metrics import MetricSums
from likelier.scoring import attach_scorer
from likelier.scoring.reference.identity import hashed_once
from likelier.training.arguments import optimizer_for
from likelier.training.checkpointing import Checkpointer, read_progress
from likelier.training.evaluation import When
from likelier.training.guards import NO_GRADIENT, StepGuard
from likelier.training.hooks import CheckpointingTrainer
from likelier.training.log_window import MetricWindow
from likelier.training.movement import Movement, check_schedule
from likelier.training.nonfinite import StepJudge
from likelier.training.origin import origin_of, warn_of_other_versions
from likelier.training.prepared import ReadyRun
from likelier.training.run_card import CardFacts
from likelier.training.step import StepResult
from likelier.training.stop_signals import EndWhenAsked, Interruption
from likelier.training.timer import TrainingClock, peak_memory
from likelier.training.within_memory import advice_when_memory_runs_out, can_retry
from likelier.utils.console import say
from likelier.utils.errors import ConfigError, TrainingError, whole_reason

_KEPT_LOGS = 100  # in transformers' log_history, for callbacks; metrics.jsonl has them all
Run = TypeVar("Run", bound=ReadyRun)


class RunTrainer(CheckpointingTrainer, ABC, Generic[Run]):
    """Trains one policy in one run folder.

    Args:
        run: what was found out before.
        rows, held_out: what is trained on and what is held out, items of a `StepLoader`.
        groups: what will be scored, so that the scorer is tried on it.
        window: collects the metrics of a step.
        callbacks: transformers callbacks.
    """

    run: Run
    without_gradient = NO_GRADIENT  # the likely cause of a first step without one

    def __init__(
        self,
        run: Run,
        rows: Sequence[Any],
        held_out: Sequence[Any],
        groups: Sequence[Group],
        window: MetricWindow,
        callbacks: Sequence[TrainerCallback],
    ) -> None:
        self.run = run
        self.policy, self.options, self.ranks, self.folder = run.policy, run.options, run.ranks, run.folder
        self.checkpointer = Checkpointer(run.policy, run.folder, run.ranks, keep=run.options.save_total_limit)
        with run.guard.watching():
            self._start(rows, held_out, groups, callbacks)
            self.token_budget = run.token_budget(self.args.device)
        self._rows = len(rows)
        self._clock = TrainingClock(self.args.device)
        self._interruption = Interruption(self.ranks.highest)
        self._movement = Movement(self.policy.model, self.ranks)
        self._window = window
        self._step_judge = StepJudge(self.folder, self.policy.tokenizer.decode, self.ranks.all, self.ranks.rank)
        self._guard = StepGuard(self._step_judge, self._window, self._movement, self.without_gradient, self._learnt)
        for callback in (EndWhenAsked(self._interruption), self._movement):
            self.add_callback(callback)
        self._trained = False
        self._origin: dict[str, str] = {}  # known when training begins
        self._last_evaluation: dict[str, float] | None = None

    # --- what those who inherit say --------------------------------------------------------------------------------

    @abstractmethod
    def _prepare_reference(self) -> dict[str, Any]:
        """Make and prove the reference. Returns what the run card says of it."""

    @abstractmethod
    def _facts(self) -> CardFacts:
        """What the run says of itself."""

    @abstractmethod
    def _prepare_evaluation(self, logged: Sequence[Mapping[str, Any]] | None) -> None:
        """Make ready to evaluate; `logged` are the metrics of an interrupted run that goes on."""

    @abstractmethod
    def _evaluation(self, when: When) -> tuple[dict[str, float], dict[str, Any]]:
        """Evaluate the held-out items: metrics without prefix, and what evaluations/step-N.json holds."""

    @abstractmethod
    def _evaluations_took(self) -> dict[str, Any] | None:
        """For the run card."""

    @abstractmethod
    def _say_plan(self, checkpoint: Path | None) -> None:
        """What will be done from this checkpoint, or from the beginning, and how long it takes."""

    @abstractmethod
    def _prove_it_fits(self) -> None:
        """Try the fullest micro-batch."""

    def _learnt(self, done: StepResult) -> None:
        """Take over what a step leaves behind beside its gradients, once these are seen to be finite."""

    def _found_at_end(self) -> dict[str, Any]:
        """What is found out about the trained model for the run card; every rank is asked."""
        return {}

    def _start(
        self,
        rows: Sequence[Any],
        held_out: Sequence[Any],
        groups: Sequence[Group],
        callbacks: Sequence[TrainerCallback],
    ) -> None:
        """Trainer's own beginning, and the model, on its device by then, with its scorer."""
        model, options = self.policy.model, self.options
        args = self.run.arguments()
        if options.shard:
            shard_policy(self.policy, args.device, self.ranks)
        use_cache = getattr(model.config, "use_cache", None)  # a model of several parts has it in one of them
        try:
            super().__init__(
                model=model,
                args=args,
                train_dataset=rows,  # type: ignore[arg-type]
                eval_dataset=held_out or None,  # type: ignore[arg-type]
                data_collator=list,  # type: ignore[arg-type]
                processing_class=self.policy.tokenizer,
                callbacks=list(callbacks),
                optimizer_cls_and_kwargs=optimizer_for(args, options, self.policy),
            )
        except (RuntimeError, ImportError, ValueError, TypeError) as error:  # a reporter that is not installed, say
            raise ConfigError(f"transformers refuses the training options: {whole_reason(error)}") from error
        self.remove_callback(PrinterCallback)
        if use_cache is None:
            vars(model.config).pop("use_cache", None)
        else:
            model.config.use_cache = use_cache
        how = {"scorer": options.scorer, "known": not options.verify}
        self.scorer = attach_scorer(model, autocast=self.policy.autocast, groups=groups, **how)
        self.ranks.require_same("scorer", self.scorer.version)
        if options.activation_checkpointing:
            checkpoint_activations(model)
        if options.compile:
            compile_layers(model)

    # --- training ----------------------------------------------------------------------------------------------

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Score and prove the reference, train, evaluate, save. The run folder then holds the model and the card."""
        if args or kwargs:
            raise TypeError("train() takes no arguments; give resume=True to the trainer")
        if self._trained:
            raise ConfigError("this trainer has trained already; make a new one with another output_dir or resume=True")
        self._trained = True
        with self.run.guard.running(
            self._interruption, lambda: self.callback_handler.on_train_end(self.args, self.state, self.control)
        ):
            self.run = self.run.audited()
            with self._interruption, advice_when_memory_runs_out():
                return self._train()

    def _train(self) -> Any:
        with hashed_once(self.policy.model):  # until the first step
            checkpoint, reference_card = self._begin()
        facts = self._facts()
        if self.run.resume:
            self._go_on_from(checkpoint)
        self._prepare_evaluation(None if checkpoint is None else self.folder.read_metrics())
        for line in facts.words():
            say(line)
        self._write_card(reference_card)
        if self.eval_dataset and checkpoint is None:
            self.folder.update_card({"evaluation_start": self._evaluate_now("start")})
        if can_retry(self.args.device, self.ranks):  # else a run that does not fit is ended by the system, proof or not
            self._prove_it_fits()
        self._clock.start()
        result = super().train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        self._interruption.end_if_asked(self.state.global_step, self._save_last)
        self._log_last_window()
        with self._clock.paused():
            if self.eval_dataset:
                self.folder.update_card({"evaluation_end": self._last_evaluation or self._evaluate_at_end()})
            else:
                self._movement.require(self.state.global_step)
                self.save_model()
        self.folder.end_card(
            {
                "status": "done",
                "training_seconds": round(self._clock.seconds, 3),
                "steps": result.global_step,
                "peak_memory_gib": round(peak_memory(self.args.device), 4),
                "evaluation": self._evaluations_took(),
                **self._found_at_end(),
            }
        )
        self.ranks.wait()  # the folder is whole before any rank goes on
        return result

    def _begin(self) -> tuple[Path | None, dict[str, Any]]:
        """The checkpoint to go on from, and what the run card says of the reference, once it is seen to be this run's.

        Raises `RunFolderError` where anything that decides a number is another one than before.
        """
        before = self.folder.read_fingerprint() if self.run.resume else {}
        self._origin = origin_of(self.policy)
        self.folder.check_fingerprint(before, self.fingerprint())
        if self.run.resume and self.folder.card_file.exists():
            warn_of_other_versions(self.folder.read_card().get("versions") or {})
        checkpoint = self.folder.latest_checkpoint() if self.run.resume else None
        if checkpoint is None:
            self._write_card()
        self._say_plan(checkpoint)
        if not self.policy.parameters["trainable"]:
            raise TrainingError(
                "no weight is trained: every parameter of the policy is frozen (requires_grad is False)"
            )
        reference_card = self._prepare_reference()
        self.folder.check_fingerprint(before, self.fingerprint())  # now with the reference
        check_schedule(self.args, self.options, self.run.planned_steps(), self._rows)
        return checkpoint, reference_card

    def _write_card(self, reference: dict[str, Any] | None = None) -> None:
        """What is known of the run: before its reference is proved, so that a failure there is told, and after."""
        self.run.guard.begun = True
        facts = {**self.run.card, **self._facts().card(), "total_steps": self.run.planned_steps()}
        self.folder.update_card(facts | ({} if reference is None else {"reference": reference}))

    def _go_on_from(self, checkpoint: Path | None) -> None:
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
            self.checkpointer.saved_step = step
        self.folder.go_back_to(step, again=step >= self.run.planned_steps(), unlogged=bool(self._window))
        self.ranks.wait()
        self._step_judge.go_on_from(step)

    def _save_last(self) -> None:
        if self.checkpointer.saved_step != self.state.global_step:
            self._save_checkpoint(self.model_wrapped, None)  # type: ignore[arg-type]

    def _ready_to_learn(self, model: nn.Module) -> None:
        """Model and optimizer as they are in a step: some optimizers keep other weights for it."""
        model.train()
        if hasattr(self.optimizer, "train") and callable(self.optimizer.train):  # type: ignore[union-attr]
            self.optimizer.train()  # type: ignore[union-attr]

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        norm: Any = whole(super()._get_grad_norm(model, grad_norm))  # type: ignore[arg-type]
        if self._guard.accepts_gradient(self.state.global_step + 1, float(norm)):
            return norm
        model.zero_grad(set_to_none=True)
        return None

    def _add_sums(self, sums: MetricSums) -> None:
        """To the window, by one rank: they are of the whole step."""
        self._window.add_sums(sums if self.ranks.is_first else sums.zeros())

    # --- evaluation, logs, files -------------------------------------------------------------------------------

    def evaluate(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> dict[str, float]:  # type: ignore[override]
        """Evaluate the held-out items, as one set; metrics under `eval_`. Trainer calls it at intervals."""
        if self.state.global_step < self.state.max_steps or not self._trained:
            return self._evaluate_now("interval")
        self._last_evaluation = self._evaluate_at_end()  # due at the last step: nothing is evaluated twice
        return self._last_evaluation

    def _evaluate_at_end(self) -> dict[str, float]:
        self._log_last_window()
        self._movement.require(self.state.global_step)
        self.save_model()  # first: a fault of an evaluation must not cost the training
        return self._evaluate_now("end")

    def _evaluate_now(self, when: When) -> dict[str, float]:
        with self._clock.paused():
            found, detail = self._evaluation(when)
        metrics = {f"eval_{name}": value for name, value in found.items()}
        if self._trained:
            self.folder.write_evaluation(detail)
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _log_last_window(self) -> None:
        """One that is not full; after the last step, and before the evaluation there."""
        if self._window:
            self.log({"loss": math.nan})  # the window's takes its place

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the window's metrics, write metrics.jsonl, pass on to whatever `report_to` names."""
        if "loss" in logs:
            window = self._window.read()
            logs |= window
            if "loss" not in window:  # every step of the window was skipped
                del logs["loss"]
            logs |= {"num_tokens": self.state.num_input_tokens_seen, **self._clock.read()}
        super().log(logs, start_time)
        del self.state.log_history[:-_KEPT_LOGS]
        if "train_runtime" not in logs:
            self.folder.append_metrics({"step": self.state.global_step, **logs})

    def fingerprint(self) -> dict[str, Any]:
        """What a resumed run must have in common with this one."""
        return self._facts().fingerprint()

    def progress(self) -> dict[str, Any]:
        """How far the run has come, for a checkpoint."""
        return {**self._clock.read(), "window": self._window.state(), "moved": self._movement.anywhere()}
