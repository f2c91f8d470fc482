"""What a run says to the person at the terminal: plain lines and calm progress bars, on standard error."""

from __future__ import annotations

import logging
import os
import sys
import time
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from likelier.utils.errors import ConfigError, LikelierWarning


def say(text: str) -> None:
    """Print a line for the person at the terminal; what it quotes of data and files is made `printable`. Of several
    processes of a run the first one speaks.
    """
    if speaks():
        _print_aside(printable(text))


def say_error(text: str) -> None:
    """Print why this process ends; of several processes every one does, with its number."""
    _print_aside(printable(text if speaks() else f"rank {os.environ['RANK']}: {text}"))


def _print_aside(text: str) -> None:
    """A standard error that is full, closed or was a terminal that is gone ends no run."""
    with suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def speaks() -> bool:
    """Whether this is the first, or only, process of a run, as its launcher numbers them."""
    return os.environ.get("RANK", "0") == "0" or os.environ.get("WORLD_SIZE", "1") == "1"


def put(text: str, *, end: str = "\n", exact: bool = False) -> None:
    """Print a command's result on standard output, `printable`.

    `exact` is for what programs read (JSON, YAML): as it is into a pipe or a file, `printable` on a terminal only.
    """
    try:
        print(text if exact and not sys.stdout.isatty() else printable(text), end=end, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ConfigError(f"standard output cannot be written: {error.strerror or error}") from error


def warn(text: str) -> None:
    """Warn: shown by Python's warning machinery in a library, as a plain line on the command line."""
    warnings.warn(printable(text), LikelierWarning, stacklevel=3)


def printable(text: str) -> str:
    """Text that a model wrote, or a file brought, safe to print: control characters, and what turns the direction of
    writing, become visible marks; lines and tabs stay.
    """
    return "".join(_safe(character) for character in text.replace("\r\n", "\n"))


def one_line(text: str) -> str:
    """Foreign text for a heading, a comment or a name in a file: one line of characters that can be seen. Every kind
    of space and line end becomes a space; other controls, marks without a width, half emoji become a visible mark.
    """
    seen = (one if one.isprintable() else " " if one.isspace() else "\ufffd" for one in text)
    return " ".join("".join(seen).split())


def _safe(character: str) -> str:
    if character in "\n\t\u200c\u200d":  # the last two join letters and emoji
        return character
    return "\ufffd" if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") else character


def plain_warnings() -> None:
    """Show warnings as lines that begin with "warning:"; what libraries say of their own future is left out."""

    def show(message: Warning | str, category: type[Warning], *args: Any, **kwargs: Any) -> None:
        if not issubclass(category, (FutureWarning, DeprecationWarning, PendingDeprecationWarning)):
            say(f"warning: {message}")

    _make_logs_printable()
    warnings.showwarning = show
    warnings.simplefilter("always", LikelierWarning)


def _make_logs_printable() -> None:
    """What libraries log can quote names from files as well, such as those of weights."""
    make = logging.getLogRecordFactory()
    if not isinstance(make, _PrintableRecords):
        logging.setLogRecordFactory(_PrintableRecords(make))


class _PrintableRecords:
    def __init__(self, make: Callable[..., logging.LogRecord]) -> None:
        self._make = make

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        made = self._make(*args, **kwargs)
        with suppress(TypeError, ValueError):  # a message that does not fit its arguments: logging tells of it
            made.msg, made.args = printable(made.getMessage()), None
        return made


_PAUSE = 0.25  # seconds between two drawings of a live display
_THRIFT = 100  # drawing takes at most one part in so many of the time


class Display:
    """A live display on standard error that is drawn when `refresh` is called, at most four times a second and for at
    most a hundredth of the time.

    A terminal holds one at a time, so that `counting` puts its bars below the one that runs. What is printed meanwhile
    appears above it, and its last state stays on the screen.
    """

    running: Display | None = None

    def __init__(self, render: Callable[[], Any]) -> None:
        from likelier.utils.terminal import SafeConsole

        self.console = SafeConsole(stderr=True)
        self._render, self._bars = render, []
        self._next_drawing = 0.0
        self._live: Any = None

    @property
    def is_possible(self) -> bool:
        """Whether standard error is a terminal that can be drawn on."""
        return self.console.is_terminal and not self.console.is_dumb_terminal and speaks()

    def start(self) -> None:
        """Take the terminal."""
        from rich.live import Live

        here = {"console": self.console, "redirect_stdout": sys.stdout.isatty()}
        self._live = Live(get_renderable=self._content, auto_refresh=False, **here)
        Display.running = self
        self._live.start(refresh=True)

    def refresh(self) -> None:
        """Draw it, unless it was drawn just now, or was abandoned."""
        begun = time.monotonic()
        if self._live is not None and begun >= self._next_drawing:
            self._live.refresh()
            now = time.monotonic()
            self._next_drawing = now + max(_PAUSE, _THRIFT * (now - begun))

    def stop(self) -> None:
        """Draw it for the last time and leave it there."""
        Display.running = None
        if self._live is not None:
            self._live.stop()

    def abandon(self, error: Exception) -> None:
        """Give the terminal back without drawing again, and tell why: hours of training are worth more than this."""
        self._render = str
        self._bars.clear()
        with suppress(Exception):  # what is broken may be the terminal itself
            self.stop()
        self._live = None
        say(out_of_order(error))

    def _content(self) -> Any:
        from rich.console import Group

        return Group(self._render(), *self._bars)

    @contextmanager
    def counting(self, description: str, total: int) -> Iterator[Callable[[int], None]]:
        """A progress bar below the rest, as `counting`."""
        bar = _bar(self.console)
        task = bar.add_task(description, total=total)

        def advance(done: int) -> None:
            bar.advance(task, done)
            self._refresh_safely()

        self._bars.append(bar)
        self._refresh_safely()
        try:
            yield advance
        finally:
            if bar in self._bars:
                self._bars.remove(bar)

    def _refresh_safely(self) -> None:
        try:
            self.refresh()
        except Exception as error:  # whatever it is, who counts has other work to do
            self.abandon(error)


def out_of_order(error: Exception) -> str:
    """What is told where the display of a run has a fault."""
    return f"the display of the run is out of order ({type(error).__name__}: {error}); training goes on"


def progress() -> Any:
    """A rich progress bar on standard error; it is silent where that is no terminal."""
    from likelier.utils.terminal import SafeConsole

    return _bar(SafeConsole(stderr=True))


def _bar(console: Any) -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    is_shown = console.is_terminal and speaks()
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not is_shown, transient=True)


@contextmanager
def counting(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar over `total` things; yields what is to be called with the number just done."""
    if Display.running is not None:
        with Display.running.counting(description, total) as advance:
            yield advance
        return
    with progress() as bar:
        task = bar.add_task(description, total=total)
        yield lambda done: bar.advance(task, done)
