"""`PreferenceTrainer`: a thin `transformers.Trainer` on which one dataset item is one whole optimizer step.

It hands transformers' calls to its parts: `PreparedRun` knows what was found out before, `RunReference` what the policy
is compared with; `StepWalker` computes a step, `StepGuard` lets it reach the weights, `Checkpointer` writes and reads,
`Evaluator` looks at held-out data, `RunGuard` sees to how the run ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from likelier.data.groups import Group
from likelier.data.records import Record, UnusableRows
from likelier.data.views import joined
from likelier.models.policy import Policy
from likelier.objectives import Objective
from likelier.objectives.metrics import MetricSums
from likelier.scoring.engine import ScoredGroups
from likelier.scoring.reference import Reference, ReferenceScoring
from likelier.scoring.reference.moving import MovingReference
from likelier.training.checkpointing import read_progress, undamaged
from likelier.training.evaluation import Evaluator, Judge, When, evaluate_groups
from likelier.training.evaluation.evaluator import MOST_ITEMS
from likelier.training.evaluation.schedule import some_of
from likelier.training.log_window import MetricWindow
from likelier.training.options import TrainingOptions
from likelier.training.outlook import Outlook
from likelier.training.prepared import PreparedRun, prepare_run
from likelier.training.reference import MoveReference, Named, RunReference
from likelier.training.run_card import RunFacts
from likelier.training.run_trainer import RunTrainer
from likelier.training.step import StepLoader, StepResult, StepWalker
from likelier.training.within_memory import moments_of
from likelier.utils.files import cache_folder
from likelier.utils.terminal import busy


class PreferenceTrainer(RunTrainer[PreparedRun]):
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
        run = prepare_run(
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
        self.objective = run.objective
        self.train_groups, self.eval_groups = run.data.train.groups, run.data.held_out.groups
        groups = joined(self.train_groups, self.eval_groups)
        window = MetricWindow(self.objective.statistics_metrics, run.ranks)
        super().__init__(run, self.train_groups, self.eval_groups, groups, window, callbacks)
        self._walker = StepWalker(policy.model, self.objective, self.token_budget, self.args.device, self.ranks)
        self._outlook = Outlook(run, self.token_budget, self.args.device)
        self.add_callback(self._outlook)
        self._questions = run.questions()
        self._named_reference: Named = run.reference
        self._against: RunReference | None = None
        self._evaluator: Evaluator | None = None

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
        if self._moving is not None:
            self.add_callback(MoveReference(self._moving))
        return card

    @property
    def _moving(self) -> MovingReference | None:
        return None if self._against is None else self._against.moving

    @property
    def reference(self) -> Reference | None:
        """The reference, once `train` has proved it; None for a method without one."""
        return None if self._against is None else self._against.model

    def _made_evaluator(self) -> Evaluator:
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
            live=self._with_held_out_reference,
            began=self.folder.read_evaluation(0),
        )

    def _prepare_evaluation(self, logged: Sequence[Mapping[str, Any]] | None) -> None:
        self._evaluator = self._made_evaluator()
        if logged is not None:
            self._evaluator.go_on_from(logged)

    def _evaluation(self, when: When) -> tuple[dict[str, float], dict[str, Any]]:
        self._evaluator = self._evaluator or self._made_evaluator()
        self._evaluator.objective = self.objective
        found = self._evaluator.evaluate(when, self.state.global_step)
        return found.metrics, found.detail

    def _say_plan(self, checkpoint: Path | None) -> None:
        self._outlook.say_plan(self.policy.model, checkpoint)

    def _evaluations_took(self) -> dict[str, Any] | None:
        assert self._evaluator is not None
        return self._evaluator.account(self.run.eval_interval, self._clock.seconds)

    def _found_at_end(self) -> dict[str, Any]:
        """What the objective carries, and what became of a reference that moves. Of a reward model its mean score of
        training answers, of which as many are scored as an evaluation holds: only differences of scores were trained,
        and what is 0 is anybody's guess without it.
        """
        if not self.objective.reads_values:
            carried = {"objective_state": self.objective.recorded_state()} if self.objective.state else {}
            return carried | ({} if self._against is None else self._against.at_end(self.state.global_step))
        with busy("the mean score of training answers"):
            groups = some_of(self.train_groups, MOST_ITEMS)
            found = evaluate_groups(self.policy.model, self.objective, groups, **self._scoring().settings)
        return {"reward_offset": float(found.scored.logps.double().mean())}

    def _prove_it_fits(self) -> None:
        moments = moments_of(self.policy.model, self.args.optim)
        self._walker.prove_it_fits(self.train_groups, self.options.batch_size, moments)

    # --- one step ------------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> StepLoader:
        """One item is one optimizer step. Not prepared by accelerate, which would shard it again."""
        return StepLoader(self.train_groups, self.run.sampler())

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """One optimizer step (see `training.step`); the loss is the sum over items divided by their number."""
        self._ready_to_learn(model)
        groups: list[Group] = self._with_live_reference(inputs)
        done = self._walker.walk(model, groups, self.accelerator.backward, self._check_start)
        self.state.num_input_tokens_seen += sum(group.tokens for group in groups)
        self._clock.items += len(groups)
        if not self._guard.accepts(self.state.global_step + 1, done, len(groups)):
            model.zero_grad(set_to_none=True)
            return torch.zeros((), device=self.args.device)
        return (done.losses.double().sum() * self.ranks.size / len(groups)).float()

    def _learnt(self, done: StepResult) -> None:
        self._carry(done.state)
        told = MetricSums()
        for name, value in self.objective.state_metrics().items():
            told.add_sum(name, value, 1)
        self._add_sums(told)

    def _carry(self, state: Mapping[str, Any]) -> None:
        self.objective = self._walker.objective = self.objective.with_state(state)

    def progress(self) -> dict[str, Any]:
        """As every run's, with what the objective carries."""
        return super().progress() | {"objective_state": self.objective.recorded_state()}

    def _go_on_from(self, checkpoint: Path | None) -> None:
        super()._go_on_from(checkpoint)
        if checkpoint is not None and self.objective.state:
            with undamaged(checkpoint):
                self._carry(read_progress(checkpoint)["objective_state"])

    def _check_start(self, part: ScoredGroups) -> None:
        """In the first step, where the policy starts as its reference, and its forward pass is without dropout."""
        if self.state.global_step == 0 and self._against is not None and not self.run.has_dropout:
            self._against.check_first_step(part)

    def _with_live_reference(self, groups: Sequence[Group]) -> list[Group]:
        return list(groups) if self._against is None else self._against.with_live_scores(groups)

    def _with_held_out_reference(self, groups: Sequence[Group]) -> list[Group]:
        return list(groups) if self._against is None else self._against.with_held_out_scores(groups)

    def _facts(self) -> RunFacts:
        reference = None if self.reference is None else self.reference.identity
        return RunFacts(self.run, reference, self.scorer, self.token_budget, self.args.device, self._origin)

    # --- a reference that moves --------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """With the number of moves that the reference has made."""
        if "loss" in logs and self._moving is not None:
            logs["reference/updates"] = self._moving.rule.updates(self.state.global_step)
        super().log(logs, start_time)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self._moving is not None and self.ranks.is_first:
            self._moving.save(Path(output_dir))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if self._moving is not None and checkpoint is not None:
            with undamaged(checkpoint):
                self._moving.load(Path(checkpoint))
