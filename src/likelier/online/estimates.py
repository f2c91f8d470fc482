"""What a critic makes of a rollout: advantages of tokens, and the price of the divergence that they are charged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from likelier.objectives.metrics import MetricSums
from likelier.objectives.policy_gradient import answer_sums
from likelier.objectives.rollout import TokenEstimates
from likelier.objectives.values import generalized_advantages, rewards_of_tokens
from likelier.online.critic import Critic
from likelier.online.rollout import Rollout, TokenLogps
from likelier.online.walker import RolloutWalker


@dataclass
class Estimator:
    """Estimates rollouts. `coefficient` is the divergence's price for the next one, which moves where it is steered."""

    critic: Critic
    walker: RolloutWalker
    coefficient: float = field(init=False)
    _is_level: bool = field(init=False)  # whether the critic's offset is known

    def __post_init__(self) -> None:
        self.coefficient = self.critic.objective.kl_coefficient
        self._is_level = self.critic.is_new

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps of it."""
        return {"kl_coefficient": self.coefficient, "critic_offset": self.critic.offset}

    def go_on_from(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave."""
        self.coefficient, self.critic.offset, self._is_level = state["kl_coefficient"], state["critic_offset"], True

    def estimated(self, rollout: Rollout) -> tuple[Rollout, MetricSums]:
        """The rollout with estimates, made before the policy learns from it, and their metrics:

        - `kl_penalty`: what an answer pays for its divergence; `returns`: its score less that, which the policy climbs.
        - `value/explained_variance`: 1 - var(returns - values) / var(returns) over tokens: 1 is a critic that knows,
          0 one that knows no more than a number, below 0 one that knows less.
        - `kl_coefficient`, where it is steered.
        """
        objective = self.critic.objective
        values = _flat(self.walker.values(self.critic, rollout))
        kl = None if rollout.old is None or rollout.ref is None else _flat(rollout.old) - _flat(rollout.ref)
        if not self._is_level:
            values = values - self._levelled(rollout, values, kl)
        estimates = objective.estimates(
            rollout.advantages,
            values,
            kl=kl,
            lengths=rollout.lengths,
            counts=rollout.counts,
            kl_coefficient=self.coefficient,
        )
        metrics = self._metrics(rollout, estimates, kl)
        return replace(rollout, estimates=estimates), metrics

    def _levelled(self, rollout: Rollout, values: Tensor, kl: Tensor | None) -> float:
        """Shift the critic so that its mean over the states of this rollout is the mean of what was earned from them
        on; returns by how much.
        """
        lengths, answer_of, gamma = rollout.lengths, rollout.answer_of, self.critic.objective.gamma
        rewards = rewards_of_tokens(rollout.advantages, kl, answer_of, lengths, kl_coefficient=self.coefficient)
        earned = generalized_advantages(rewards, torch.zeros_like(rewards), lengths, gamma=gamma, lam=1.0)
        shift = float((values - earned)[rollout.counts[answer_of]].mean())
        self.critic.offset += shift
        self._is_level = True
        return shift

    def _metrics(self, rollout: Rollout, estimates: TokenEstimates, kl: Tensor | None) -> MetricSums:
        sums, counts, answer_of = MetricSums(), rollout.counts, rollout.answer_of
        returns = rollout.advantages
        if kl is not None:
            of_answers = answer_sums(kl, answer_of, rollout.lengths)
            returns = returns - self.coefficient * of_answers
            sums.add("kl_penalty", self.coefficient * of_answers, counts)
            if self.critic.objective.kl_target is not None:
                sums.add_sum("kl_coefficient", self.coefficient, 1)
                mean = float(of_answers[counts].mean())
                self.coefficient = self.critic.objective.next_coefficient(self.coefficient, mean, int(counts.sum()))
        sums.add("returns", returns, counts)
        where = counts[answer_of]
        spread = float(estimates.returns[where].var(correction=0))
        if spread > 0:
            unexplained = float((estimates.returns - estimates.values)[where].var(correction=0))
            sums.add_sum("value/explained_variance", 1 - unexplained / spread, 1)
        return sums


def _flat(values: TokenLogps) -> Tensor:
    return torch.from_numpy(np.concatenate(values))
