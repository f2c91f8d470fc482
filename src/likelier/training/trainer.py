"""`PreferenceTrainer`: a thin `transformers.Trainer` on which one dataset item is one whole optimizer step.

It hands transformers' calls to its parts: `PreparedRun` knows what was found out before, `RunReference` what the policy
is compared with; `StepWalker` computes a step, `StepGuard` lets it reach the weights, `Checkpointer` writes and reads,
`Evaluator` looks at held-out data, `RunGuard` sees to how the run ends.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback

from likelier.data.records import Record, UnusableRows
from likelier.data.tokenize import Group
from likelier.models.layers import checkpoint_activations, compile_layers
from likelier.models.policy import Policy
from likelier.models.sharding import shard_policy, whole
from likelier.objectives import Objective
from likelier.scoring import attach_scorer
from likelier.scoring.engine import ScoredGroups
from likelier.scoring.reference import Reference, ReferenceScoring
from likelier.scoring.reference.identity import hashed_once
from likelier.training.arguments import optimizer_for
from likelier.training.checkpointing import Checkpointer, read_progress
from likelier.training.evaluation import Evaluator, Judge, When
from likelier.training.guards import StepGuard
from likelier.training.hooks import CheckpointingTrainer
from likelier.training.log_window import MetricWindow
from likelier.training.movement import Movement, check_schedule
from likelier.training.nonfinite import StepJudge
from likelier.training.options import TrainingOptions
from likelier.training.origin import origin_of, warn_of_other_versions
from likelier.training.outlook import Outlook
from likelier.training.prepared import prepare_run
from likelier.training.reference import Named, RunReference
from likelier.training.run_card import RunFacts
from likelier.training.step import StepLoader, StepWalker
from likelier.training.stop_signals import EndWhenAsked, Interruption
from likelier.training.timer import TrainingClock, peak_memory
from likelier.training.within_memory import advice_when_memory_runs_out, can_retry, moments_of
from likelier.utils.console import say
from likelier.utils.errors import ConfigError, TrainingError, whole_reason
from likelier.utils.files import cache_folder

_KEPT_LOGS = 100  # in transformers' log_history, for callbacks; metrics.jsonl has them all


class PreferenceTrainer(CheckpointingTrainer):
    """Train a policy on preferences.

    Args:
        policy: from `load_policy`.
        objective: `DPO()`, `IPO()`, `KTO()`, `SimPO()`, ...
        train: records from `load_preferences` to train on.
        eval_data: held-out records, evaluated at the start, at intervals and at the end.
        output_dir: the run folder; refused if it already holds a run, unless `resume`.
        reference: `start` (the policy as it is now, the default), `base` (adapter switched off), or another `Policy`.
        options: a `TrainingOptions`; single ones may be given as keywords instead.
        resume: go on from the newest checkpoint of `output_dir`.
        unusable: rows that the loader left out, for audit.json.
        card: what the caller wants to stand in `run.json` besides.
        judge: a function that gives the policy's answers rewards (see `training.rewards.Judge`), in place of
            `options.eval_reward`.
        callbacks: transformers callbacks.

    Raises:
        LikelierError: for anything that is the user's to mend.
    """

    def __init__(
        self,
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
        card: dict[str, Any] | None = None,
        judge: Judge | None = None,
        callbacks: Sequence[TrainerCallback] = (),
        **more: Any,
    ) -> None:
        run = self.run = prepare_run(
            policy,
            objective,
            train,
            output_dir=output_dir,
            eval_data=eval_data,
            reference=reference,
            options=options,
            resume=resume,
            unusable=unusable,
            card=card,
            judge=judge,
            **more,
        )
        self.policy, self.objective, self.options = policy, run.objective, run.options
        self.ranks, self.folder = run.ranks, run.folder
        self.checkpointer = Checkpointer(policy, run.folder, run.ranks, keep=run.options.save_total_limit)
        self.train_groups, self.eval_groups = run.data.train.groups, run.data.held_out.groups
        with run.guard.watching():
            self._start(callbacks)
            self.token_budget = run.token_budget(self.args.device)
        self._walker = StepWalker(policy.model, self.objective, self.token_budget, self.args.device, self.ranks)
        self._clock = TrainingClock(self.args.device)
        self._interruption = Interruption(self.ranks.highest)
        self._movement = Movement(policy.model, self.ranks)
        self._window = MetricWindow(self.objective.statistics_metrics, self.ranks)
        self._step_judge = StepJudge(self.folder, policy.tokenizer.decode, self.ranks.all, self.ranks.rank)
        self._guard = StepGuard(self._step_judge, self._window, self._movement)
        self._outlook = Outlook(run, self.token_budget, self.args.device)
        for callback in (EndWhenAsked(self._interruption), self._movement, self._outlook):
            self.add_callback(callback)
        self._questions = run.questions()
        self._named_reference: Named = run.reference
        self._trained = False
        self._origin: dict[str, str] = {}  # known when training begins
        self._against: RunReference | None = None
        self._evaluator: Evaluator | None = None
        self._last_evaluation: dict[str, float] | None = None

    def _start(self, callbacks: Sequence[TrainerCallback]) -> None:
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
                train_dataset=self.train_groups,  # type: ignore[arg-type]
                eval_dataset=self.eval_groups or None,  # type: ignore[arg-type]
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
        groups = [*self.train_groups, *self.eval_groups]
        self.scorer = attach_scorer(model, autocast=self.policy.autocast, scorer=options.scorer, groups=groups)
        self.ranks.require_same("scorer", self.scorer.version)
        if options.activation_checkpointing:
            checkpoint_activations(model)
        if options.compile:
            compile_layers(model)

    # --- before the first step ---------------------------------------------------------------------------------

    def _scoring(self) -> ReferenceScoring:
        store = Path(self.options.reference_store or cache_folder() / "reference")
        return ReferenceScoring(store, self.token_budget, self.args.device, ranks=self.ranks, shard=self.options.shard)

    def _prepare_reference(self) -> dict[str, Any]:
        """Score and prove the reference. Returns what the run card says of it."""
        self._against = RunReference(
            self.policy,
            self._named_reference,
            self.objective,
            self.options,
            self._scoring(),
            asked_later=bool(self.eval_groups) and bool(self.options.answered_prompts),
        )
        self._named_reference = "start"  # a second model that was named is not kept in memory
        self.train_groups, self.eval_groups, card = self._against.prove_seen(
            self.train_groups, self.eval_groups, *self.run.seen_and_first()
        )
        return card

    @property
    def reference(self) -> Reference | None:
        """The reference, once `train` has proved it; None for a method without one."""
        return None if self._against is None else self._against.model

    def _make_evaluator(self) -> Evaluator:
        against = self._against
        return Evaluator(
            policy=self.policy,
            objective=self.objective,
            options=self.options,
            held_out=self.eval_groups,
            words=self._questions,
            reference=None if against is None else against.access(),
            judge=self.run.judge,
            how=self._scoring(),
            live=self._with_live_reference,
            began=self.folder.read_evaluation(0),
        )

    # --- training ----------------------------------------------------------------------------------------------

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Score and prove the reference, train, evaluate, save. The run folder then holds the model and the card."""
        if args or kwargs:
            raise TypeError("train() takes no arguments; give resume=True to PreferenceTrainer")
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
        self._evaluator = self._make_evaluator()
        if checkpoint is not None:
            self._evaluator.go_on_from(self.folder.read_metrics())
        for line in facts.words():
            say(line)
        self._write_card(reference_card)
        if self.eval_groups and checkpoint is None:
            self.folder.update_card({"evaluation_start": self._evaluate_now("start")})
        if can_retry(self.args.device, self.ranks):  # else a run that does not fit is ended by the system, proof or not
            moments = moments_of(self.policy.model, self.args.optim)
            self._walker.prove_it_fits(self.train_groups, self.options.batch_size, moments)
        self._clock.start()
        result = super().train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        self._interruption.end_if_asked(self.state.global_step, self._save_last)
        self._log_last_window()
        with self._clock.paused():
            if self.eval_groups:
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
                "evaluation": self._evaluator.account(self.run.eval_interval, self._clock.seconds),
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
        self._outlook.say_plan(self.policy.model, checkpoint)
        if not self.policy.parameters["trainable"]:
            raise TrainingError(
                "no weight is trained: every parameter of the policy is frozen (requires_grad is False)"
            )
        reference_card = self._prepare_reference()
        self.folder.check_fingerprint(before, self.fingerprint())  # now with the reference
        check_schedule(self.args, self.options, self.run.planned_steps(), len(self.train_groups))
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

    # --- one step ------------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> StepLoader:
        """One item is one optimizer step. Not prepared by accelerate, which would shard it again."""
        return StepLoader(self.train_groups, batch_sampler=self.run.sampler(), collate_fn=list)  # type: ignore[arg-type]

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """One optimizer step (see `training.step`); the loss is the sum over items divided by their number."""
        model.train()
        if hasattr(self.optimizer, "train") and callable(self.optimizer.train):  # type: ignore[union-attr]
            self.optimizer.train()  # type: ignore[union-attr]
        groups: list[Group] = self._with_live_reference(inputs)
        done = self._walker.walk(model, groups, self.accelerator.backward, self._check_start)
        self.state.num_input_tokens_seen += sum(group.tokens for group in groups)
        self._clock.items += len(groups)
        if not self._guard.accepts(self.state.global_step + 1, done, len(groups)):
            model.zero_grad(set_to_none=True)
            return torch.zeros((), device=self.args.device)
        return (done.losses.double().sum() * self.ranks.size / len(groups)).float()

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        norm: Any = whole(super()._get_grad_norm(model, grad_norm))  # type: ignore[arg-type]
        if self._guard.accepts_gradient(self.state.global_step + 1, float(norm)):
            return norm
        model.zero_grad(set_to_none=True)
        return None

    def _check_start(self, part: ScoredGroups) -> None:
        """In the first step, where the policy starts as its reference, and its forward pass is without dropout."""
        if self.state.global_step == 0 and self._against is not None and not self.run.has_dropout:
            self._against.check_first_step(part)

    def _with_live_reference(self, groups: Sequence[Group]) -> list[Group]:
        return list(groups) if self._against is None else self._against.with_live_scores(groups)

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
        self._evaluator = self._evaluator or self._make_evaluator()
        with self._clock.paused():
            found = self._evaluator.evaluate(when, self.state.global_step)
        metrics = {f"eval_{name}": value for name, value in found.metrics.items()}
        if self._trained:
            self.folder.write_evaluation(found.detail)
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

    def _facts(self) -> RunFacts:
        reference = None if self.reference is None else self.reference.identity
        return RunFacts(self.run, reference, self.scorer, self.token_budget, self.args.device, self._origin)

    def progress(self) -> dict[str, Any]:
        """How far the run has come, for a checkpoint."""
        return {**self._clock.read(), "window": self._window.state(), "moved": self._movement.anywhere()}
