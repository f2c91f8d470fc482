"""`PreferenceTrainer`: a thin `transformers.Trainer` on which one dataset item is one whole optimizer step.

No mathematics, no data code and no model loading here: it walks the micro-batches of a step, adds sums and counts, and
writes files. The reference is scored and proved before the first step.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback

from likelier.data.audit.run import run_audit
from likelier.data.dates import asks_for_date, now
from likelier.data.packing import StepSampler
from likelier.data.prepare import PreparedData, prepare_data
from likelier.data.records import Record, UnusableRows, last_turn
from likelier.data.tokenize import Group, default_max_length
from likelier.models.layers import checkpoint_activations, compile_layers
from likelier.models.policy import Policy
from likelier.models.sharding import shard_policy
from likelier.models.token_budget import default_token_budget
from likelier.objectives import Objective
from likelier.runs.folder import OtherRanksFolder, RunFolder
from likelier.scoring import attach_scorer
from likelier.scoring.engine import ScoredGroups
from likelier.scoring.reference import Reference, ReferenceScoring
from likelier.scoring.reference.identity import hashed_once
from likelier.training.arguments import optimizer_for, training_arguments
from likelier.training.evaluation import Evaluator, Judge, When, judge_of, planned_interval
from likelier.training.guards import ResilientTrainer
from likelier.training.launcher import take_over_precision, with_launcher
from likelier.training.movement import check_schedule
from likelier.training.options import (
    TrainingOptions,
    refuse_evaluation_options,
    refuse_inert_options,
    refuse_process_options,
    with_changes,
)
from likelier.training.origin import origin_of, warn_of_other_versions
from likelier.training.reference import Named, RunReference
from likelier.training.run_card import RunFacts, say_what_does_not_fit
from likelier.training.step import StepLoader, StepWalker, advice_when_memory_runs_out, can_retry, moments_of
from likelier.training.timer import peak_memory
from likelier.utils.console import say, warn
from likelier.utils.distributed import join_ranks
from likelier.utils.errors import ConfigError, TrainingError, whole_reason
from likelier.utils.files import cache_folder

_KEPT_LOGS = 100  # in transformers' log_history, for callbacks; metrics.jsonl has them all


class PreferenceTrainer(ResilientTrainer):
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
        judge: a function that gives the policy's answers rewards (see `evaluation.Judge`), in place of
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
        self.options = with_launcher(with_changes(options or TrainingOptions(), more))
        take_over_precision(policy.autocast)
        self.ranks = join_ranks(self.options.trainer.get("ddp_timeout"))
        refuse_process_options(self.options, self.ranks)
        self.policy, self.resume, self.card = policy, resume, dict(card or {})
        self._named_reference: Named = reference
        refuse_inert_options(objective, self.options, named_reference=reference != "start")
        if not eval_data:
            refuse_evaluation_options(self.options)
        self._judge = judge_of(self.options, judge, held_out=bool(eval_data))
        self.folder = RunFolder(output_dir) if self.ranks.is_first else OtherRanksFolder(output_dir)
        self._keep_vigil(self.options.rank_timeout)
        try:
            self.folder.open(resume=resume)
            self._take_data(objective, train, eval_data, unusable or UnusableRows())
            self._start(callbacks)
            self._watch_steps(self.objective)
            self.token_budget = self._token_budget()
        except BaseException as error:
            self.folder.close()
            self._vigil.failed(error)
            raise
        self._trained = False
        self._origin: dict[str, str] = {}  # known when training begins
        self._walker = StepWalker(policy.model, self.objective, self.token_budget, self.args.device, self.ranks)
        self._against: RunReference | None = None
        self._evaluator: Evaluator | None = None
        self._last_evaluation: dict[str, float] | None = None

    def _take_data(
        self, objective: Objective, train: Sequence[Record], eval_data: Sequence[Record], left_out: UnusableRows
    ) -> None:
        """Tokens of the rows, their account and audit, and what of the objective depends on them."""
        self._take_date([*train, *eval_data])
        with self.ranks.first_before_others():  # who then find its cached token ids
            self.prepared = self._prepare(objective, train, eval_data)
        self.ranks.require_same("data", self.prepared.hash + self.prepared.held_out_hash)
        goes_on = self.resume and self.folder.card_file.exists()  # with its account, if the data are the same
        if self.ranks.is_first and not goes_on:
            audit = run_audit(train, eval_data, left_out)
            self.folder.write_audit(*self.prepared.account(left_out), audit)
        self.train_groups, self.eval_groups = self.prepared.train.groups, self.prepared.held_out.groups
        self.objective = objective.resolved(self.prepared.median_length)
        say_what_does_not_fit(self.objective, self.train_groups, self.options.batch_size)
        self._eval_words = {str(record.source): words for record in eval_data if (words := last_turn(record.prompt))}
        self.eval_interval = self._planned_interval()

    def _take_date(self, records: Sequence[Record]) -> None:
        """What a template that asks the clock is told, for all of the run: a run that goes on has its own moment."""
        policy = self.policy
        if asks_for_date(policy.tokenizer.chat_template) and any(isinstance(one.prompt, tuple) for one in records):
            before = self.folder.read_fingerprint().get("date") if self.resume else None
            date = self.ranks.text_of_first(policy.chat.date or before or now())
            policy.chat = replace(policy.chat, date=date)

    def _start(self, callbacks: Sequence[TrainerCallback]) -> None:
        """Trainer's own beginning, and the model with its scorer."""
        model, options = self.policy.model, self.options
        args = training_arguments(
            options, self.objective, self.policy, self.folder.path, self.eval_interval, self.ranks
        )
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

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """As transformers. Raises `ConfigError` for a block `trainer` whose settings the optimizer does not take."""
        try:
            return super().create_optimizer(*args, **kwargs)
        except (ValueError, TypeError, ImportError) as error:
            raise ConfigError(f"transformers refuses the training options: {whole_reason(error)}") from error

    # --- before the first step ---------------------------------------------------------------------------------

    def _prepare(self, objective: Objective, train: Sequence[Record], eval_data: Sequence[Record]) -> PreparedData:
        limit, context = self.options.max_length, self.policy.context
        if limit and context and limit > context:
            raise ConfigError(f"max_length={limit} is beyond the model's context of {context} tokens; lower it")
        return prepare_data(
            train,
            eval_data,
            self.policy.tokenizer,
            method=objective.method,
            wants=objective.data,
            partners=objective.needs_partner,
            max_length=limit or default_max_length(context),
            truncation=self.options.truncation,
            chat=self.policy.chat,
            signals=self.options.signals,
        )

    def _planned_interval(self) -> int | None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        steps = self._planned_steps()
        interval = planned_interval(self.options, self.train_groups, self.eval_groups, steps, device)
        if self.options.eval_items is not None and (interval is None or interval >= steps):
            warn("eval_items has no effect: nothing is evaluated between the first and the last step; see eval_steps")
        return interval

    def _planned_steps(self) -> int:
        steps_an_epoch = len(self._sampler())
        return self.options.max_steps or math.ceil(steps_an_epoch * (self.options.epochs or 1))

    def _token_budget(self) -> int:
        if self.resume:
            newest = self.folder.latest_checkpoint()
            self.ranks.require_same("run folder (it must be on a disk that all share)", str(newest and newest.name))
        before = self.folder.read_fingerprint().get("token_budget") if self.resume else None
        known = self.options.token_budget or before
        if known is not None:
            return int(known)
        checkpointing = self.options.activation_checkpointing
        budget = default_token_budget(self.model, self.args.device, checkpointing=checkpointing)
        return int(self.ranks.lowest(torch.tensor(budget)))

    def _scoring(self) -> ReferenceScoring:
        store = Path(self.options.reference_store or cache_folder() / "reference")
        return ReferenceScoring(store, self.token_budget, self.args.device, ranks=self.ranks, shard=self.options.shard)

    def _prepare_reference(self) -> dict[str, Any]:
        """Score and prove the reference. Returns what the run card says of it."""
        sampler = self._sampler()
        seen = sampler.seen(self.options.max_steps)  # rows that no step reaches need no reference score
        first_step = [bisect_left(seen, number) for number in next(iter(sampler))] if self._has_dropout() else []
        self._against = RunReference(
            self.policy,
            self._named_reference,
            self.objective,
            self.options,
            self._scoring(),
            asked_later=bool(self.eval_groups) and bool(self.options.answered_prompts),
        )
        self._named_reference = "start"  # a second model that was named is not kept in memory
        train, self.eval_groups, card = self._against.prove(
            [self.train_groups[number] for number in seen], self.eval_groups, first_step
        )
        scored = dict(zip(seen, train, strict=True))
        self.train_groups = [scored.get(number, group) for number, group in enumerate(self.train_groups)]
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
            words=self._eval_words,
            reference=None if against is None else against.asked_again(),
            judge=self._judge,
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
            raise ConfigError(
                "this trainer has trained already; make a new one, with another output_dir or resume=True"
            )
        self._trained = True
        with self._told_to_all(), self._interruption, advice_when_memory_runs_out():
            return self._train()

    def _train(self) -> Any:
        with hashed_once(self.policy.model):  # until the first step
            checkpoint, reference_card = self._begin()
        facts = self._facts()
        if self.resume:
            self._go_on_from(checkpoint, self._planned_steps())
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
        self._end_if_asked()
        self._log_last_window()
        with self._clock.paused():
            if self.eval_groups:
                self.folder.update_card({"evaluation_end": self._last_evaluation or self._evaluate_at_end()})
            else:
                self._require_movement()
                self.save_model()
        self.folder.end_card(
            {
                "status": "done",
                "training_seconds": round(self._clock.seconds, 3),
                "steps": result.global_step,
                "peak_memory_gib": round(peak_memory(self.args.device), 4),
                "evaluation": self._evaluator.account(self.eval_interval, self._clock.seconds),
            }
        )
        self.ranks.wait()  # the folder is whole before any rank goes on
        return result

    def _begin(self) -> tuple[Path | None, dict[str, Any]]:
        """The checkpoint to go on from, and what the run card says of the reference, once it is seen to be this run's.

        Raises `RunFolderError` where anything that decides a number is another one than before.
        """
        before = self.folder.read_fingerprint() if self.resume else {}
        self._origin = origin_of(self.policy)
        self.folder.check_fingerprint(before, self.fingerprint())
        if self.resume and self.folder.card_file.exists():
            warn_of_other_versions(self.folder.read_card().get("versions") or {})
        checkpoint = self.folder.latest_checkpoint() if self.resume else None
        if checkpoint is None:
            self._write_card()
        if not self.policy.parameters["trainable"]:
            raise TrainingError(
                "no weight is trained: every parameter of the policy is frozen (requires_grad is False)"
            )
        reference_card = self._prepare_reference()
        self.folder.check_fingerprint(before, self.fingerprint())  # now with the reference
        check_schedule(self.args, self.options, self._planned_steps(), len(self.train_groups))
        return checkpoint, reference_card

    def _write_card(self, reference: dict[str, Any] | None = None) -> None:
        """What is known of the run: before its reference is proved, so that a failure there is told, and after."""
        self._begun = True
        facts = {**self.card, **self._facts().card(), "total_steps": self._planned_steps()}
        self.folder.update_card(facts | ({} if reference is None else {"reference": reference}))

    def _sampler(self) -> StepSampler:
        options = self.options
        prompts = [group.prompt.tobytes() if options.group_by else b"" for group in self.train_groups]
        return StepSampler(
            prompts,
            batch_size=options.batch_size,
            order=options.order,
            group_by=options.group_by,
            seed=options.seed,
        )

    def get_train_dataloader(self) -> StepLoader:
        """One item is one optimizer step. Not prepared by accelerate, which would shard it again."""
        return StepLoader(self.train_groups, batch_sampler=self._sampler(), collate_fn=list)  # type: ignore[arg-type]

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """One optimizer step (see `steps`); the loss is the sum over items divided by their number."""
        model.train()
        if hasattr(self.optimizer, "train") and callable(self.optimizer.train):  # type: ignore[union-attr]
            self.optimizer.train()  # type: ignore[union-attr]
        groups: list[Group] = self._with_live_reference(inputs)
        done = self._walker.walk(model, groups, self.accelerator.backward, self._check_start)
        skipped = self._judge_step(done, len(groups), model)
        self.state.num_input_tokens_seen += sum(group.tokens for group in groups)
        self._clock.items += len(groups)
        if skipped is not None:
            return skipped
        return (done.losses.double().sum() * self.ranks.size / len(groups)).float()

    def _has_dropout(self) -> bool:
        return bool((self.policy.adapter_settings or {}).get("dropout"))

    def _check_start(self, part: ScoredGroups) -> None:
        """In the first step, where the policy starts as its reference, and its forward pass is without dropout."""
        if self.state.global_step == 0 and self._against is not None and not self._has_dropout():
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
        self._require_movement()
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
        return self._facts().fingerprint()

    def _facts(self) -> RunFacts:
        return RunFacts(
            options=self.options,
            objective=self.objective,
            policy=self.policy,
            data=self.prepared,
            reference=None if self.reference is None else self.reference.identity,
            scorer=self.scorer,
            token_budget=self.token_budget,
            device=str(self.args.device),
            processes=self.ranks.size,
            origin=self._origin,
        )
