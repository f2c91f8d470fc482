"""Objectives of pairs that ask no reference, beside SimPO. See `reference_free_losses`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from likelier.objectives import reference_free_losses as losses
from likelier.objectives.base import Scored, hyperparameter, require
from likelier.objectives.pairwise import Paired


@dataclass(frozen=True)
class CPO(Paired):
    """Contrastive preference optimization: DPO against a uniform reference, with the chosen answer's likelihood beside
    it (`nll_weight`). See `reference_free_losses.cpo_loss`.
    """

    method: ClassVar[str] = "cpo"
    source: ClassVar[str] = "arXiv 2401.08417"
    needs_reference: ClassVar[bool] = False
    learning_rate_source: ClassVar[str] = "1e-6 as for DPO; its code has 1e-4 for LoRA"
    beta: float = 0.1
    nll_weight: float = 1.0

    def pair_losses(self, scored: Scored) -> Tensor:
        return losses.cpo_loss(*scored.chosen_rejected(scored.logps), beta=self.beta)

    def rewards(self, scored: Scored) -> Tensor:
        return (self.beta * scored.logps).detach()

    def pair_words(self, median_length: float) -> str:
        return (
            f"sums of log-probabilities, no reference; beta {self.beta:g}: a reward margin of 1 is {1 / self.beta:g} "
            "nats between two answers"
        )


@dataclass(frozen=True)
class ORPO(Paired):
    """Odds ratio preference optimization: fine-tuning on the chosen answer and an odds ratio, in one stage. See
    `reference_free_losses.orpo_loss`.
    """

    method: ClassVar[str] = "orpo"
    source: ClassVar[str] = "arXiv 2403.07691"
    strength: ClassVar[str] = "odds_weight"
    rewards_per_token: ClassVar[bool] = True
    needs_reference: ClassVar[bool] = False
    learning_rate: ClassVar[float] = 8e-6
    learning_rate_source: ClassVar[str] = "8e-6, the runs of arXiv 2403.07691"
    odds_weight: float = hyperparameter(0.1, "weight of orpo's odds ratio beside the likelihood of the chosen answer")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.odds_weight >= 0, self.method, "odds_weight", self.odds_weight, "at least 0")

    def per_token(self) -> bool:
        return True

    def pair_losses(self, scored: Scored) -> Tensor:
        sums = scored.chosen_rejected(scored.logps, scored.lengths)
        return losses.orpo_loss(*sums, odds_weight=self.odds_weight)

    def rewards(self, scored: Scored) -> Tensor:
        return (self.odds_weight * scored.logps / scored.lengths).detach()

    def pair_words(self, median_length: float) -> str:
        return (
            "mean negative log-likelihood per token of the chosen answer, no reference; plus "
            f"{self.odds_weight:g} times the log-odds of the two answers' mean probabilities"
        )


@dataclass(frozen=True)
class AlphaPO(Paired):
    """AlphaPO: SimPO on rewards that are bent by `alpha`. See `reference_free_losses.alpha_po_loss`."""

    method: ClassVar[str] = "alphapo"
    source: ClassVar[str] = "arXiv 2501.03884"
    rewards_per_token: ClassVar[bool] = True
    needs_reference: ClassVar[bool] = False
    learning_rate: ClassVar[float] = 7e-7
    learning_rate_source: ClassVar[str] = "arXiv 2501.03884"
    beta: float = 2.5
    gamma_beta_ratio: float = 0.1
    alpha: float = hyperparameter(0.25, "how alphapo bends rewards: 0 is simpo, above it unlikely answers weigh more")

    def per_token(self) -> bool:
        return True

    def pair_losses(self, scored: Scored) -> Tensor:
        sums = scored.chosen_rejected(scored.logps, scored.lengths)
        bend = {"gamma_beta_ratio": self.gamma_beta_ratio, "alpha": self.alpha}
        return losses.alpha_po_loss(*sums, beta=self.beta, **bend)

    def rewards(self, scored: Scored) -> Tensor:
        return (self.beta * losses.alpha_po_rewards(scored.logps, scored.lengths, alpha=self.alpha)).detach()

    def pair_words(self, median_length: float) -> str:
        return (
            f"(1 - p^-alpha) / alpha of the mean probability p of a token, no reference; alpha {self.alpha:g}, beta "
            f"{self.beta:g}, gamma {self.gamma_beta_ratio * self.beta:g}"
        )


@dataclass(frozen=True)
class SLiC(Paired):
    """SLiC-HF: a margin between two answers and the chosen one's likelihood. See `reference_free_losses.slic_loss`."""

    method: ClassVar[str] = "slic"
    source: ClassVar[str] = "arXiv 2305.10425"
    strength: ClassVar[str] = "likelihood_weight"
    needs_reference: ClassVar[bool] = False
    learning_rate_source: ClassVar[str] = "1e-6 as for DPO; arXiv 2305.10425 has T5 and Adafactor"
    delta: float = hyperparameter(1.0, "nats between two answers from which on slic asks for no more")
    likelihood_weight: float = hyperparameter(0.1, "weight of the chosen answer's summed log-likelihood in slic")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.delta > 0, self.method, "delta", self.delta, "above 0")
        require(self.likelihood_weight >= 0, self.method, "likelihood_weight", self.likelihood_weight, "at least 0")

    def satisfied_at(self) -> float:
        return self.delta

    def pair_losses(self, scored: Scored) -> Tensor:
        logps = scored.chosen_rejected(scored.logps)
        return losses.slic_loss(*logps, delta=self.delta, likelihood_weight=self.likelihood_weight)

    def rewards(self, scored: Scored) -> Tensor:
        return scored.logps.detach()

    def pair_words(self, median_length: float) -> str:
        return (
            f"sums of log-probabilities, no reference: a margin of {self.delta:g} nats an answer; plus "
            f"{self.likelihood_weight:g} times the chosen answer's summed negative log-likelihood"
        )
