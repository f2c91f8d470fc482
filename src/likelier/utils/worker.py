"""A function of the user's in a process of its own, which is ended where it takes too long.

The process gets a session of its own: what is ended is all that the function has started as well. It ends with ours,
however that ends, and by a timer of the system where the function holds Python's lock.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import connection, get_context, parent_process
from multiprocessing.util import Finalize
from threading import Thread
from types import ModuleType
from typing import Any

from likelier.utils.errors import ConfigError, LikelierError, whole_reason

_STARTUP = 120.0  # seconds in which the process must have its function: imports can take long
_GRACE = 5.0  # seconds after the limit at which the system ends a process that nobody ended


class Overrun(Exception):
    """The function had no answer in time."""


class Worker:
    """Calls `make(*arguments)`'s result in a process that starts with the first call, and again after an overrun.

    Args:
        make: a function of a module (it is found by its name); it gives the function to be called.
        arguments: of `make`.
        where: begins what is told of a failure.
    """

    def __init__(self, make: Callable[..., Callable[..., Any]], *arguments: Any, where: str) -> None:
        self._make, self._arguments, self._where = make, arguments, where
        self._process: Any = None
        self._connection: Any = None
        self._end: Finalize | None = None

    def ask(self, *given: Any, limit: float) -> Any:
        """What the function gives, within `limit` seconds.

        Raises `Overrun`, and `ConfigError` in the words of an error that it raised or where its process ended.
        """
        if self._process is None:
            self._start()
        try:
            self._connection.send((given, limit))
            if not self._connection.poll(limit):
                raise Overrun
            return self._received()
        except BrokenPipeError as error:
            raise self._ended() from error
        except LikelierError:
            raise
        except BaseException:  # also an interrupt: nothing is left running
            self.close()
            raise

    def close(self) -> None:
        """End the process, where there is one."""
        if self._end is not None:
            self._end()
        self._process = self._connection = self._end = None

    def _start(self) -> None:
        context = get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._make, self._arguments))
        with _main_left_out():
            self._process.start()
        theirs.close()
        # Before the exit of multiprocessing itself, which waits for processes that have not ended.
        self._end = Finalize(self, _end, (self._process, self._connection), exitpriority=100)
        try:
            if not self._connection.poll(_STARTUP):
                raise ConfigError(f"{self._where}: it was not loaded within {_STARTUP:.0f} seconds")
            self._received()
        except BaseException:
            self.close()
            raise

    def _received(self) -> Any:
        try:
            failed, found = self._connection.recv()
        except (EOFError, ConnectionResetError) as error:
            raise self._ended() from error
        if failed:
            raise ConfigError(found)
        return found

    def _ended(self) -> ConfigError:
        self._process.join(_GRACE)
        code = self._process.exitcode
        how = f"by {signal.Signals(-code).name}" if code is not None and code < 0 else f"with exit code {code}"
        self.close()
        return ConfigError(f"{self._where}: its process ended {how}")


def _end(process: Any, connection: Any) -> None:
    connection.close()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()  # where it had no session yet
    process.join()


@contextmanager
def _main_left_out() -> Iterator[None]:
    """multiprocessing runs the main script once more in each process: one that trains would train again."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


# --- in the process ---------------------------------------------------------------------------------------------------


def _serve(pipe: Any, make: Callable[..., Callable[..., Any]], arguments: tuple[Any, ...]) -> None:
    os.setsid()
    Thread(target=_end_with_parent, daemon=True).start()
    failed, function = _tried(make, arguments)
    _send(pipe, (failed, function if failed else None))
    if failed:
        return
    with suppress(EOFError):
        while True:
            given, limit = pipe.recv()
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, limit + _GRACE)
            found = _tried(function, given)
            signal.setitimer(signal.ITIMER_REAL, 0)
            _send(pipe, found)


def _send(pipe: Any, found: Any) -> None:
    with suppress(BrokenPipeError):  # nobody listens any more
        pipe.send(found)


def _tried(function: Callable[..., Any], given: tuple[Any, ...]) -> tuple[bool, Any]:
    """Whether it failed, and what it gave or the words of its error."""
    try:
        return False, function(*given)
    except LikelierError as error:
        return True, str(error)
    except (Exception, SystemExit) as error:
        return True, f"{type(error).__name__}: {whole_reason(error)}"


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os.killpg(0, signal.SIGKILL)
