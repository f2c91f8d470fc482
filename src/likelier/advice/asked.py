"""What a memory plan is made for."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from likelier.advice.spread import Spread
from likelier.advice.trace import Device, Training
from likelier.data.lengths import Row
from likelier.objectives import METHODS, Objective
from likelier.objectives.base import Method


@dataclass(frozen=True)
class Asked:
    """What a plan is made for, besides the model."""

    method: str
    training: Training
    device: Device
    max_length: int
    memory: int | None
    live_reference: bool
    batch_size: int
    rows: tuple[Row, ...] | None
    spread: Spread = Spread()
    reference_moves: str | None = None
    made: Objective | None = None

    @property
    def objective(self) -> Method:
        """The method, as it was `made` where that is known."""
        return self.made or METHODS[self.method]

    @property
    def own_rows(self) -> int:
        """Rows of a step that one GPU takes."""
        return ceil(self.batch_size / self.spread.gpus)
