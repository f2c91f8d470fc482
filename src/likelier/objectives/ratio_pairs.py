"""More objectives of pairs whose logged reward is `beta` times the summed log-ratio. See `ratio_losses`."""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import ClassVar, get_args

from torch import Tensor

from likelier.objectives import ratio_losses as losses
from likelier.objectives.base import Scored, hyperparameter, require
from likelier.objectives.pairwise import LogRatioPair


@dataclass(frozen=True)
class EXO(LogRatioPair):
    """Exact optimization: the other direction of DPO's divergence between the order that is seen and the policy's. See
    `ratio_losses.exo_loss`.
    """

    method: ClassVar[str] = "exo"
    source: ClassVar[str] = "arXiv 2402.00856"
    learning_rate_source: ClassVar[str] = "1e-6 as in arXiv 2402.00856"
    label_smoothing: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        wanted = "above 0: the loss has its logarithm; 0.001 is usual"
        require(self.label_smoothing > 0, self.method, "label_smoothing", self.label_smoothing, wanted)

    def pair_losses(self, scored: Scored) -> Tensor:
        ratios = scored.chosen_rejected(scored.logratios)
        return losses.exo_loss(*ratios, beta=self.beta, label_smoothing=self.label_smoothing)


@dataclass(frozen=True)
class NCA(LogRatioPair):
    """Noise contrastive alignment: each answer by itself is told from noise. See `ratio_losses.nca_loss`."""

    method: ClassVar[str] = "nca"
    source: ClassVar[str] = "arXiv 2402.05369"
    has_target: ClassVar[bool] = True
    learning_rate: ClassVar[float] = 5e-6
    learning_rate_source: ClassVar[str] = "arXiv 2402.05369"
    beta: float = 0.01

    def satisfied_at(self) -> None:
        """Not a number of nats between the answers: the chosen one has a target of its own."""
        return

    def pair_losses(self, scored: Scored) -> Tensor:
        return losses.nca_loss(*scored.chosen_rejected(scored.logratios), beta=self.beta)

    def pair_words(self, median_length: float) -> str:
        return f"{self.reward_words()}; the chosen answer is drawn to {log(2) / self.beta:.3g} nats above the reference"


@dataclass(frozen=True)
class SPPO(LogRatioPair):
    """Self-play preference optimization on pairs: log-ratios are regressed on chances of being preferred. See
    `ratio_losses.sppo_loss`.
    """

    method: ClassVar[str] = "sppo"
    source: ClassVar[str] = "arXiv 2405.00675"
    has_target: ClassVar[bool] = True
    takes_soft_labels: ClassVar[bool] = True
    learning_rate: ClassVar[float] = 5e-7
    learning_rate_source: ClassVar[str] = "arXiv 2405.00675"
    beta: float = 0.001

    def satisfied_at(self) -> float:
        """The target: half of it for either answer."""
        return 1 / self.beta

    def pair_losses(self, scored: Scored) -> Tensor:
        ratios = scored.chosen_rejected(scored.logratios)
        return losses.sppo_loss(*ratios, beta=self.beta, label_smoothing=self.smoothing(scored))

    def pair_words(self, median_length: float) -> str:
        return (
            f"sums of log-ratios; beta {self.beta:g}: the targets are {0.5 / self.beta:g} nats for the chosen answer "
            f"and {-0.5 / self.beta:g} for the rejected one, {0.5 / self.beta / median_length:.3g} a token at the "
            f"median answer of {median_length:g} tokens"
        )


@dataclass(frozen=True)
class DiscoPOP(LogRatioPair):
    """A loss that a search by a language model found: DPO's where the order is wrong, an exponential one where it is
    right. See `ratio_losses.discopop_loss`.
    """

    method: ClassVar[str] = "discopop"
    source: ClassVar[str] = "arXiv 2406.08414"
    learning_rate: ClassVar[float] = 5e-7
    learning_rate_source: ClassVar[str] = "arXiv 2406.08414"
    beta: float = 0.05
    discopop_tau: float = hyperparameter(0.05, "rewards over which discopop goes from one of its losses to the other")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.discopop_tau > 0, self.method, "discopop_tau", self.discopop_tau, "above 0")

    def pair_losses(self, scored: Scored) -> Tensor:
        ratios = scored.chosen_rejected(scored.logratios)
        return losses.discopop_loss(*ratios, beta=self.beta, discopop_tau=self.discopop_tau)


@dataclass(frozen=True)
class FDPO(LogRatioPair):
    """f-DPO: DPO under another divergence from the reference than the reverse KL. See `ratio_losses.f_dpo_loss`."""

    method: ClassVar[str] = "f_dpo"
    source: ClassVar[str] = "arXiv 2309.16240"
    divergence: losses.Divergence = hyperparameter("js", "from the reference, in f_dpo")
    alpha: float | None = hyperparameter(
        None,
        "of f_dpo's alpha-divergence in its paper's convention (near 0 reverse KL, 1 forward KL); in alphapo how "
        "rewards are bent (0: simpo)",
    )
    trl_alpha: float | None = hyperparameter(None, "the same as TRL counts it: 1 - alpha")

    def __post_init__(self) -> None:
        super().__post_init__()
        kinds = get_args(losses.Divergence)
        require(self.divergence in kinds, self.method, "divergence", self.divergence, f"one of {', '.join(kinds)}")
        for name in ("alpha", "trl_alpha"):
            value = getattr(self, name)
            inert = "left out: only divergence=alpha has it"
            require(value is None or self.divergence == "alpha", self.method, name, value, inert)
            require(value is None or 0 < value < 1, self.method, name, value, "between 0 and 1")
        wanted = "given, or trl_alpha, and not both"
        one = (self.alpha is None) != (self.trl_alpha is None)
        require(self.divergence != "alpha" or one, self.method, "alpha", self.alpha, wanted)

    def _alpha(self) -> float | None:
        return self.alpha if self.trl_alpha is None else 1 - self.trl_alpha

    def satisfied_at(self) -> None:
        """Not a number of nats: it depends on where each answer is."""
        return

    def pair_losses(self, scored: Scored) -> Tensor:
        ratios = scored.chosen_rejected(scored.logratios)
        return losses.f_dpo_loss(*ratios, beta=self.beta, divergence=self.divergence, alpha=self._alpha())

    def pair_words(self, median_length: float) -> str:
        alpha = self._alpha()
        kind = self.divergence if alpha is None else f"alpha-divergence, alpha {alpha:g}"
        return f"{self.reward_words()} at the reference; divergence: {kind}"


@dataclass(frozen=True)
class CalDPO(LogRatioPair):
    """Calibrated DPO: rewards are regressed on +-1/2 beside DPO's loss. See `ratio_losses.cal_dpo_loss`."""

    method: ClassVar[str] = "cal_dpo"
    source: ClassVar[str] = "arXiv 2412.14516"
    has_target: ClassVar[bool] = True
    learning_rate: ClassVar[float] = 5e-7
    learning_rate_source: ClassVar[str] = "its authors' configuration"
    beta: float = 0.002

    def satisfied_at(self) -> float:
        """The target of the regression: half of it for either answer."""
        return 1 / self.beta

    def pair_losses(self, scored: Scored) -> Tensor:
        return losses.cal_dpo_loss(*scored.chosen_rejected(scored.logratios), beta=self.beta)

    def pair_words(self, median_length: float) -> str:
        return (
            f"{self.reward_words()}; rewards are drawn to 1/2 and -1/2: {0.5 / self.beta:g} nats to either side of the "
            "reference"
        )
