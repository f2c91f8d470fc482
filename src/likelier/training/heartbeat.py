"""Ranks that watch over one another, so that one that dies ends the others soon, and by name.

A rank that waits in a collective for one that is gone would wait until a timeout, and then tell only that it waited. So
every rank gives a sign of life every few seconds, and watches that of the next one (in a ring: a few messages a rank,
however many there are). Who finds the next one silent, or fails itself, tells all.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from threading import Event, Thread
from typing import NamedTuple, TypeVar

from torch import distributed

from likelier.utils.distributed import Ranks
from likelier.utils.errors import whole_reason

PATIENCE = 120.0  # seconds without a sign of life after which a rank counts as dead
_ENDED = "likelier/ended"  # where the rank that ended first stands
_DONE = "done"
_STORE = "rank 0, or the launcher that keeps the ranks together,"
_STORE_GONE = f"{_STORE} is gone"
Answer = TypeVar("Answer")


class _Heard(NamedTuple):
    """What the store told last: which rank ended first, the watched rank's sign of life, and when that was."""

    ended: str
    sign: str
    at: float


class Heartbeat:
    """Watches over the ranks from a thread of its own, from `start` to `close`.

    Args:
        ranks: of this run.
        patience: seconds without a sign of life.
        end: is called, in that thread, with what happened to another rank; it has to end this process.
    """

    def __init__(self, ranks: Ranks, patience: float, end: Callable[[str], None]) -> None:
        self.ranks, self.patience, self._end = ranks, patience, end
        self._pause = min(2.0, patience / 6)
        self._over = Event()
        self._thread: Thread | None = None
        self._signs = 0
        self._watched = (ranks.rank + 1) % ranks.size

    def start(self) -> None:
        """Begin; there is nothing to watch in one process, or where another program joined the ranks."""
        if not self.ranks.several or "MASTER_ADDR" not in os.environ:
            return
        address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        self._store = distributed.TCPStore(*address, is_master=False)  # a connection of its own: others may block
        self._heard = self._exchanged()
        Thread(target=self._listen, name="heartbeat-store", daemon=True).start()
        self._thread = Thread(target=self._watch, name="heartbeat", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """This rank is done, as it should be: its silence from now on means nothing."""
        if self._stopped():
            self._in_time(lambda: self._store.set(_alive(self.ranks.rank), _DONE), None)

    def failed(self, error: BaseException) -> str | None:
        """This rank ends with an error. Where another rank's end is behind it, that is returned; else all are told."""
        if self._thread is None:
            return None
        behind = self._in_time(self._who_ended, _STORE_GONE) if _is_of_exchange(error) else None
        if self._stopped() and behind is None:
            self._tell(
                f"rank {self.ranks.rank} ({_place()}) failed: {type(error).__name__}: {whole_reason(error, 400)}"
            )
        return behind

    def _stopped(self) -> bool:
        """Whether there was a thread, which is no more."""
        thread, self._thread = self._thread, None
        self._over.set()
        if thread is not None:
            thread.join()
        return thread is not None

    # --- the threads -----------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        """Speak with the store, which may be silent for good where the process that keeps it is stopped."""
        while not self._over.wait(self._pause):
            try:
                self._heard = self._exchanged()
            except Exception:
                self._heard = _Heard(_STORE_GONE, self._heard.sign, time.monotonic())
                return

    def _watch(self) -> None:
        last, since = "", time.monotonic()
        while not self._over.wait(self._pause):
            heard, now = self._heard, time.monotonic()
            told = heard.ended
            if heard.sign != last or heard.sign == _DONE:
                last, since = heard.sign, heard.at
            if not told and now - heard.at > self.patience:
                told = f"{_STORE} gave no sign of life for {self.patience:.0f} seconds"
            elif not told and heard.at - since > self.patience:  # what was not heard tells nothing of that rank
                told = (
                    f"rank {self._watched} ({last.split('|')[0]}) gave no sign of life for {self.patience:.0f} seconds"
                )
                self._tell(told)
            if told and not self._over.wait(self._pause):  # this rank may be about to fail the same way, and to tell
                self._end(told)
                return

    def _who_ended(self) -> str:
        """After giving it the time to be known. An error of the exchange tells that some rank is gone."""
        others = [rank for rank in range(self.ranks.size) if rank != self.ranks.rank]
        before = {rank: self._read(_alive(rank)) for rank in others}
        deadline = time.monotonic() + 2.5 * self._pause
        while time.monotonic() < deadline:
            told = self._read(_ENDED)
            if told:
                return told
            time.sleep(self._pause / 8)
        silent = [rank for rank in others if self._read(_alive(rank)) == before[rank] != _DONE]
        return "; ".join(f"rank {rank} ({before[rank].split('|')[0]}) is gone" for rank in silent[:8])

    # --- the store -------------------------------------------------------------------------------------------------

    def _exchanged(self) -> _Heard:
        """Give a sign of life, and hear of the others."""
        self._signs += 1
        self._store.set(_alive(self.ranks.rank), f"{_place()}|{self._signs}")
        return _Heard(self._read(_ENDED), self._read(_alive(self._watched)), time.monotonic())

    def _read(self, key: str) -> str:
        return self._store.get(key).decode() if self._store.check([key]) else ""

    def _tell(self, told: str) -> None:
        ask = partial(self._store.compare_set, _ENDED, "", told)  # the first one told is the cause of the others
        self._in_time(ask, None)

    def _in_time(self, ask: Callable[[], Answer], otherwise: Answer) -> Answer:
        """What the store answers; `otherwise` where it fails, or is silent."""
        found = [otherwise]

        def asked() -> None:
            with suppress(Exception):
                found[0] = ask()

        thread = Thread(target=asked, daemon=True)
        thread.start()
        thread.join(5 * self._pause)
        return found[0]


def _alive(rank: int) -> str:
    return f"likelier/alive/{rank}"


def speaks_of(told: str, ranks: Ranks) -> bool:
    """Whether this rank is the one that tells of another one's end: the first, or the second of the first's."""
    return ranks.rank == (1 if told.startswith("rank 0") and "failed" not in told else 0)


def _place() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _is_of_exchange(error: BaseException) -> bool:
    """Whether an error comes from a collective: torch has no class for gloo's."""
    return isinstance(error, distributed.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))
