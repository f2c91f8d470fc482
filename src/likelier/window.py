"""The metrics between two logs, kept on the device until they are read."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from likelier.data.tokenize import Group
from likelier.errors import TrainingError
from likelier.evaluation import step_sums
from likelier.metrics import MetricSums, readable
from likelier.objectives import Objective, Scored


class MetricWindow:
    """Collects the steps of a logging window: nothing here waits for the device but `read`."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self._sums = MetricSums()
        self._statistics: list[Tensor] = []

    def __bool__(self) -> bool:
        return bool(self._sums.sums)

    def add(self, scored: Scored, statistics: Tensor | None, losses: Tensor) -> None:
        """Add a micro-batch: its scores, the step's statistics, its losses (items,)."""
        self._sums.merge([step_sums(self.objective, scored, statistics, losses)])

    def end_step(self, statistics: Tensor | None) -> None:
        """Add what the step as a whole has."""
        if statistics is not None:
            self._statistics.append(statistics)

    def read(self) -> dict[str, float]:
        """The window's metrics; a new one begins."""
        for statistics in self._statistics:
            for name, value in self.objective.statistics_metrics(statistics).items():
                self._sums.add_sum(name, value, 1)
        window = readable(self._sums)
        self._sums, self._statistics = MetricSums(), []
        return window


def require_finite(losses: Tensor, groups: Sequence[Group], step: int) -> None:
    """Stop before the optimizer sees a loss that is not finite. The device is waited for, once a step."""
    if bool(torch.isfinite(losses).all()):
        return
    places = [str(group.source) for group, loss in zip(groups, losses.tolist(), strict=True) if not math.isfinite(loss)]
    raise TrainingError(
        f"step {step}: the loss is not finite for {len(places)} rows: {'; '.join(places[:5])}. Lower the learning "
        "rate, or look at these rows; nothing was written over the last checkpoint"
    )
