"""`OnlineTrainer`: the policy writes, rewards judge, one optimizer step learns from it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from likelier.data.packing import StepSampler
from likelier.data.prompts import Prompt
from likelier.data.records import UnusableRows
from likelier.models.layers import checkpoint_activations
from likelier.models.policy import Policy, require_same_vocabulary
from likelier.objectives.metrics import MetricSums
from likelier.objectives.online_base import OnlineObjective
from likelier.online.critic import critic_for, hold_once
from likelier.online.estimates import Estimator
from likelier.online.evaluation import OnlineEvaluator
from likelier.online.options import OnlineOptions
from likelier.online.outlook import OnlineOutlook
from likelier.online.prepared import OnlineFacts, OnlineRun, prepare_online_run
from likelier.online.rewards.load import RewardSet
from likelier.online.roles import roles_of
from likelier.online.rollout import Asked, Rollout
from likelier.online.rollouts import RolloutMaker, longest_rows
from likelier.online.sampling import sampler_for
from likelier.online.sampling.proof import TOLERANCE
from likelier.online.walker import RolloutWalker
from likelier.runs.ownership import SERVED
from likelier.scoring import attach_scorer
from likelier.scoring.reference.identity import Reference, base_reference, other_reference, start_reference
from likelier.training.checkpointing import read_progress
from likelier.training.evaluation import When
from likelier.training.log_window import MetricWindow
from likelier.training.options import TrainingOptions
from likelier.training.reference import Named
from likelier.training.run_trainer import RunTrainer
from likelier.training.step import StepLoader
from likelier.training.within_memory import moments_of
from likelier.utils.console import say, warn
from likelier.utils.errors import TrainingError

_TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-4}  # nats a token, sampler against scorer, in the mean
_ROLLOUT_PROMPTS = 32  # at most, in a file of rollouts/


class OnlineTrainer(RunTrainer[OnlineRun]):
    """Train a policy on answers that it writes itself.

    Args:
        policy: from `load_policy`.
        objective: from `online_method("grpo")`, ...
        train: prompts from `load_prompts`.
        rewards: from `load_rewards`: what answers earn.
        online: how answers are written and rewarded.
        output_dir: the run folder; refused if it already holds a run, unless `resume`.
        eval_data: held-out prompts, answered at the start, at intervals and at the end.
        judge: what held-out answers earn (default: `rewards`).
        reference: `start` (the policy as it is now), `base` (adapter switched off), or another `Policy`; asked only
            where the objective needs one.
        options: a `TrainingOptions`; `batch_size` counts prompts.
        resume, unusable, card, callbacks: as for `PreferenceTrainer`.

    Raises:
        LikelierError: for anything that is the user's to mend.
    """

    without_gradient = (
        "the answers that are compared earned the same, so that there is nothing to learn (frac_reward_zero_std); look "
        "at the reward and the answers in rollouts/, or write more answers to a prompt"
    )

    def __init__(
        self,
        policy: Policy,
        objective: OnlineObjective,
        train: Sequence[Prompt],
        *,
        rewards: RewardSet,
        online: OnlineOptions,
        output_dir: str | Path,
        eval_data: Sequence[Prompt] = (),
        judge: RewardSet | None = None,
        reference: Named = "start",
        options: TrainingOptions | None = None,
        resume: bool = False,
        unusable: UnusableRows | None = None,
        card: Mapping[str, Any] | None = None,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        run = prepare_online_run(
            policy,
            objective,
            train,
            rewards=rewards,
            judge=judge,
            online=online,
            output_dir=output_dir,
            eval_data=eval_data,
            reference=reference,
            options=options or TrainingOptions(),
            resume=resume,
            unusable=unusable,
            card=card,
        )
        self.objective, self.online = objective, online
        self._asked, self._held_out = run.asked(), run.asked(held_out=True)
        window = MetricWindow(None, run.ranks, objective.readable)
        longest = longest_rows(self._asked, objective, online.max_new_tokens, run.options.batch_size)
        super().__init__(run, self._asked, self._held_out, longest[:2], window, callbacks)
        self._longest = longest
        self._walker = self._walker_of(run)
        sampler = sampler_for(
            policy, online.sampling(run.options.seed), run.server, self.folder.path / SERVED, self.ranks
        )
        critic = self._walker.critic
        estimator = None if critic is None else Estimator(critic, self._walker)
        parts = (sampler, rewards, self._walker, estimator)
        self._maker = RolloutMaker(policy, objective, online, *parts, all_prompts=self._asked)
        self._evaluator = OnlineEvaluator(self._maker, run.judge, self._answered())
        self._outlook = OnlineOutlook(run, sampler, self.token_budget, self.args.device, critic=critic)
        self.add_callback(self._outlook)
        self._rollout: Rollout | None = None
        for warning in objective.warnings():
            warn(warning)

    def _walker_of(self, run: OnlineRun) -> RolloutWalker:
        """With the critic, where the objective has one. Raises `ConfigError` for one that would learn alone."""
        online = run.online
        with run.guard.watching():
            critic = critic_for(run.objective, run.policy, run.rewards)
            if critic is not None:
                critic.require_steps(run.planned_steps(), online.updates_per_rollout)
                if self.options.activation_checkpointing:
                    checkpoint_activations(critic.model)
            hold_once(run.policy, critic, run.rewards, run.judge)
        return RolloutWalker(
            run.policy.model,
            run.objective,
            self.token_budget,
            self.args.device,
            temperature=online.temperature,
            max_length=online.max_new_tokens,
            ranks=self.ranks,
            critic=critic,
        )

    def _answered(self) -> list[Asked]:
        """The held-out prompts that are answered: all, or so many, evenly spaced."""
        most = self.options.eval_prompts
        if most is None or most >= len(self._held_out):
            return self._held_out
        return [self._held_out[place * len(self._held_out) // most] for place in range(most)]

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate, train, evaluate, save. The run folder then holds the model and the card."""
        try:
            return super().train(*args, **kwargs)
        finally:
            self.run.close()
            self._maker.sampler.close()

    # --- before the first step -------------------------------------------------------------------------------------

    def _prepare_reference(self) -> dict[str, Any]:
        """Taken as it is now, which is what the policy starts as; no score of it can be stored beforehand."""
        if not self.objective.needs_reference:
            return {"words": f"none: {self.objective.no_reference}"}
        made = self._reference()
        self._maker.reference = self._evaluator.reference = made
        say(f"reference: {made.words}")
        return {"words": made.words, "identity": made.identity}

    def _reference(self) -> Reference:
        named, model, precision = self.run.reference, self.policy.model, self.policy.precision
        if isinstance(named, Policy):
            require_same_vocabulary(self.policy, named)
            named.model.to(self.args.device)
            how = {"scorer": self.options.scorer, "known": not self.options.verify}
            attach_scorer(named.model, autocast=named.autocast, groups=self._longest[:2], **how)
            return other_reference(named.model, named.name, precision=named.precision)
        if named == "base":
            return base_reference(model, precision=precision)
        return start_reference(model, precision=precision, live=True, keep_adapter=True)

    def _facts(self) -> OnlineFacts:
        reference, critic = self._maker.reference, self._walker.critic
        roles = () if critic is None else roles_of(self.policy, critic, reference, self.run.rewards)
        identity = None if reference is None else reference.identity
        known = (self.scorer, self.token_budget, self.args.device, self._origin)
        return OnlineFacts(self.run, identity, *known, roles=roles)

    def _prepare_evaluation(self, logged: Sequence[Mapping[str, Any]] | None) -> None:
        if logged is not None:
            self._evaluator.at_start = self.folder.read_evaluation(0)

    def _evaluation(self, when: When) -> tuple[dict[str, float], dict[str, Any]]:
        return self._evaluator.evaluate(when, self.state.global_step)

    def _evaluations_took(self) -> dict[str, Any] | None:
        seconds = {when: round(took, 3) for when, took in self._evaluator.seconds.items()}
        return {"eval_steps": self.run.eval_interval, "seconds": seconds} if self._held_out else None

    def _say_plan(self, checkpoint: Path | None) -> None:
        self._outlook.say_plan(self.policy.model, checkpoint)

    def _prove_it_fits(self) -> None:
        moments = moments_of(self.policy.model, self.args.optim)
        self._walker.prove_it_fits(self._longest, len(self._longest), moments)

    # --- one step --------------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> StepLoader:
        """One item is one optimizer step: the prompts of its rollout, which comes as often as it is learnt from."""
        steps = RepeatedSteps(self.run.sampler(), self.online.updates_per_rollout)
        return StepLoader(self._asked, steps)

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """One optimizer step; a rollout is made first, unless the last one is to be learnt from again."""
        step, critic = self.state.global_step, self._walker.critic
        if critic is not None:
            critic.forget_gradients()
        if self._rollout is None or step % self.online.updates_per_rollout == 0:
            self._rollout = self._make_rollout(inputs, step)
        self._ready_to_learn(model)
        begun = time.monotonic()
        learns = critic is None or step >= critic.objective.critic_warmup * self.online.updates_per_rollout
        done = self._walker.walk(model, self._rollout, self.accelerator.backward, policy_learns=learns)
        tokens = int(self.ranks.total(torch.tensor(sum(group.tokens for group in done.groups))))
        self._log_speed(tokens, time.monotonic() - begun)
        if step % self.online.updates_per_rollout == 0:
            self._compare_sampler(done.differences, first=step == 0)
        self.state.num_input_tokens_seen += tokens
        self._clock.items += len(inputs)
        if not self._guard.accepts(step + 1, done, len(done.groups)):
            self._learners(model).zero_grad(set_to_none=True)
            return torch.zeros((), device=self.args.device)
        return (done.losses.double().sum() * self.ranks.size).float()  # of which Trainer takes the mean over ranks

    def _log_speed(self, tokens: int, seconds: float) -> None:
        """What the forward and backward passes took, beside what sampling and rewards did."""
        speed = MetricSums()
        speed.add_sum("seconds/training", seconds, 1)
        speed.add_sum("training/tokens_per_second", tokens, seconds)
        self._add_sums(speed)

    def _make_rollout(self, asked: Sequence[Asked], step: int) -> Rollout:
        rollout, metrics = self._maker.make(asked, step)
        self._add_sums(metrics)
        every = self.online.rollout_steps
        if self.ranks.is_first and every and (step % every == 0 or step + 1 == self.state.max_steps):
            decode, paired = self.policy.tokenizer.decode, self.objective.compares_pairs
            rows = rollout.as_rows(decode, _ROLLOUT_PROMPTS, paired=paired)
            self.folder.write_rollout(step + 1, rows)
        return rollout

    def _compare_sampler(self, differences: Tensor, *, first: bool) -> None:
        """Log how far the scorer is from the sampler's log-probabilities, and hold the first rollout's to them, before
        anything has moved; those of a server, which must follow every step, each time. Raises `TrainingError`.
        """
        told = torch.zeros(self.ranks.size, dtype=torch.float64)
        told[self.ranks.rank] = float(differences.max()) if len(differences) else 0.0
        worst = float(self.ranks.total(told).max())
        own = torch.tensor([float(differences.double().sum()), len(differences)], dtype=torch.float64)
        total, count = self.ranks.total(own).tolist()
        mean = total / count
        drift = MetricSums()
        drift.add_sum("sampler/max_diff", worst, 1)
        self._add_sums(drift)
        server = self.run.server
        if not first and server is None:
            return
        dtype = torch.bfloat16 if self.policy.autocast else self.policy.model.dtype
        allowed = TOLERANCE if server is not None else _TOLERANCES.get(dtype, TOLERANCE)
        if not mean <= allowed:
            raise TrainingError(
                f"sampler and scorer differ by {mean:.2g} nats a token in the mean (worst {worst:.2g}; {allowed:g} is "
                "allowed): the answers were drawn from other weights or by other rules than those that are trained"
                f"{'' if server is None else server.mend}"
            )
        if first:
            say(f"sampler: its log-probabilities are the scorer's within {mean:.1e} nats a token (worst {worst:.1e})")

    # --- the critic, which learns beside the policy ------------------------------------------------------------------

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """One for both: the critic's own weights are a group of it, with their own learning rate."""
        made, critic = super().create_optimizer(*args, **kwargs), self._walker.critic
        if critic is not None:
            rate, decay = critic.objective.critic_learning_rate or self.args.learning_rate, self.args.weight_decay
            group = {"params": list(critic.own.values()), "lr": rate, "weight_decay": decay}
            made.add_param_group(group)
        return made

    def _learners(self, model: nn.Module) -> nn.Module:
        """All that learns: the gradients of policy and critic are clipped together."""
        critic = self._walker.critic
        return model if critic is None else nn.ModuleList([model, critic.model])

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        return super()._clip_grad_norm(self._learners(model))

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        return super()._get_grad_norm(self._learners(model), grad_norm)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self._walker.critic is not None and self.ranks.is_first:
            self._walker.critic.save(Path(output_dir))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if self._walker.critic is not None and checkpoint is not None:
            self._walker.critic.load(Path(checkpoint))

    # --- checkpoints -----------------------------------------------------------------------------------------------

    def progress(self) -> dict[str, Any]:
        """As every run's, with the rollout where it is used in part."""
        half = self._rollout is not None and self.state.global_step % self.online.updates_per_rollout
        own: dict[str, Any] = {"rollout": self._rollout.state()} if half and self._rollout else {}
        if self._maker.estimator is not None:
            own["estimator"] = self._maker.estimator.state()
        return super().progress() | own

    def _go_on_from(self, checkpoint: Path | None) -> None:
        super()._go_on_from(checkpoint)
        if checkpoint is None:
            return
        progress = read_progress(checkpoint)
        if progress.get("rollout") is not None:
            self._rollout = Rollout.from_state(progress["rollout"], {one.number: one for one in self._asked})
        if self._maker.estimator is not None:
            self._maker.estimator.go_on_from(progress["estimator"])


class RepeatedSteps:
    """The steps of a sampler, each several times in a row."""

    def __init__(self, steps: StepSampler, times: int) -> None:
        self._steps, self._times = steps, times

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch's shuffle."""
        self._steps.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self._steps) * self._times

    def __iter__(self) -> Iterator[list[int]]:
        for step in self._steps:
            for _ in range(self._times):
                yield step
