"""Objectives of pairs in which a pair counts by how likely the policy is to write it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from likelier.objectives import ratio_losses as losses
from likelier.objectives.advice import Advice
from likelier.objectives.base import Scored
from likelier.objectives.pairwise import DPO


@dataclass(frozen=True)
class WPO(DPO):
    """Weighted preference optimization: DPO in which a pair counts by how likely its answers are to be the policy's
    own. See `ratio_losses.wpo_weights`.
    """

    method: ClassVar[str] = "wpo"
    source: ClassVar[str] = "arXiv 2406.11827"
    advice: ClassVar[Advice] = Advice()
    needs_collisions: ClassVar[bool] = True
    beta: float = 0.01

    def pair_losses(self, scored: Scored) -> Tensor:
        collisions = scored.scores.collision_entropies
        if collisions is None:
            raise ValueError("wpo needs the answers' collision entropies and got none")
        sums = scored.chosen_rejected(scored.logps, collisions, scored.lengths)
        return losses.wpo_weights(*sums) * super().pair_losses(scored)

    def pair_words(self, median_length: float) -> str:
        return f"{self.reward_words()}; a pair weighs from 0 to 1, by how likely the policy is to write its two answers"
