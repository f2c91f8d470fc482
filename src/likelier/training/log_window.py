"""The metrics between two logs, kept on the device until they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from likelier.objectives.metrics import MetricSums, readable
from likelier.training.step import StepPart
from likelier.utils.distributed import ALONE, Ranks


class MetricWindow:
    """Collects the steps of a logging window: nothing here waits for the device, or for other ranks, but `read`.

    `means` makes what is logged of the sums, `of_statistics` of a step's statistics, where a method has such.
    """

    def __init__(
        self,
        of_statistics: Callable[[Tensor], dict[str, float]] | None = None,
        ranks: Ranks = ALONE,
        means: Callable[[MetricSums], dict[str, float]] = readable,
    ) -> None:
        self.ranks, self._of_statistics, self._means = ranks, of_statistics, means
        self._sums = MetricSums()
        self._statistics: list[Tensor] = []
        self._skipped = 0

    def __bool__(self) -> bool:
        return bool(self._sums.sums) or self._skipped > 0

    def add(self, part: StepPart) -> None:
        """Add a micro-batch of this rank; of a filler the names alone."""
        self._sums.merge([part.metrics if part.counts else part.metrics.zeros()])

    def add_sums(self, sums: MetricSums) -> None:
        """Add what is known of a step beside its micro-batches: by one rank, of the whole step."""
        self._sums.merge([sums])

    def end_step(self, statistics: Tensor | None) -> None:
        """Add what the step as a whole has."""
        if statistics is not None and self._of_statistics is not None:
            self._statistics.append(statistics)

    def skip(self, rows: int) -> None:
        """Count the rows of a step that was skipped; no mean holds them."""
        self._skipped += rows

    def state(self) -> dict[str, Any]:
        """What was collected so far, over all ranks, as JSON holds it, bit for bit. Waits for the other ranks."""
        sums = self._sums.over_ranks(self.ranks.total) if self.ranks.several else self._sums
        return {
            "sums": {name: float(value) for name, value in sums.sums.items()},
            "counts": {name: float(value) for name, value in sums.counts.items()},
            "statistics": [[str(one.dtype).removeprefix("torch."), one.tolist()] for one in self._statistics],
            "skipped": self._skipped,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on with what `state` gave, which the first rank holds for all."""
        sums = MetricSums(dict(state["sums"]), dict(state["counts"]))
        self._sums = sums if self.ranks.is_first else sums.zeros()
        self._statistics = [torch.tensor(values, dtype=getattr(torch, kind)) for kind, values in state["statistics"]]
        self._skipped = int(state["skipped"])

    def read(self) -> dict[str, float]:
        """The window's metrics, with the number of rows that were `skipped` if there are such; a new one begins."""
        sums = self._sums.over_ranks(self.ranks.total) if self.ranks.several else self._sums
        for statistics in self._statistics:
            assert self._of_statistics is not None
            for name, value in self._of_statistics(statistics).items():
                sums.add_sum(name, value, 1)
        window = self._means(sums) | ({"skipped": self._skipped} if self._skipped else {})
        self._sums, self._statistics, self._skipped = MetricSums(), [], 0
        return window
