"""Objectives that learn from several scored answers to a prompt at once."""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from likelier.objectives.base import DataKind, LogRatioReward, Objective, Scored, hyperparameter
from likelier.objectives.scored import NO_ANSWER


def wanted_shares(scores: Tensor, is_there: Tensor, *, temperature: float) -> Tensor:
    """What share of the answers each should be: the softmax of `scores / temperature` over those that are there.

    Source: arXiv 2402.05369, where the temperature is alpha. Shapes: (n, most), (n, most) bool ->
    (n, most), 0 where there is no answer.
    """
    return torch.softmax((scores / temperature).masked_fill(~is_there, -torch.inf), dim=1)


def infonca_loss(logratios: Tensor, shares: Tensor, is_there: Tensor, *, beta: float) -> Tensor:
    """InfoNCA: the cross-entropy of the softmax of `beta D` over a prompt's answers to the `shares` that are wanted.

    Source: arXiv 2402.05369. With two answers and all of it wanted from one it is DPO.

    Shapes: (n, most), (n, most), (n, most) bool -> (n,). At zero log-ratios the value is the log of the number of
    answers.
    """
    rewards = (beta * logratios).masked_fill(~is_there, -torch.inf)
    logs = torch.log_softmax(rewards, dim=1).masked_fill(~is_there, 0.0)
    return -(shares * logs).sum(1)


def nca_scores_loss(logratios: Tensor, shares: Tensor, is_there: Tensor, *, beta: float) -> Tensor:
    """NCA over K answers: `-sum_k (q_k log s(beta D_k) + log s(-beta D_k) / K)` with the `shares` q that are wanted.

    Source: arXiv 2402.05369 and its authors' code. Each answer is told from noise by itself: its terms
    are least at beta D_k = log(K q_k). With two answers and all of it wanted from one it is `nca`.

    Shapes: (n, most), (n, most), (n, most) bool -> (n,). At zero log-ratios the value is 2 ln 2.
    """
    rewards = beta * logratios
    terms = shares * logsigmoid(rewards) + logsigmoid(-rewards) / is_there.sum(1, keepdim=True)
    return -terms.masked_fill(~is_there, 0.0).sum(1)


@dataclass(frozen=True)
class Listwise(LogRatioReward, Objective):
    """Shared by the methods that learn from all scored answers of a row."""

    source: ClassVar[str] = "arXiv 2402.05369"
    data: ClassVar[DataKind] = "scores"
    learning_rate: ClassVar[float] = 5e-6
    learning_rate_source: ClassVar[str] = "arXiv 2402.05369"
    beta: float = 0.01
    score_temperature: float = hyperparameter(1.0, "points of score by which an answer is to be e times as frequent")

    def lists(self, scored: Scored) -> tuple[Tensor, Tensor, Tensor]:
        """Of each row's answers the log-ratios, the shares that are wanted, and which there are, (n, most) each."""
        lists, scores = scored.items.lists, scored.items.scores
        if lists is None or scores is None:
            raise ValueError(f"{self.method} needs rows of scored answers and got none")
        is_there = lists != NO_ANSWER
        ratios = scored.logratios[lists.clamp(min=0)].masked_fill(~is_there, 0.0)
        return ratios, wanted_shares(scores, is_there, temperature=self.score_temperature), is_there

    def satisfied_at(self) -> None:
        """Not one number of nats: the scores decide."""
        return

    def explain(self, median_length: float) -> str:
        nine = self.score_temperature * log(9)
        return f"{self.reward_words()}; of two answers {nine:.3g} apart in score the better is wanted 9 times in 10"


@dataclass(frozen=True)
class InfoNCA(Listwise):
    """The policy's order of a prompt's answers to that of their scores. See `infonca_loss`."""

    method: ClassVar[str] = "infonca"

    def losses(self, scored: Scored, statistics: Tensor | None = None) -> Tensor:
        return infonca_loss(*self.lists(scored), beta=self.beta)


@dataclass(frozen=True)
class NCAScores(Listwise):
    """Each of a prompt's answers by itself as likely as its score asks for. See `nca_scores_loss`."""

    method: ClassVar[str] = "nca_scores"
    has_target: ClassVar[bool] = True

    def losses(self, scored: Scored, statistics: Tensor | None = None) -> Tensor:
        return nca_scores_loss(*self.lists(scored), beta=self.beta)
