"""Objectives that carry a running mean from step to step: BCO, from pairs and from labels, and beta-DPO."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from likelier.objectives import ratio_losses
from likelier.objectives.base import (
    SATISFIED,
    DataKind,
    LogRatioReward,
    Objective,
    Scored,
    State,
    hyperparameter,
    require,
)
from likelier.objectives.pairwise import LogRatioPair

BetaOf = Literal["step", "pair"]


def _zero() -> Tensor:
    return torch.zeros((), dtype=torch.float64)


def _sum_and_count(values: Tensor) -> Tensor:
    """(2,), detached, float64."""
    values = values.detach().double()
    return torch.stack([values.sum(), torch.ones_like(values).sum()])


class ShiftedRewards(LogRatioReward, Objective, ABC):
    """Rewards count from d, halfway between the mean rewards of good and of bad answers in all steps so far, this one
    too. For BCO's objectives.
    """

    needs_step: ClassVar[bool] = True

    def first_state(self) -> State:
        """Sum and number of the rewards of either side, (2,) each."""
        return {side: torch.zeros(2, dtype=torch.float64) for side in ("chosen", "rejected")}

    @abstractmethod
    def sides(self, scored: Scored) -> tuple[Tensor, Tensor]:
        """The log-ratios of good and of bad answers."""

    def step_statistics(self, scored: Scored) -> Tensor:
        """(2, 2): sum and number of the rewards of good answers, and of bad ones."""
        return torch.stack([_sum_and_count(self.beta * ratios) for ratios in self.sides(scored)])

    def next_state(self, statistics: Tensor) -> State:
        chosen, rejected = statistics
        return {"chosen": self.state["chosen"] + chosen, "rejected": self.state["rejected"] + rejected}

    def shift(self, like: Tensor | None = None) -> Tensor:
        """d, a scalar; a side of which nothing was seen counts as 0, the reference's reward."""
        both = torch.stack([self.state["chosen"], self.state["rejected"]])
        found = (both[:, 0] / both[:, 1].clamp(min=1)).mean()
        return found if like is None else found.to(like)

    def state_metrics(self) -> dict[str, Tensor]:
        return {"reward_shift": self.shift()}


@dataclass(frozen=True)
class BCOPair(ShiftedRewards, LogRatioPair):
    """Binary classifier optimization on pairs: each answer by itself is told good or bad. See
    `ratio_losses.bco_pair_loss`.
    """

    method: ClassVar[str] = "bco_pair"
    source: ClassVar[str] = "arXiv 2404.04656"
    learning_rate: ClassVar[float] = 5e-7
    learning_rate_source: ClassVar[str] = "arXiv 2404.04656"
    beta: float = 0.01

    def satisfied_at(self) -> float:
        """Each answer so far from d that its sigmoid asks for no more."""
        return 2 * SATISFIED / self.beta

    def sides(self, scored: Scored) -> tuple[Tensor, Tensor]:
        chosen, rejected = scored.chosen_rejected(scored.logratios)
        return chosen, rejected

    def pair_losses(self, scored: Scored) -> Tensor:
        chosen, rejected = self.sides(scored)
        return ratio_losses.bco_pair_loss(chosen, rejected, self.shift(chosen), beta=self.beta)

    def pair_words(self, median_length: float) -> str:
        return f"{self.reward_words()}; rewards count from the middle of both sides' running means"


@dataclass(frozen=True)
class BCO(ShiftedRewards):
    """Binary classifier optimization from thumbs up and thumbs down. See `ratio_losses.bco_loss`."""

    method: ClassVar[str] = "bco"
    source: ClassVar[str] = "arXiv 2404.04656"
    data: ClassVar[DataKind] = "labels"
    learning_rate: ClassVar[float] = 5e-7
    learning_rate_source: ClassVar[str] = "arXiv 2404.04656"
    beta: float = 0.01

    def explain(self, median_length: float) -> str:
        return f"{self.reward_words()}; rewards count from the middle of both sides' running means"

    def _rows(self, scored: Scored) -> tuple[Tensor, Tensor]:
        """The rows' log-ratios, (n,), and which of them are desirable, (n,)."""
        if scored.items.rows is None or scored.items.desirable is None:
            raise ValueError("BCO needs labelled rows; pairs are bco_pair's")
        return scored.logratios[scored.items.rows], scored.items.desirable

    def sides(self, scored: Scored) -> tuple[Tensor, Tensor]:
        ratios, desirable = self._rows(scored)
        return ratios[desirable], ratios[~desirable]

    def logits(self, scored: Scored, statistics: Tensor | None = None) -> Tensor:
        ratios, desirable = self._rows(scored)
        return ratio_losses.bco_logits(ratios, desirable, self.shift(ratios), beta=self.beta)

    def losses(self, scored: Scored, statistics: Tensor | None = None) -> Tensor:
        ratios, desirable = self._rows(scored)
        return ratio_losses.bco_loss(ratios, desirable, self.shift(ratios), beta=self.beta)

    def reward_baseline(self, statistics: Tensor | None) -> Tensor:
        return self.shift()

    def warnings(self, batch_size: int, desirable: int, undesirable: int) -> list[str]:
        if desirable and undesirable:
            return []
        return ["BCO with labels of one kind only: nothing tells good answers from bad ones"]


@dataclass(frozen=True)
class BetaDPO(LogRatioPair):
    """DPO whose beta follows the margins: larger where they are above their moving mean M0. See
    `ratio_losses.dynamic_beta`.

    M0 takes a step's mean margin before the step's losses are computed. An evaluation has the last step's beta.
    """

    method: ClassVar[str] = "beta_dpo"
    source: ClassVar[str] = "arXiv 2407.08639"
    needs_step: ClassVar[bool] = True
    learning_rate: ClassVar[float] = 5e-7
    learning_rate_source: ClassVar[str] = "its authors' configuration"
    beta_scaling: float = hyperparameter(0.6, "share of beta that a reward of margin above the mean adds to it")
    margin_momentum: float = hyperparameter(0.9, "share of the moving mean of margins that a step leaves")
    beta_of: BetaOf = hyperparameter("step", "whose margin beta follows: the step's mean, or each pair's own")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.beta_scaling >= 0, self.method, "beta_scaling", self.beta_scaling, "at least 0")
        fits = 0 <= self.margin_momentum < 1
        require(fits, self.method, "margin_momentum", self.margin_momentum, "in [0, 1)")
        kinds = get_args(BetaOf)
        require(self.beta_of in kinds, self.method, "beta_of", self.beta_of, f"one of {', '.join(kinds)}")

    def first_state(self) -> State:
        """M0 in rewards, and the last step's beta."""
        return {"mean_margin": _zero(), "beta": _zero() + self.beta}

    def step_statistics(self, scored: Scored) -> Tensor:
        """(2,): sum and number of the margins, in rewards."""
        return _sum_and_count(self.beta * self._gap(scored))

    def next_state(self, statistics: Tensor) -> State:
        margin, kept = statistics[0] / statistics[1], self.margin_momentum
        mean = kept * self.state["mean_margin"] + (1 - kept) * margin
        return {"mean_margin": mean, "beta": self._beta_at(margin, mean)}

    def state_metrics(self) -> dict[str, Tensor]:
        return {"mean_margin": self.state["mean_margin"], "step_beta": self.state["beta"]}

    def logits(self, scored: Scored, statistics: Tensor | None = None) -> Tensor:
        gap = self._gap(scored)
        return self._beta(gap) * gap

    def pair_losses(self, scored: Scored) -> Tensor:
        return -logsigmoid(self.logits(scored))

    def pair_words(self, median_length: float) -> str:
        whose = "the step's mean margin" if self.beta_of == "step" else "a pair's margin"
        return (
            f"{self.reward_words()}; beta is {self.beta:g} times 1 + {self.beta_scaling:g} times what {whose} (in such "
            f"rewards) is above its moving mean, of which a step leaves {self.margin_momentum:g}"
        )

    def _gap(self, scored: Scored) -> Tensor:
        chosen, rejected = scored.chosen_rejected(scored.logratios)
        return chosen - rejected

    def _beta(self, gap: Tensor) -> Tensor:
        """The step's, or each pair's, (n,), detached."""
        if self.beta_of == "step":
            return self.state["beta"].to(gap)
        return self._beta_at(self.beta * gap.detach(), self.state["mean_margin"].to(gap))

    def _beta_at(self, margins: Tensor, mean_margin: Tensor) -> Tensor:
        return ratio_losses.dynamic_beta(margins, mean_margin, beta=self.beta, beta_scaling=self.beta_scaling)
