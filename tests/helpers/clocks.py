"""A clock for tests: no time decides."""

from __future__ import annotations


class Clock:
    """A second passes with each look, and what a test adds to `now` besides."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now
