"""How long a run has trained, how much it has seen, and the most memory that it held."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch


class TrainingClock:
    """Counts seconds of training, with those of evaluations left out, and the items that were trained on."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds, self._since = 0.0, None
        self.items = 0

    def go_on_from(self, logged: Mapping[str, Any]) -> None:
        """Take over what an interrupted run had logged last."""
        self._seconds, self.items = float(logged.get("seconds", 0.0)), int(logged.get("items", 0))

    def start(self) -> None:
        """Training begins now."""
        self._since = time.monotonic()

    @property
    def seconds(self) -> float:
        """Of training so far."""
        return self._seconds + (0.0 if self._since is None else time.monotonic() - self._since)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Not counted, if training has begun."""
        running = self._since is not None
        self._seconds, self._since = self.seconds, None
        try:
            yield
        finally:
            if running:
                self.start()

    def read(self) -> dict[str, float]:
        """What is logged beside a step's metrics."""
        return {
            "seconds": round(self.seconds, 3),
            "items": self.items,
            "memory_gib": round(peak_memory(self._device), 4),
        }


def peak_memory(device: torch.device) -> float:
    """GiB: the most that torch held on CUDA; elsewhere the process's largest resident size."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / (2**30 if sys.platform == "darwin" else 2**20)
