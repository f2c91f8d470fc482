"""What a command is at, told in plain lines where there is no terminal to draw on: never silent for long.

A phase says nothing by itself. A thread looks once a second, and tells of the innermost phase when nothing has been
said for five seconds, and again whenever nothing was said for nine, so that short phases leave no line, long ones no
silence of ten seconds, and hours not too many lines.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event, Lock, Thread
from typing import TypeAlias

from likelier.utils import console

SOON = 5.0  # seconds of silence after which a phase's first line is due
SILENCE = 9.0  # the next ones; with the look that comes up to a second later, never ten
_LOOK = 1.0


Words: TypeAlias = "str | Callable[[], str]"  # or what gives them as they are by then


def in_words(words: Words) -> str:
    """What is said of a phase now."""
    return words if isinstance(words, str) else words()


@dataclass
class Phase:
    """Work of `total` things, or of an unknown number, that began at a time in seconds."""

    words: Words
    total: int | None
    begun: float
    done: int = 0
    told: bool = False

    def line(self, now: float) -> str:
        """How far it is, and how long what is left will take at this pace."""
        took, words = now - self.begun, in_words(self.words)
        if not self.done and took < _LOOK:
            return f"{words}: {f'{self.total:,} to do' if self.total else 'begun'}"
        if not self.total:
            return f"{words}: {f'{self.done:,}, ' if self.done else ''}{spoken(took)} so far"
        left = f", about {spoken(took * (self.total - self.done) / self.done)} left" if self.done else ""
        return f"{words}: {self.done:,} of {self.total:,}, {spoken(took)} so far{left}"


class Phases:
    """The phases that a command is in, the innermost last."""

    def __init__(
        self,
        say: Callable[[str], None] = console.say,
        said_at: Callable[[], float] = console.said_at,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._say, self._said_at, self._clock = say, said_at, clock
        self._within: list[Phase] = []
        self._lock, self._told = Lock(), 0.0
        self._over: Event | None = None
        self._watcher: Thread | None = None

    @contextmanager
    def phase(self, words: Words, total: int | None = None, *, watched: bool = True) -> Iterator[Callable[[int], None]]:
        """Be in a phase; yields what is to be called with the number just done. `watched`: by a thread."""
        phase = Phase(words, total, self._clock())

        def advance(done: int) -> None:
            phase.done += done

        self._within.append(phase)
        if watched and self._over is None:
            self._over = Event()
            self._watcher = Thread(target=self._watch, args=(self._over,), name="phases", daemon=True)
            self._watcher.start()
        try:
            yield advance
        finally:
            with self._lock:  # a line that is being written is whole before what follows
                self._within.remove(phase)
            if not self._within and self._over is not None:
                self._over.set()
                self._over = None
                if self._watcher is not None:
                    self._watcher.join(_LOOK)

    def tell(self) -> None:
        """One line, where one is due."""
        with self._lock:
            now = self._clock()
            if self._within:
                phase = self._within[-1]
                if now - max(self._said_at(), self._told) >= (SILENCE if phase.told else SOON):
                    self._told, phase.told = now, True
                    self._say(phase.line(now))

    def _watch(self, over: Event) -> None:
        while not over.wait(_LOOK):
            self.tell()


def spoken(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
