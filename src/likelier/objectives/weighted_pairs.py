"""DPO in which pairs, or parts of their answers, count more or less."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from likelier.objectives import ratio_losses as losses
from likelier.objectives.advice import Advice
from likelier.objectives.base import Scored, hyperparameter
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


@dataclass(frozen=True)
class LDDPO(DPO):
    """Length-desensitized DPO: the tokens that only the longer answer of a pair has count `ld_alpha` times, for policy
    and reference alike. See `ratio_losses.ld_logratios`.

    The logged reward is that of DPO, `beta` times the log-ratio of the whole answer: an answer that stands in several
    pairs has one of these, and a head of another length in each.
    """

    method: ClassVar[str] = "ld_dpo"
    source: ClassVar[str] = "arXiv 2409.06411"
    advice: ClassVar[Advice] = Advice()
    needs_heads: ClassVar[bool] = True
    ld_alpha: float = hyperparameter(0.5, "weight of the tokens that only the longer answer of a pair has, from 0 to 1")

    def ratios(self, scored: Scored) -> tuple[Tensor, ...]:
        assert scored.items.pairs is not None
        wholes = scored.logratios[scored.items.pairs]
        return losses.ld_logratios(wholes, scored.head_logratios, ld_alpha=self.ld_alpha).unbind(1)

    def pair_words(self, median_length: float) -> str:
        return (
            f"{self.reward_words()}; in the loss a nat of the tokens that only the longer answer has counts "
            f"{self.ld_alpha:g}"
        )
