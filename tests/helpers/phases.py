"""The phases that a program goes through, written down in place of being watched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from likelier.utils import terminal
from likelier.utils.phases import Phase, Phases


class RecordedPhases(Phases):
    """Every phase that was entered, in order, with how much of it was reported as done."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Phase] = []

    @contextmanager
    def phase(self, words: str, total: int | None = None, *, watched: bool = True) -> Iterator[Callable[[int], None]]:
        """As it is; nothing is said."""
        entered = Phase(words, total, 0.0)
        self.seen.append(entered)

        def advance(done: int) -> None:
            entered.done += done

        yield advance

    def of(self, words: str) -> list[Phase]:
        """Those that are called so."""
        return [phase for phase in self.seen if phase.words == words]


def recorded_phases(patch: pytest.MonkeyPatch) -> RecordedPhases:
    """From now on, until the patch is undone."""
    found = RecordedPhases()
    patch.setattr(terminal, "_phases", found)
    return found
