"""Mixed preference optimization: DPO, BCO and the chosen answer's likelihood, in the weights of its paper."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from likelier.objectives.base import Objective, hyperparameter, require
from likelier.objectives.pairwise import DPO
from likelier.objectives.running_means import BCOPair
from likelier.objectives.weighted_sum import WeightedSum, weights_of

_BETA = 0.1  # of both losses: they share one in the paper
_LOSS: tuple[tuple[Objective, float], ...] = ((DPO(beta=_BETA), 0.8), (BCOPair(beta=_BETA), 0.2))
_WORDS = " ".join(f"{part.method}={weight}" for part, weight in _LOSS)


@dataclass(frozen=True)
class MPO(WeightedSum):
    """Mixed preference optimization: 0.8 of DPO's loss, which of two answers is better, 0.2 of BCO's, how good each
    is by itself, and the chosen answer's likelihood per token. Weights and hyperparameters can be others, the losses
    cannot.

    Raises `ValueError` as `WeightedSum` does, and for other losses than these two.
    """

    method: ClassVar[str] = "mpo"
    source: ClassVar[str] = "arXiv 2411.10442"
    strength: ClassVar[str] = "dpo.beta"
    needs_step: ClassVar[bool] = True
    learning_rate: ClassVar[float] = 5e-6
    learning_rate_source: ClassVar[str] = "arXiv 2411.10442"
    loss: tuple[tuple[Objective, float], ...] = hyperparameter(
        _LOSS, "the weights of its two losses", kw_only=True, many="METHOD=WEIGHT", shown=_WORDS
    )
    nll_weight: float = hyperparameter(1.0, "weight of the chosen answer's likelihood", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        names, own = [part.method for part in self.parts], [part.method for part, _ in _LOSS]
        wanted = f"weights of {' and '.join(own)}; weighted_sum adds other losses"
        require(sorted(names) == sorted(own), self.method, "loss", " ".join(names), wanted)

    def _of_the_parts(self) -> dict[str, Any]:
        own = {"learning_rate": type(self).learning_rate, "learning_rate_source": type(self).learning_rate_source}
        return super()._of_the_parts() | own

    @classmethod
    def options(cls, named: Mapping[str, Any]) -> dict[str, Any]:
        return super().options({"loss": _WORDS} | dict(named))

    @classmethod
    def of(cls, hyperparameters: Mapping[str, Any]) -> WeightedSum:
        loss = hyperparameters.get("loss", _WORDS)
        betas = {f"{part.method}.beta": _BETA for part, _ in _LOSS if part.method in weights_of(loss)}
        return super().of(betas | dict(hyperparameters) | {"loss": loss})
