"""The objective of a reward model: scores of answers, of which the preferred ones get the higher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from likelier.objectives import losses
from likelier.objectives.base import Objective, Scored, hyperparameter


@dataclass(frozen=True)
class RewardModel(Objective):
    """A reward model from pairs. See `losses.reward_model_loss`. The policy is a sequence classifier with one output,
    and what it says of an answer stands in the place of the answer's log-probability.
    """

    method: ClassVar[str] = "reward"
    source: ClassVar[str] = "arXiv 2203.02155"
    strength: ClassVar[str] = "center_weight"
    needs_reference: ClassVar[bool] = False
    reads_values: ClassVar[bool] = True
    takes_margins: ClassVar[bool] = True
    takes_soft_labels: ClassVar[bool] = True
    learning_rate: ClassVar[float] = 1e-5
    learning_rate_source: ClassVar[str] = "ours; arXiv 2203.02155 has 9e-6 for 6B"
    center_weight: float = hyperparameter(
        0.0, "adds this weight times the square of the two scores' sum, which keeps scores around 0"
    )
    label_smoothing: float = 0.0

    def logits(self, scored: Scored, statistics: Tensor | None = None) -> Tensor:
        chosen, rejected = scored.chosen_rejected(scored.logps)
        return chosen - rejected - (0.0 if scored.items.margins is None else scored.items.margins)

    def losses(self, scored: Scored, statistics: Tensor | None = None) -> Tensor:
        items = scored.items
        return losses.reward_model_loss(
            *scored.chosen_rejected(scored.logps),
            label_smoothing=self.label_smoothing if items.flip_chances is None else items.flip_chances,
            margin=0.0 if items.margins is None else items.margins,
            center_weight=self.center_weight,
        )

    def rewards(self, scored: Scored) -> Tensor:
        return scored.logps.detach()

    def explain(self, median_length: float) -> str:
        centred = f"; plus {self.center_weight:g} times the square of their sum" if self.center_weight else ""
        return f"the difference of two scores is the log-odds that the first answer is the preferred one{centred}"
