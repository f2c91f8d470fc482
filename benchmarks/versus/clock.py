"""A trainer callback that notes when training begins, when each step ends and when training ends."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import TrainerCallback


class Clock(TrainerCallback):
    """Times in seconds since `start`; on CUDA each waits for the device.

    `built` is when the trainer stood, `begun` when training began, `ended` when the last step was done (before anything
    is saved), `steps` when each step was. `profiled` records the operators of the second step.
    """

    def __init__(self, device: str, *, profiled: bool = False) -> None:
        self.device, self.profiled = device, profiled
        self.zero = self.built = self.begun = self.ended = 0.0
        self.steps: list[float] = []
        self.profiler: Any = None

    def start(self) -> None:
        """Set the clock to zero."""
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        self.zero = time.perf_counter()

    def now(self) -> float:
        """Seconds since the start."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - self.zero

    def seconds(self) -> dict[str, Any]:
        """The whole (trainer built, reference, training), its parts, and the time of each step."""
        starts = [self.begun, *self.steps]
        return {
            "whole": self.ended,
            "build": self.built,
            "before_training": self.begun,
            "training": self.ended - self.begun,
            "step_times": [round(end - start, 4) for start, end in zip(starts, self.steps, strict=False)],
        }

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.begun = self.now()

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        if self.profiled and len(self.steps) == 1:
            self.profiler = profile(activities=[ProfilerActivity.CPU])
            self.profiler.__enter__()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        if self.profiler is not None and len(self.steps) == 1:
            self.profiler.__exit__(None, None, None)
        self.steps.append(self.now())

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        self.ended = self.ended or self.now()
