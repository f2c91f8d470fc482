"""Objectives that learn from pairs: one answer preferred to another under the same prompt."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from likelier.objectives import advised, losses
from likelier.objectives.advice import Advice
from likelier.objectives.base import LogRatioReward, Objective, Scored, hyperparameter, require


@dataclass(frozen=True)
class Paired(Objective):
    """Shared by the methods that learn from pairs: `nll_weight` adds that weight times the chosen answer's negative
    log-likelihood per token, which keeps its probability from falling (RPO, arXiv 2404.19733).
    """

    nll_weight: float = hyperparameter(
        0.0, "adds this weight times the chosen answer's negative log-likelihood per token", kw_only=True
    )

    def pair_losses(self, scored: Scored) -> Tensor:
        """The method's own loss per pair, (n,)."""
        raise NotImplementedError

    def losses_in_step(self, scored: Scored, statistics: Tensor | None) -> Tensor:
        """The same, for a method whose loss depends on the step's other pairs."""
        return self.pair_losses(scored)

    def losses(self, scored: Scored, statistics: Tensor | None = None) -> Tensor:
        found = self.losses_in_step(scored, statistics)
        if not self.nll_weight:
            return found
        logps, _, lengths, _ = scored.chosen_rejected(scored.logps, scored.lengths)
        return found + self.nll_weight * losses.nll_loss(logps, lengths)

    def smoothing(self, scored: Scored) -> float | Tensor:
        """The chance that a label is wrong: each pair's own where the run has soft labels, else `label_smoothing`."""
        return getattr(self, "label_smoothing", 0.0) if scored.items.flip_chances is None else scored.items.flip_chances

    def pair_words(self, median_length: float) -> str:
        """The method's own hyperparameters in nats."""
        raise NotImplementedError

    def explain(self, median_length: float) -> str:
        words = self.pair_words(median_length)
        if not self.nll_weight:
            return words
        return f"{words}; plus {self.nll_weight:g} times the chosen answer's negative log-likelihood per token"


@dataclass(frozen=True)
class LogRatioPair(LogRatioReward, Paired):
    """Shared by the methods for pairs whose logged reward is `beta` times the summed log-ratio."""

    beta: float = hyperparameter(
        0.1, "inverse temperature: per nat of an answer's log-ratio; for simpo and sigmoid_norm per token"
    )

    def pair_words(self, median_length: float) -> str:
        return self.reward_words()


@dataclass(frozen=True)
class DPO(LogRatioPair):
    """Direct preference optimization; with `label_smoothing` above 0, conservative DPO. See `losses.dpo_loss`."""

    method: ClassVar[str] = "dpo"
    source: ClassVar[str] = "arXiv 2305.18290"
    advice: ClassVar[Advice] = advised.DPO
    takes_margins: ClassVar[bool] = True
    takes_soft_labels: ClassVar[bool] = True
    label_smoothing: float = hyperparameter(0.0, "chance that a label is wrong (conservative form)")

    def ratios(self, scored: Scored) -> tuple[Tensor, ...]:
        """The log-ratios of the chosen and of the rejected answers that the loss compares, (n,) each."""
        return scored.chosen_rejected(scored.logratios)

    def logits(self, scored: Scored, statistics: Tensor | None = None) -> Tensor:
        margin = 0.0 if scored.items.margins is None else scored.items.margins
        return losses.dpo_logits(*self.ratios(scored), beta=self.beta, margin=margin)

    def pair_losses(self, scored: Scored) -> Tensor:
        margin = 0.0 if scored.items.margins is None else scored.items.margins
        smoothing = self.smoothing(scored)
        return losses.dpo_loss(*self.ratios(scored), beta=self.beta, label_smoothing=smoothing, margin=margin)


@dataclass(frozen=True)
class RobustDPO(LogRatioPair):
    """Robust DPO for labels that flip with a known chance. See `losses.robust_dpo_loss`."""

    method: ClassVar[str] = "robust"
    source: ClassVar[str] = "arXiv 2403.00409"
    advice: ClassVar[Advice] = advised.ROBUST
    flip_probability: float = hyperparameter(0.1, "chance that a label is flipped (unbiased form)")

    def logits(self, scored: Scored, statistics: Tensor | None = None) -> Tensor:
        return losses.dpo_logits(*scored.chosen_rejected(scored.logratios), beta=self.beta)

    def pair_losses(self, scored: Scored) -> Tensor:
        chosen, rejected = scored.chosen_rejected(scored.logratios)
        return losses.robust_dpo_loss(chosen, rejected, beta=self.beta, flip_probability=self.flip_probability)


@dataclass(frozen=True)
class Hinge(LogRatioPair):
    """Hinge loss on the margin (RSO). See `losses.hinge_loss`."""

    method: ClassVar[str] = "hinge"
    source: ClassVar[str] = "arXiv 2309.06657"
    beta: float = 0.05

    def satisfied_at(self) -> float:
        return 1 / self.beta

    def pair_losses(self, scored: Scored) -> Tensor:
        return losses.hinge_loss(*scored.chosen_rejected(scored.logratios), beta=self.beta)


@dataclass(frozen=True)
class SigmoidNorm(LogRatioPair):
    """Length-normalized DPO. `beta` is per token, so about fifty times DPO's. See `losses.sigmoid_norm_loss`."""

    method: ClassVar[str] = "sigmoid_norm"
    source: ClassVar[str] = "arXiv 2411.15124"
    takes_soft_labels: ClassVar[bool] = True
    learning_rate: ClassVar[float] = 5e-7
    learning_rate_source: ClassVar[str] = "Tulu 3, 8B"
    beta: float = 5.0
    label_smoothing: float = 0.0

    def per_token(self) -> bool:
        return True

    def logits(self, scored: Scored, statistics: Tensor | None = None) -> Tensor:
        return losses.dpo_logits(*scored.chosen_rejected(scored.logratios / scored.lengths), beta=self.beta)

    def pair_losses(self, scored: Scored) -> Tensor:
        ratios = scored.chosen_rejected(scored.logratios, scored.lengths)
        return losses.sigmoid_norm_loss(*ratios, beta=self.beta, label_smoothing=self.smoothing(scored))

    def pair_words(self, median_length: float) -> str:
        return (
            f"mean log-ratio per token; beta {self.beta:g} per token is "
            f"{self.beta / median_length:.3g} per nat at the median answer of {median_length:g} tokens"
        )


@dataclass(frozen=True)
class APOZero(LogRatioPair):
    """APO-zero: chosen up, rejected down, each on its own. See `losses.apo_zero_loss`."""

    method: ClassVar[str] = "apo_zero"
    source: ClassVar[str] = "arXiv 2408.06266"

    def pair_losses(self, scored: Scored) -> Tensor:
        return losses.apo_zero_loss(*scored.chosen_rejected(scored.logratios), beta=self.beta)


@dataclass(frozen=True)
class APODown(LogRatioPair):
    """APO-down: both down, the rejected more. See `losses.apo_down_loss`."""

    method: ClassVar[str] = "apo_down"
    source: ClassVar[str] = "arXiv 2408.06266"
    lowers_both: ClassVar[bool] = True

    def pair_losses(self, scored: Scored) -> Tensor:
        return losses.apo_down_loss(*scored.chosen_rejected(scored.logratios), beta=self.beta)


@dataclass(frozen=True)
class DPOP(LogRatioPair):
    """DPO-Positive: DPO with a penalty while the chosen answer is less likely than under the reference.

    See `losses.dpop_loss`. The default `penalty` is the low end of what is in use (5 to 50).
    """

    method: ClassVar[str] = "dpop"
    source: ClassVar[str] = "arXiv 2402.13228"
    penalty: float = hyperparameter(5.0, "nats of margin that dpop takes for each nat that the chosen answer loses")

    def logits(self, scored: Scored, statistics: Tensor | None = None) -> Tensor:
        return losses.dpop_logits(*scored.chosen_rejected(scored.logratios), beta=self.beta, penalty=self.penalty)

    def pair_losses(self, scored: Scored) -> Tensor:
        return losses.dpop_loss(*scored.chosen_rejected(scored.logratios), beta=self.beta, penalty=self.penalty)

    def pair_words(self, median_length: float) -> str:
        return (
            f"{self.reward_words()}; a nat that the chosen answer loses against the reference costs "
            f"{self.penalty:g} nats of the margin"
        )


@dataclass(frozen=True)
class IPO(Paired):
    """Identity preference optimization. See `losses.ipo_loss`.

    Without `tau` it is chosen from the data so that the target is about 5 nats an answer: 0.1, times the median answer
    length in the per-token form.
    """

    method: ClassVar[str] = "ipo"
    source: ClassVar[str] = "arXiv 2310.12036"
    advice: ClassVar[Advice] = advised.IPO
    strength: ClassVar[str] = "tau"
    has_target: ClassVar[bool] = True
    takes_margins: ClassVar[bool] = True
    takes_soft_labels: ClassVar[bool] = True
    tau: float | None = hyperparameter(None, "strength of the regularization: the target margin is 1 / (2 tau)")
    length_normalize: bool = hyperparameter(True, "mean instead of summed log-ratios in ipo")

    def _tau(self) -> float:
        if self.tau is None:
            raise ValueError("IPO has no tau yet: give one, or call resolved(median_length)")
        return self.tau

    def pair_losses(self, scored: Scored) -> Tensor:
        return losses.ipo_loss(
            *scored.chosen_rejected(scored.logratios, scored.lengths),
            tau=self._tau(),
            length_normalize=self.length_normalize,
            margin=1.0 if scored.items.margins is None else scored.items.margins,
            label_smoothing=self.smoothing(scored),
        )

    def reward_scale(self) -> float:
        return self._tau()

    def satisfied_at(self) -> float:
        """The target."""
        return 1 / (2 * self._tau())

    def per_token(self) -> bool:
        return self.length_normalize

    def rewards(self, scored: Scored) -> Tensor:
        return (self._tau() * scored.logratios).detach()

    def resolved(self, median_length: float) -> IPO:
        if self.tau is not None:
            return self
        return replace(self, tau=0.1 * median_length if self.length_normalize else 0.1)

    def pair_words(self, median_length: float) -> str:
        target = self.satisfied_at()
        if not self.length_normalize:
            return f"sums of log-ratios; tau {self._tau():g}: the target is {target:g} nats an answer"
        return (
            f"mean log-ratio per token; tau {self._tau():g}: the target is {target:.3g} nats a token, "
            f"{target * median_length:.3g} nats at the median answer of {median_length:g} tokens"
        )


@dataclass(frozen=True)
class SimPO(Paired):
    """SimPO: no reference; `beta` multiplies a mean log-probability per token. See `losses.simpo_loss`."""

    method: ClassVar[str] = "simpo"
    source: ClassVar[str] = "arXiv 2405.14734"
    advice: ClassVar[Advice] = advised.SIMPO
    rewards_per_token: ClassVar[bool] = True
    takes_margins: ClassVar[bool] = True
    takes_soft_labels: ClassVar[bool] = True
    needs_reference: ClassVar[bool] = False
    learning_rate: ClassVar[float] = 6e-7
    learning_rate_source: ClassVar[str] = "SimPO paper, Llama-3-8B-Base"
    beta: float = 2.0
    gamma_beta_ratio: float = hyperparameter(0.5, "target margin of simpo in nats a token")
    label_smoothing: float = 0.0
    allow_small_beta: bool = hyperparameter(False, "let simpo run with a beta below 1")

    def __post_init__(self) -> None:
        super().__post_init__()
        wanted = "at least 1 (it is per token: 2 to 10 are usual; DPO's 0.1 destroys the model), or --allow-small-beta"
        require(self.beta >= 1 or self.allow_small_beta, self.method, "beta", self.beta, wanted)

    def per_token(self) -> bool:
        return True

    def _target(self, scored: Scored) -> float | Tensor:
        """The margin in nats a token."""
        return self.gamma_beta_ratio * (1.0 if scored.items.margins is None else scored.items.margins)

    def logits(self, scored: Scored, statistics: Tensor | None = None) -> Tensor:
        sums = scored.chosen_rejected(scored.logps, scored.lengths)
        return losses.simpo_logits(*sums, beta=self.beta, gamma_beta_ratio=self._target(scored))

    def pair_losses(self, scored: Scored) -> Tensor:
        return losses.simpo_loss(
            *scored.chosen_rejected(scored.logps, scored.lengths),
            beta=self.beta,
            gamma_beta_ratio=self._target(scored),
            label_smoothing=self.smoothing(scored),
        )

    def rewards(self, scored: Scored) -> Tensor:
        return (self.beta * scored.logps / scored.lengths).detach()

    def pair_words(self, median_length: float) -> str:
        return (
            f"mean log-probability per token, no reference; beta {self.beta:g}, gamma "
            f"{self.gamma_beta_ratio * self.beta:g}: the margin is {self.gamma_beta_ratio:g} nats a token, "
            f"{self.gamma_beta_ratio * median_length:.3g} nats at the median answer of {median_length:g} tokens"
        )
