"""Objectives of pairs that compare distributions over a step instead of the two answers of a pair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from likelier.objectives import ratio_losses as losses
from likelier.objectives.base import Scored
from likelier.objectives.pairwise import LogRatioPair


@dataclass(frozen=True)
class AOT(LogRatioPair):
    """Alignment by optimal transport: the margins of a step's pairs, in the order of their size, against the
    reference's. See `ratio_losses.aot_loss`.
    """

    method: ClassVar[str] = "aot"
    source: ClassVar[str] = "arXiv 2406.05882"
    needs_step: ClassVar[bool] = True
    beta: float = 0.01
    label_smoothing: float = 0.0

    def step_statistics(self, scored: Scored) -> Tensor:
        """(step's pairs, 2): what is put in order of size, of each pair, the one column and the other."""
        return scored.in_step(torch.stack(self._columns(scored), 1).detach())

    def _columns(self, scored: Scored) -> tuple[Tensor, Tensor]:
        """The margins, (n,), of the policy and of the reference."""
        assert scored.items.ref_logps is not None
        chosen, rejected, ref_chosen, ref_rejected = scored.chosen_rejected(scored.logps, scored.items.ref_logps)
        return chosen - rejected, ref_chosen - ref_rejected

    def _same_rank(self, scored: Scored, statistics: Tensor | None, side: int) -> Tensor:
        """For each of these pairs, (n,): of the other column the value that has the rank of its own one in column
        `side`.
        """
        if statistics is None:
            if scored.place is not None:
                raise ValueError(f"{self.method} needs the statistics of the whole step and got a part of it")
            statistics = self.step_statistics(scored)
        matched = losses.same_rank(statistics[:, side], statistics[:, 1 - side])
        assert scored.items.pairs is not None
        return scored.of_step(matched, len(scored.items.pairs))

    def losses_in_step(self, scored: Scored, statistics: Tensor | None) -> Tensor:
        margins, _ = self._columns(scored)
        reference = self._same_rank(scored, statistics, 0)
        return losses.aot_loss(margins, reference, beta=self.beta, label_smoothing=self.label_smoothing)

    def pair_words(self, median_length: float) -> str:
        return f"{self.reward_words()}; compared in order of size over the pairs of an optimizer step"

    def warnings(self, batch_size: int, desirable: int, undesirable: int) -> list[str]:
        if batch_size >= 8:
            return []
        return [
            f"{self.method} with {batch_size} pairs a step: it compares distributions over a step (with one pair it is "
            "dpo); use --batch-size 8 or more"
        ]


@dataclass(frozen=True)
class AOTUnpaired(AOT):
    """The same for answers that are no pairs: the log-ratios of a step's chosen answers, in the order of their size,
    against those of its rejected ones. See `ratio_losses.aot_unpaired_loss`.
    """

    method: ClassVar[str] = "aot_unpaired"

    def _columns(self, scored: Scored) -> tuple[Tensor, Tensor]:
        chosen, rejected = scored.chosen_rejected(scored.logratios)
        return chosen, rejected

    def losses_in_step(self, scored: Scored, statistics: Tensor | None) -> Tensor:
        others = [self._same_rank(scored, statistics, side) for side in (0, 1)]
        return losses.aot_unpaired_loss(
            *self._columns(scored), *others, beta=self.beta, label_smoothing=self.label_smoothing
        )
