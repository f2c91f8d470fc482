"""Preferences among the policy's own answers: of each prompt the best and the worst by reward are a pair.

The losses are those of pairs in a file; what differs is where the pairs come from, and what the policy is held to.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from likelier.objectives.advantages import Advantages
from likelier.objectives.base import Objective, hyperparameter
from likelier.objectives.losses import rebel_loss
from likelier.objectives.metrics import MetricSums, item_metrics
from likelier.objectives.online_base import OnlineObjective
from likelier.objectives.online_metrics import add_drift, add_kl
from likelier.objectives.pairwise import DPO, IPO
from likelier.objectives.policy_gradient import answer_sums
from likelier.objectives.rollout import RolloutItems, StepCounts
from likelier.objectives.scored import Items, Scored, SequenceScores

PreferenceLoss = Literal["dpo", "ipo"]


def pair_advantages(rewards: Tensor, group_of: Tensor, *, keep_ties: bool) -> Advantages:
    """Of each prompt the answer with the highest and the one with the lowest reward, the first of several: they count,
    with half of the gap between them above and below 0. (n,) rewards, (n,) prompt numbers -> (n,) twice.

    NaN is no verdict: such an answer is in no pair. A prompt whose verdicts are all equal has its first two answers
    with advantage 0: they count with `keep_ties`, and where there is no other pair in the whole step, so that there is
    something to walk through.
    """
    values, counts, ties = torch.zeros_like(rewards), torch.zeros_like(group_of, dtype=torch.bool), []
    groups: dict[int, list[int]] = defaultdict(list)
    said = rewards.tolist()
    for number, group in enumerate(group_of.tolist()):
        if said[number] == said[number]:
            groups[group].append(number)
    for own in groups.values():
        best, worst = max(own, key=lambda one: said[one]), min(own, key=lambda one: said[one])
        if best == worst:
            ties += own[:2] if len(own) > 1 else []
            continue
        values[best] = (rewards[best] - rewards[worst]) / 2
        values[worst] = -values[best]
        counts[[best, worst]] = True
    if keep_ties or not bool(counts.any()):
        counts[ties] = True
    return Advantages(values, counts)


@dataclass(frozen=True)
class OnlinePairs(OnlineObjective):
    """Shared by the methods that learn from pairs of own answers. Subclasses say what the loss of a pair is."""

    compares_pairs: ClassVar[bool] = True
    keeps_ties: ClassVar[bool] = False  # two answers that earned the same say something too

    def __post_init__(self) -> None:
        self._require(self.answers_per_prompt >= 2, "answers_per_prompt", "at least 2, of which pairs are made")

    @abstractmethod
    def pair_losses(self, scored: Scored, gaps: Tensor) -> Tensor:
        """One loss a pair, (pairs,); `gaps` (pairs,) how much more the chosen answer earned than the rejected one."""

    @abstractmethod
    def implied_rewards(self, scored: Scored) -> Tensor:
        """(answers,) what the loss takes an answer's reward to be, up to a constant of its prompt."""

    @abstractmethod
    def base_logps(self, scores: SequenceScores, items: RolloutItems) -> Tensor:
        """(tokens,) what log-ratios are taken against, without history."""

    def advantages(
        self,
        rewards: Tensor,
        group_of: Tensor,
        *,
        lengths: Tensor,
        max_length: int,
        kl: Tensor | None = None,
    ) -> Advantages:
        return pair_advantages(rewards, group_of, keep_ties=self.keeps_ties)

    def losses(self, scores: SequenceScores, items: RolloutItems, step: StepCounts) -> Tensor:
        scored, gaps = self._paired(scores, items)
        found = self.pair_losses(scored, gaps)
        if not self.keeps_ties:
            found = found.where(gaps > 0, 0.0)  # where nothing but ties is walked through
        return found / (step.answers / 2)

    def _paired(self, scores: SequenceScores, items: RolloutItems) -> tuple[Scored, Tensor]:
        """The scores as pairs, and the gap between the rewards of each."""
        base = answer_sums(self.base_logps(scores, items), scores.answer_of, scores.lengths)
        pairs = torch.arange(len(scores.lengths), device=scores.lengths.device).reshape(-1, 2)
        chosen, rejected = items.advantages[pairs].unbind(1)
        return Scored(scores, Items(pairs=pairs, ref_logps=base)), chosen - rejected

    @torch.no_grad()
    def metrics(self, scores: SequenceScores, items: RolloutItems) -> MetricSums:
        """Of the pairs whose answers earned differently, under TRL's names: `rewards/chosen`, `rewards/rejected`,
        `rewards/margins`, `rewards/accuracies`, `logps/`, `lengths/`; and `sampler/kl` as of every online method.
        """
        scored, gaps = self._paired(scores, items)
        assert scored.items.pairs is not None
        kept = scored.with_items(pairs=scored.items.pairs[gaps > 0])
        sums = item_metrics(kept, gaps[gaps > 0], self.implied_rewards(scored)).without("loss")
        add_drift(sums, scores, items)
        return sums

    def rollout_metrics(
        self, advantages: Advantages, group_of: Tensor, rewards: Tensor, kl: Tensor | None
    ) -> MetricSums:
        """`pairs/count` and `pairs/ties`: how many prompts of a rollout have two answers that earned differently, and
        how many have several that all earned the same; `pairs/reward_gap`: how much more the chosen answers earned;
        `kl` in nats an answer, over all that were written and not the pairs alone.
        """
        sums, better = MetricSums(), advantages.values > 0
        said = group_of[~rewards.isnan()]
        several = int((said.unique(return_counts=True)[1] > 1).sum())
        sums.add_sum("pairs/count", int(better.sum()), 1)
        sums.add_sum("pairs/ties", several - int(better.sum()), 1)
        sums.add("pairs/reward_gap", 2 * advantages.values, better)
        if kl is not None:
            add_kl(sums, kl)
        return sums


@dataclass(frozen=True)
class OnlineDPO(OnlinePairs):
    """Online DPO (arXiv 2402.04792): the loss of DPO, or IPO, on pairs that the policy has just written."""

    strength: ClassVar[str] = "beta"

    beta: float = hyperparameter(0.1, "inverse temperature: per nat of an answer's log-ratio")
    preference_loss: PreferenceLoss = hyperparameter(
        "dpo", "of a pair of own answers: dpo, or ipo with beta as its tau, over whole answers"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(0 < self.beta < inf, "beta", "above 0")
        kinds = get_args(PreferenceLoss)
        self._require(self.preference_loss in kinds, "preference_loss", f"one of {', '.join(kinds)}")

    @property
    def needs_reference(self) -> bool:
        return True

    @property
    def offline(self) -> Objective:
        """The method whose loss a pair has."""
        if self.preference_loss == "dpo":
            return DPO(beta=self.beta)
        return IPO(tau=self.beta, length_normalize=False)

    def pair_losses(self, scored: Scored, gaps: Tensor) -> Tensor:
        return self.offline.losses(scored)

    def implied_rewards(self, scored: Scored) -> Tensor:
        return self.offline.rewards(scored)

    def base_logps(self, scores: SequenceScores, items: RolloutItems) -> Tensor:
        if items.ref_token_logps is None:
            raise ValueError(f"{self.method} compares with a reference and got none")
        return items.ref_token_logps


@dataclass(frozen=True)
class Rebel(OnlinePairs):
    """REBEL (arXiv 2404.16767): the log-ratios to the policy before the update are regressed on rewards.

    The divergence from the reference is charged in the reward, k1 summed over the answer, as in its code.
    """

    run_defaults: ClassVar[Mapping[str, Any]] = {"updates_per_rollout": 4}  # as in its code: after one there is nothing
    keeps_ties: ClassVar[bool] = True

    eta: float = hyperparameter(1.0, "nats between two answers' log-ratios for a reward that is 1 higher")
    kl_coefficient: float = hyperparameter(0.05, "weight of the divergence from the reference; 0 loads no reference")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(0 < self.eta < inf, "eta", "above 0")
        self._require(0 <= self.kl_coefficient < inf, "kl_coefficient", "at least 0")

    @property
    def needs_reference(self) -> bool:
        return self.kl_coefficient > 0

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
        if self.kl_coefficient:
            if kl is None:
                raise ValueError(f"{self.method} charges the divergence in the reward and got none")
            rewards = rewards - self.kl_coefficient * kl
        return super().advantages(rewards, group_of, lengths=lengths, max_length=max_length)

    def pair_losses(self, scored: Scored, gaps: Tensor) -> Tensor:
        chosen, rejected = scored.chosen_rejected(scored.logratios)
        return rebel_loss(chosen, rejected, gaps, eta=self.eta)

    def implied_rewards(self, scored: Scored) -> Tensor:
        return scored.logratios.detach() / self.eta

    def base_logps(self, scores: SequenceScores, items: RolloutItems) -> Tensor:
        return items.old(scores)


ONLINE_PREFERENCE: tuple[OnlineObjective, ...] = (
    OnlineDPO(
        "online_dpo",
        "arXiv 2402.04792",
        answers_per_prompt=2,
        learning_rate=5e-7,
        learning_rate_source="5e-7 as in its paper; with LoRA 2e-5, as for the other online methods, which is ours",
    ),
    Rebel(
        "rebel",
        "arXiv 2404.16767",
        answers_per_prompt=2,
        learning_rate=3e-6,
        learning_rate_source="3e-6 as in its code; with LoRA 2e-5, as for the other online methods, which is ours",
    ),
)
