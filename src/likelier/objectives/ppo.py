"""PPO as people train language models with it: a critic, advantages of single tokens, KL in the reward.

The defaults are those of "The N+ Implementation Details of RLHF with PPO" (arXiv 2403.17031), which is the anchor;
losses are PPO's (arXiv 1707.06347). Everything here is a pure function of scores, values and rewards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from likelier.objectives.advantages import Advantages
from likelier.objectives.base import hyperparameter
from likelier.objectives.metrics import MetricSums
from likelier.objectives.online_base import OnlineObjective
from likelier.objectives.online_metrics import policy_metrics
from likelier.objectives.policy_gradient import RatioLevel, aggregate, clipped_losses
from likelier.objectives.rollout import RolloutItems, StepCounts, TokenEstimates, only_counted
from likelier.objectives.scored import SequenceScores
from likelier.objectives.values import (
    adapted_coefficient,
    generalized_advantages,
    rewards_of_tokens,
    value_losses,
    whitened,
)

Whitening = Literal["advantages", "rewards", "both", "none"]
CriticPlace = Literal["own", "shared"]
KL_HORIZON = 10_000.0  # answers


@dataclass(frozen=True)
class PPO(OnlineObjective):
    """A policy and a critic that learn from the same answers. Raises `ValueError` for values that cannot work and for
    options without effect.
    """

    run_defaults: ClassVar[dict[str, Any]] = {"updates_per_rollout": 4, "truncated": "replace"}
    adam_epsilon: ClassVar[float] = 1e-5
    max_grad_norm: ClassVar[float] = 0.0
    has_critic: ClassVar[bool] = True

    clip_low: float = hyperparameter(0.2, "how far below 1 a ratio still has a gradient")
    clip_high: float = hyperparameter(0.2, "how far above 1 a ratio still has a gradient")
    clip_dual: float | None = hyperparameter(None, "the most that a bad answer's ratio counts (dual clip)")
    kl_coefficient: float = hyperparameter(0.05, "weight of the divergence from the reference; 0 loads no reference")
    kl_target: float | None = hyperparameter(
        None, "nats an answer that the divergence is steered to, by changing kl_coefficient as it goes"
    )
    kl_horizon: float | None = hyperparameter(
        None, f"answers over which kl_coefficient follows kl_target (default {KL_HORIZON:g})"
    )
    gamma: float = hyperparameter(1.0, "what a token's reward counts for one token earlier")
    gae_lambda: float = hyperparameter(0.95, "from the critic's word (0) to all that was earned later (1)")
    whiten: Whitening = hyperparameter("advantages", "what is brought to deviation 1 over the tokens of a step")
    score_clip: float | None = hyperparameter(None, "the largest score of an answer, of either sign")
    entropy_coefficient: float = hyperparameter(0.0, "what a nat of entropy at a token takes off the loss")
    critic: CriticPlace = hyperparameter(
        "own", "a critic beside the policy (with LoRA an adapter on its base), or a head on the policy's own trunk"
    )
    critic_learning_rate: float | None = hyperparameter(None, "of the critic (default: the policy's)")
    critic_warmup: int = hyperparameter(2, "rollouts from which the critic alone learns")
    value_clip: float = hyperparameter(0.2, "how far a value may move from that before the update; 0: any")
    value_coefficient: float = hyperparameter(0.1, "weight of the critic's loss beside the policy's")

    def __post_init__(self) -> None:
        for name, fits, wanted in _RULES:
            self._require(fits(self), name, wanted)

    @property
    def needs_reference(self) -> bool:
        return self.kl_coefficient > 0

    @property
    def needs_entropies(self) -> bool:
        return self.entropy_coefficient > 0

    @property
    def compares_answers(self) -> bool:
        return False

    def needs_old_logps(self, updates_per_rollout: int) -> bool:
        return self.needs_reference or super().needs_old_logps(updates_per_rollout)

    def advantages(
        self,
        rewards: Tensor,
        group_of: Tensor,
        *,
        lengths: Tensor,
        max_length: int,
        kl: Tensor | None = None,
    ) -> Advantages:
        """Each answer's score, bounded where that is asked, and whether it has one: what its tokens are worth, values
        tell (`estimates`).
        """
        if bool(rewards.isinf().any()):
            raise ValueError("a reward is infinite; rewards are finite numbers, or NaN for no verdict")
        counts = ~rewards.isnan()
        bound = torch.inf if self.score_clip is None else self.score_clip
        return Advantages(rewards.where(counts, 0.0).clamp(-bound, bound), counts)

    def estimates(
        self,
        scores: Tensor,
        values: Tensor,
        *,
        kl: Tensor | None,
        lengths: Tensor,
        counts: Tensor,
        kl_coefficient: float,
    ) -> TokenEstimates:
        """Advantages and returns of all tokens of a step, of all ranks, from values before the update.

        `scores` (answers,), `values` and `kl` (tokens,): the log-ratio to the reference in nats (k1), None without a
        reference; `lengths` (answers,), `counts` (answers,) bool.
        """
        answer_of = torch.arange(len(lengths)).repeat_interleave(lengths)
        where = counts[answer_of]
        values = values.where(where, 0.0)
        charged = None if kl is None else kl.where(where, 0.0)
        rewards = rewards_of_tokens(scores, charged, answer_of, lengths, kl_coefficient=kl_coefficient)
        if self.whiten in ("rewards", "both"):
            rewards = whitened(rewards, where, keep_mean=True)
        advantages = generalized_advantages(rewards, values, lengths, gamma=self.gamma, lam=self.gae_lambda)
        returns = (advantages + values).where(where, 0.0)
        if self.whiten in ("advantages", "both"):
            advantages = whitened(advantages, where)
        return TokenEstimates(values, advantages.where(where, 0.0), returns)

    def next_coefficient(self, coefficient: float, kl: float, answers: int) -> float:
        """The divergence's price in the next step, after one in which it was `kl` nats an answer."""
        if self.kl_target is None:
            return coefficient
        horizon = KL_HORIZON if self.kl_horizon is None else self.kl_horizon
        return adapted_coefficient(coefficient, kl, target=self.kl_target, answers=answers, horizon=horizon)

    def losses(self, scores: SequenceScores, items: RolloutItems, step: StepCounts) -> Tensor:
        scores, items = only_counted(scores, items)
        bounds = {"low": self.clip_low, "high": self.clip_high, "dual": self.clip_dual}
        found = clipped_losses(self.log_ratios(scores, items), items.of_tokens(scores), **bounds)
        if self.needs_entropies:
            assert scores.token_entropies is not None
            found = found - self.entropy_coefficient * scores.token_entropies
        return aggregate(found, scores.answer_of, scores.lengths, how="token", step=step)

    def value_losses(
        self, values: SequenceScores, items: RolloutItems, step: StepCounts, *, clipped: bool = True
    ) -> Tensor:
        """Each answer's share of the critic's loss of the whole step, (answers,), as `losses`: its weight in it. While
        the critic learns alone there is nothing to hold it back for.
        """
        values, items = only_counted(values, items)
        assert items.estimates is not None
        clip = self.value_clip if clipped and self.value_clip else None
        found = value_losses(values.token_logps, items.estimates.values, items.estimates.returns, clip=clip)
        shares = aggregate(found, values.answer_of, values.lengths, how="token", step=step)
        return self.value_coefficient * shares

    @property
    def ratio(self) -> RatioLevel:
        """Whose ratio is clipped."""
        return "token"

    @property
    def one_sided(self) -> bool:
        """The clip holds a ratio back only on the side to which its advantage draws it."""
        return True

    def log_ratios(self, scores: SequenceScores, items: RolloutItems) -> Tensor:
        """(tokens,) of the policy to the one before the update."""
        return scores.token_logps - items.old(scores)

    def bounds(self) -> tuple[float, float]:
        """The ratios beyond which a token is held back."""
        return 1 - self.clip_low, 1 + self.clip_high

    def metrics(self, scores: SequenceScores, items: RolloutItems) -> MetricSums:
        return policy_metrics(self, scores, items)

    @torch.no_grad()
    def value_metrics(self, values: SequenceScores, items: RolloutItems, *, clipped: bool = True) -> MetricSums:
        """Of the critic, over the tokens that count: `value/loss`, `value/mean`, `value/clip_ratio`."""
        values, items = only_counted(values, items)
        assert items.estimates is not None
        sums, where = MetricSums(), items.counted()[values.answer_of]
        old, returns = items.estimates.values, items.estimates.returns
        own = value_losses(values.token_logps, old, returns, clip=None)
        clip = self.value_clip if clipped and self.value_clip else None
        held = value_losses(values.token_logps, old, returns, clip=clip)
        sums.add("value/loss", held, where)
        sums.add("value/mean", values.token_logps, where)
        sums.add("value/clip_ratio", held > own, where)
        return sums


def _fraction(value: float) -> bool:
    return 0 <= value <= 1


# Option, whether it fits the others, and what it must be.
_RULES: tuple[tuple[str, Callable[[PPO], bool], str], ...] = (
    ("answers_per_prompt", lambda own: own.answers_per_prompt >= 1, "at least 1"),
    ("clip_low", lambda own: 0 < own.clip_low <= 1, "above 0 and at most 1"),
    ("clip_high", lambda own: own.clip_high > 0, "above 0"),
    (
        "clip_dual",
        lambda own: own.clip_dual is None or own.clip_dual > 1 + own.clip_high,
        "above 1 + clip_high; 3 is usual",
    ),
    ("kl_coefficient", lambda own: 0 <= own.kl_coefficient < torch.inf, "at least 0"),
    ("kl_target", lambda own: own.kl_target is None or own.kl_target > 0, "above 0"),
    (
        "kl_target",
        lambda own: own.kl_target is None or own.needs_reference,
        "left out with kl_coefficient=0: there is no divergence to steer",
    ),
    (
        "kl_horizon",
        lambda own: own.kl_horizon is None or own.kl_target is not None,
        "left out without kl_target: it would have no effect",
    ),
    ("kl_horizon", lambda own: own.kl_horizon is None or own.kl_horizon > 0, "above 0"),
    ("gamma", lambda own: _fraction(own.gamma), "from 0 to 1"),
    ("gae_lambda", lambda own: _fraction(own.gae_lambda), "from 0 to 1"),
    ("whiten", lambda own: own.whiten in get_args(Whitening), f"one of {', '.join(get_args(Whitening))}"),
    ("score_clip", lambda own: own.score_clip is None or own.score_clip > 0, "above 0"),
    ("entropy_coefficient", lambda own: 0 <= own.entropy_coefficient < torch.inf, "at least 0"),
    ("critic", lambda own: own.critic in get_args(CriticPlace), f"one of {', '.join(get_args(CriticPlace))}"),
    ("critic_learning_rate", lambda own: own.critic_learning_rate is None or own.critic_learning_rate > 0, "above 0"),
    ("critic_warmup", lambda own: own.critic_warmup >= 0, "at least 0"),
    ("value_clip", lambda own: 0 <= own.value_clip < torch.inf, "at least 0"),
    ("value_coefficient", lambda own: 0 < own.value_coefficient < torch.inf, "above 0"),
)

PPO_OF_N_PLUS = PPO(
    "ppo",
    "arXiv 2403.17031",
    answers_per_prompt=1,
    learning_rate=3e-6,
    learning_rate_source="3e-6 as in arXiv 2403.17031; with LoRA 2e-5, which is ours",
)
