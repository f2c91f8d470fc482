"""Objectives: a pure loss, its hyperparameters with that method's own defaults, and what it needs to be computed.

An objective is a frozen dataclass. It turns `Scored` (the seam's sums and counts, plus indices that say which answer is
which) into one loss per item and one logged reward per answer. It never sees a model, a tokenizer or a file.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from math import sqrt
from typing import ClassVar, Literal

import torch
from torch import Tensor

from likelier import losses


@dataclass(frozen=True)
class Scored:
    """Scores of a flat list of answers, and the items (pairs or labelled rows) that point into it.

    Shapes: `logps`, `lengths`, `ref_logps` (answers,), log-probabilities in nats summed over `lengths` tokens;
    `pairs` (n, 2) answer numbers (chosen, rejected); or `rows` (n,) answer numbers with `desirable` (n,) bool and
    `partners` (n,) answer numbers of the mismatched answers (empty where they are not in this batch).
    """

    logps: Tensor
    lengths: Tensor
    ref_logps: Tensor | None = None
    pairs: Tensor | None = None
    rows: Tensor | None = None
    desirable: Tensor | None = None
    partners: Tensor | None = None

    @property
    def logratios(self) -> Tensor:
        """`logps - ref_logps`, (answers,)."""
        if self.ref_logps is None:
            raise ValueError("this objective needs reference log-probabilities and got none")
        return self.logps - self.ref_logps

    def at_reference(self) -> Scored:
        """The same items as if the policy were the reference: every log-ratio zero."""
        return replace(self, ref_logps=self.logps)

    def chosen_rejected(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """`values` (answers,) at the chosen and at the rejected answer of each pair, (n,) each."""
        if self.pairs is None:
            raise ValueError("this objective needs pairs and got labelled rows")
        return values[self.pairs[:, 0]], values[self.pairs[:, 1]]


@dataclass(frozen=True)
class Objective:
    """What every method says of itself. Subclasses add hyperparameters and `losses`."""

    method: ClassVar[str]
    data: ClassVar[Literal["pairs", "labels"]] = "pairs"
    needs_reference: ClassVar[bool] = True
    needs_partner: ClassVar[bool] = False
    learning_rate: ClassVar[float] = 1e-6
    learning_rate_source: ClassVar[str] = "as for DPO: its paper, appendix B"

    def reward_scale(self) -> float | None:
        """What a summed log-ratio is multiplied by to give the logged reward; None where rewards are something else."""
        return None

    def losses(self, scored: Scored, statistics: Tensor | None = None) -> Tensor:
        """One loss per item, (n,), not reduced. `statistics` is the whole step's `step_statistics`, if it has any."""
        raise NotImplementedError

    def rewards(self, scored: Scored) -> Tensor:
        """The logged reward of each answer, (answers,), detached."""
        raise NotImplementedError

    def step_statistics(self, scored: Scored) -> Tensor | None:
        """Sums over the step that the loss needs (they add up over micro-batches and ranks), or None."""
        return None

    def statistics_metrics(self, statistics: Tensor) -> dict[str, float]:
        """What to log of the step's statistics."""
        return {}

    def reward_baseline(self, statistics: Tensor | None) -> Tensor | None:
        """The reward above which a labelled answer counts as found desirable; None for pairs."""
        return None

    def resolved(self, median_length: float) -> Objective:
        """The objective with hyperparameters that depend on the data (median answer length in tokens) filled in."""
        return self

    def explain(self, median_length: float) -> str:
        """The hyperparameters' consequence in nats, for the run card."""
        raise NotImplementedError

    def warnings(self, batch_size: int, desirable: int, undesirable: int) -> list[str]:
        """What is wrong with this objective on this data (`desirable` and `undesirable` are 0 for pairs)."""
        return []

    def proposals(self, desirable: int, undesirable: int) -> list[str]:
        """Hyperparameters that would suit the data better, as advice."""
        return []

    def hyperparameters(self) -> dict[str, object]:
        """Name and value of each hyperparameter."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def _require(condition: bool, method: str, name: str, value: object, wanted: str) -> None:
    if not condition:
        raise ValueError(f"{method}: {name}={value!r} is out of range; it must be {wanted}")


def _require_chance(method: str, name: str, value: float) -> None:
    _require(0 <= value < 0.5, method, name, value, "in [0, 0.5)")


@dataclass(frozen=True)
class _LogRatioObjective(Objective):
    """Shared by the methods whose logged reward is `beta` times the summed log-ratio."""

    beta: float = 0.1

    def __post_init__(self) -> None:
        _require(self.beta > 0, self.method, "beta", self.beta, "above 0")

    def reward_scale(self) -> float:
        return self.beta

    def rewards(self, scored: Scored) -> Tensor:
        return (self.beta * scored.logratios).detach()

    def explain(self, median_length: float) -> str:
        return (
            f"sums of log-ratios over answer tokens; beta {self.beta:g}: a reward margin of 1 is "
            f"{1 / self.beta:g} nats between the two answers' log-ratios"
        )


@dataclass(frozen=True)
class DPO(_LogRatioObjective):
    """Direct preference optimization; with `label_smoothing` above 0, conservative DPO. See `losses.dpo_loss`."""

    method: ClassVar[str] = "dpo"
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_chance(self.method, "label_smoothing", self.label_smoothing)

    def losses(self, scored: Scored, statistics: Tensor | None = None) -> Tensor:
        chosen, rejected = scored.chosen_rejected(scored.logratios)
        return losses.dpo_loss(chosen, rejected, beta=self.beta, label_smoothing=self.label_smoothing)


@dataclass(frozen=True)
class RobustDPO(_LogRatioObjective):
    """Robust DPO for labels that flip with a known chance. See `losses.robust_dpo_loss`."""

    method: ClassVar[str] = "robust"
    flip_probability: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_chance(self.method, "flip_probability", self.flip_probability)

    def losses(self, scored: Scored, statistics: Tensor | None = None) -> Tensor:
        chosen, rejected = scored.chosen_rejected(scored.logratios)
        return losses.robust_dpo_loss(chosen, rejected, beta=self.beta, flip_probability=self.flip_probability)


@dataclass(frozen=True)
class Hinge(_LogRatioObjective):
    """Hinge loss on the margin (RSO). See `losses.hinge_loss`."""

    method: ClassVar[str] = "hinge"
    beta: float = 0.05

    def losses(self, scored: Scored, statistics: Tensor | None = None) -> Tensor:
        return losses.hinge_loss(*scored.chosen_rejected(scored.logratios), beta=self.beta)


@dataclass(frozen=True)
class SigmoidNorm(_LogRatioObjective):
    """Length-normalized DPO. `beta` is per token, so about fifty times DPO's. See `losses.sigmoid_norm_loss`."""

    method: ClassVar[str] = "sigmoid_norm"
    learning_rate: ClassVar[float] = 5e-7
    learning_rate_source: ClassVar[str] = "Tulu 3, 8B"
    beta: float = 5.0
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_chance(self.method, "label_smoothing", self.label_smoothing)

    def losses(self, scored: Scored, statistics: Tensor | None = None) -> Tensor:
        chosen, rejected = scored.chosen_rejected(scored.logratios)
        lengths = scored.chosen_rejected(scored.lengths)
        smoothing = self.label_smoothing
        return losses.sigmoid_norm_loss(chosen, rejected, *lengths, beta=self.beta, label_smoothing=smoothing)

    def explain(self, median_length: float) -> str:
        return (
            f"mean log-ratio per token; beta {self.beta:g} per token is "
            f"{self.beta / median_length:.3g} per nat at the median answer of {median_length:g} tokens"
        )


@dataclass(frozen=True)
class APOZero(_LogRatioObjective):
    """APO-zero: chosen up, rejected down, each on its own. See `losses.apo_zero_loss`."""

    method: ClassVar[str] = "apo_zero"

    def losses(self, scored: Scored, statistics: Tensor | None = None) -> Tensor:
        return losses.apo_zero_loss(*scored.chosen_rejected(scored.logratios), beta=self.beta)


@dataclass(frozen=True)
class APODown(_LogRatioObjective):
    """APO-down: both down, the rejected more. See `losses.apo_down_loss`."""

    method: ClassVar[str] = "apo_down"

    def losses(self, scored: Scored, statistics: Tensor | None = None) -> Tensor:
        return losses.apo_down_loss(*scored.chosen_rejected(scored.logratios), beta=self.beta)


@dataclass(frozen=True)
class IPO(Objective):
    """Identity preference optimization. See `losses.ipo_loss`.

    Without `tau` it is chosen from the data so that the target is about 5 nats an answer: 0.1, times the median answer
    length in the per-token form.
    """

    method: ClassVar[str] = "ipo"
    tau: float | None = None
    length_normalize: bool = True

    def __post_init__(self) -> None:
        _require(self.tau is None or self.tau > 0, self.method, "tau", self.tau, "above 0")

    def _tau(self) -> float:
        if self.tau is None:
            raise ValueError("IPO has no tau yet: give one, or call resolved(median_length)")
        return self.tau

    def losses(self, scored: Scored, statistics: Tensor | None = None) -> Tensor:
        ratios = scored.chosen_rejected(scored.logratios)
        lengths = scored.chosen_rejected(scored.lengths)
        return losses.ipo_loss(*ratios, *lengths, tau=self._tau(), length_normalize=self.length_normalize)

    def reward_scale(self) -> float:
        return self._tau()

    def rewards(self, scored: Scored) -> Tensor:
        return (self._tau() * scored.logratios).detach()

    def resolved(self, median_length: float) -> IPO:
        if self.tau is not None:
            return self
        return replace(self, tau=0.1 * median_length if self.length_normalize else 0.1)

    def explain(self, median_length: float) -> str:
        target = 1 / (2 * self._tau())
        if not self.length_normalize:
            return f"sums of log-ratios; tau {self._tau():g}: the target is {target:g} nats an answer"
        return (
            f"mean log-ratio per token; tau {self._tau():g}: the target is {target:.3g} nats a token, "
            f"{target * median_length:.3g} nats at the median answer of {median_length:g} tokens"
        )


@dataclass(frozen=True)
class KTO(_LogRatioObjective):
    """Kahneman-Tversky optimization from thumbs up and thumbs down. See `losses.kto_loss`.

    The baseline z0 is the mean log-ratio of each row's prompt with another row's answer, over the whole optimizer
    step, clamped at 0 and detached.
    """

    method: ClassVar[str] = "kto"
    data: ClassVar[Literal["pairs", "labels"]] = "labels"
    needs_partner: ClassVar[bool] = True
    learning_rate: ClassVar[float] = 2e-6
    learning_rate_source: ClassVar[str] = "KTO paper: 2 to 10 times DPO's"
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("desirable_weight", "undesirable_weight"):
            _require(getattr(self, name) >= 0, self.method, name, getattr(self, name), "at least 0")

    def losses(self, scored: Scored, statistics: Tensor | None = None) -> Tensor:
        if statistics is None or scored.rows is None or scored.desirable is None:
            raise ValueError("KTO needs labelled rows and the step's statistics")
        return losses.kto_loss(
            scored.logratios[scored.rows],
            scored.desirable,
            self.baseline(statistics),
            beta=self.beta,
            desirable_weight=self.desirable_weight,
            undesirable_weight=self.undesirable_weight,
        )

    def step_statistics(self, scored: Scored) -> Tensor:
        """(3,): sum, sum of squares and number of the mismatched answers' log-ratios."""
        if scored.partners is None:
            raise ValueError("KTO's statistics need the mismatched answers")
        ratios = scored.logratios[scored.partners].detach()
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

    def proposals(self, desirable: int, undesirable: int) -> list[str]:
        if not desirable or not undesirable or not self.undesirable_weight:
            return []
        ratio = self.desirable_weight * desirable / (self.undesirable_weight * undesirable)
        if 0.95 <= ratio <= 1.5:
            return []
        if desirable < undesirable:
            proposal = f"--desirable-weight {undesirable / desirable * self.undesirable_weight:.3g}"
        else:
            proposal = f"--undesirable-weight {desirable / undesirable * self.desirable_weight:.3g}"
        return [
            f"{desirable} desirable and {undesirable} undesirable rows: weighted, their ratio is {ratio:.3g}, and the "
            f"KTO paper advises 1 to 1.5; proposed: {proposal}"
        ]


@dataclass(frozen=True)
class SimPO(Objective):
    """SimPO: no reference; `beta` multiplies a mean log-probability per token. See `losses.simpo_loss`."""

    method: ClassVar[str] = "simpo"
    needs_reference: ClassVar[bool] = False
    learning_rate: ClassVar[float] = 6e-7
    learning_rate_source: ClassVar[str] = "SimPO paper, Llama-3-8B-Base"
    beta: float = 2.0
    gamma_beta_ratio: float = 0.5
    label_smoothing: float = 0.0
    allow_small_beta: bool = False

    def __post_init__(self) -> None:
        _require(self.beta > 0, self.method, "beta", self.beta, "above 0")
        wanted = "at least 1 (it is per token: 2 to 10 are usual; DPO's 0.1 destroys the model), or --allow-small-beta"
        _require(self.beta >= 1 or self.allow_small_beta, self.method, "beta", self.beta, wanted)
        _require_chance(self.method, "label_smoothing", self.label_smoothing)
        _require(self.gamma_beta_ratio >= 0, self.method, "gamma_beta_ratio", self.gamma_beta_ratio, "at least 0")

    def losses(self, scored: Scored, statistics: Tensor | None = None) -> Tensor:
        return losses.simpo_loss(
            *scored.chosen_rejected(scored.logps),
            *scored.chosen_rejected(scored.lengths),
            beta=self.beta,
            gamma_beta_ratio=self.gamma_beta_ratio,
            label_smoothing=self.label_smoothing,
        )

    def rewards(self, scored: Scored) -> Tensor:
        return (self.beta * scored.logps / scored.lengths).detach()

    def explain(self, median_length: float) -> str:
        return (
            f"mean log-probability per token, no reference; beta {self.beta:g}, gamma "
            f"{self.gamma_beta_ratio * self.beta:g}: the margin is {self.gamma_beta_ratio:g} nats a token, "
            f"{self.gamma_beta_ratio * median_length:.3g} nats at the median answer of {median_length:g} tokens"
        )


METHODS: dict[str, type[Objective]] = {
    objective.method: objective for objective in (DPO, RobustDPO, IPO, KTO, SimPO, Hinge, SigmoidNorm, APOZero, APODown)
}
