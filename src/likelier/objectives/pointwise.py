"""Objectives that learn from single answers: with a thumb up or down (KTO), or as they are (SFT)."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import ClassVar

import torch
from torch import Tensor

from likelier.objectives import advised, losses
from likelier.objectives.advice import Advice
from likelier.objectives.base import DataKind, LogRatioReward, Objective, Scored, hyperparameter


@dataclass(frozen=True)
class KTO(LogRatioReward, Objective):
    """Kahneman-Tversky optimization from thumbs up and thumbs down. See `losses.kto_loss`.

    The baseline z0 is the mean log-ratio of each row's prompt with another row's answer, over the whole optimizer
    step, clamped at 0 and detached.
    """

    method: ClassVar[str] = "kto"
    source: ClassVar[str] = "arXiv 2402.01306"
    advice: ClassVar[Advice] = advised.KTO
    data: ClassVar[DataKind] = "labels"
    needs_partner: ClassVar[bool] = True
    has_baseline: ClassVar[bool] = True
    learning_rate: ClassVar[float] = 2e-6
    learning_rate_source: ClassVar[str] = "KTO paper: 2 to 10 times DPO's"
    beta: float = 0.1
    desirable_weight: float = hyperparameter(1.0, "weight of desirable rows")
    undesirable_weight: float = hyperparameter(1.0, "weight of undesirable rows")

    def explain(self, median_length: float) -> str:
        return self.reward_words()

    def _inputs(self, scored: Scored, statistics: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """The rows' log-ratios (n,), which of them are desirable (n,), and z0."""
        if statistics is None or scored.items.rows is None or scored.items.desirable is None:
            raise ValueError("KTO needs labelled rows and the step's statistics")
        return scored.logratios[scored.items.rows], scored.items.desirable, self.baseline(statistics)

    def logits(self, scored: Scored, statistics: Tensor | None = None) -> Tensor:
        return losses.kto_logits(*self._inputs(scored, statistics), beta=self.beta)

    def losses(self, scored: Scored, statistics: Tensor | None = None) -> Tensor:
        return losses.kto_loss(
            *self._inputs(scored, statistics),
            beta=self.beta,
            desirable_weight=self.desirable_weight,
            undesirable_weight=self.undesirable_weight,
        )

    def step_statistics(self, scored: Scored) -> Tensor:
        """(3,): sum, sum of squares and number of the mismatched answers' log-ratios."""
        if scored.items.partners is None:
            raise ValueError("KTO's statistics need the mismatched answers")
        ratios = scored.logratios[scored.items.partners].detach()
        return torch.stack([ratios.sum(), (ratios * ratios).sum(), torch.ones_like(ratios).sum()])

    @staticmethod
    def baseline(statistics: Tensor) -> Tensor:
        """z0, a scalar: the mean log-ratio of the mismatched answers, not below 0."""
        return (statistics[0] / statistics[2]).clamp(min=0)

    def reward_baseline(self, statistics: Tensor | None) -> Tensor | None:
        return None if statistics is None else self.beta * self.baseline(statistics)

    def statistics_metrics(self, statistics: Tensor) -> dict[str, float]:
        total, squares, count = (float(value) for value in statistics)
        found = {"kl": float(self.baseline(statistics))}
        if count > 1:  # one answer has no spread
            variance = max(squares / count - (total / count) ** 2, 0.0)
            found["kl_standard_error"] = sqrt(variance / (count - 1))
        return found

    def warnings(self, batch_size: int, desirable: int, undesirable: int) -> list[str]:
        found = []
        if batch_size < 8:
            found.append(
                f"KTO with {batch_size} rows a step: its baseline z0 is the mean over the step and is very noisy "
                "below 8 rows; use --batch-size 8 or more"
            )
        if not desirable or not undesirable:
            found.append("KTO with labels of one kind only: nothing tells good answers from bad ones")
        return found

    def balancing_weight(self, desirable: int, undesirable: int) -> tuple[str, float]:
        """The weight of the rarer side that makes both sides count alike, by name."""
        if desirable < undesirable:
            return "desirable_weight", undesirable / desirable * self.undesirable_weight
        return "undesirable_weight", desirable / undesirable * self.desirable_weight

    def proposals(self, desirable: int, undesirable: int) -> list[str]:
        if not desirable or not undesirable or not self.undesirable_weight:
            return []
        ratio = self.desirable_weight * desirable / (self.undesirable_weight * undesirable)
        if 0.95 <= ratio <= 1.5:
            return []
        name, weight = self.balancing_weight(desirable, undesirable)
        proposal = f"--{name.replace('_', '-')} {weight:.3g}"
        return [
            f"{desirable} desirable and {undesirable} undesirable rows: weighted, their ratio is {ratio:.3g}, and the "
            f"KTO paper advises 1 to 1.5; proposed: {proposal}"
        ]


@dataclass(frozen=True)
class SFT(Objective):
    """Supervised fine-tuning: each answer's negative log-likelihood per token, no preference. See `losses.nll_loss`.

    Every row counts alike, whatever its length. The logged reward is the answer's mean log-probability per token.
    """

    method: ClassVar[str] = "sft"
    data: ClassVar[DataKind] = "answers"
    needs_reference: ClassVar[bool] = False
    rewards_per_token: ClassVar[bool] = True
    learning_rate: ClassVar[float] = 1e-5
    learning_rate_source: ClassVar[str] = "usual for SFT of a whole model"

    def per_token(self) -> bool:
        return True

    def losses(self, scored: Scored, statistics: Tensor | None = None) -> Tensor:
        if scored.items.rows is None:
            raise ValueError("SFT learns from single answers and got pairs")
        return losses.nll_loss(scored.logps[scored.items.rows], scored.lengths[scored.items.rows])

    def rewards(self, scored: Scored) -> Tensor:
        return (scored.logps / scored.lengths).detach()

    def explain(self, median_length: float) -> str:
        return "mean negative log-likelihood per answer token, every row alike; no preference and no reference"
