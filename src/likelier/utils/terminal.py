"""Tables, displays and progress bars: whatever reaches the screen is text, wherever it came from."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from io import StringIO
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from likelier.utils.console import printable, say, speaks
from likelier.utils.errors import whole_reason
from likelier.utils.phases import Phases, Words, in_words


class SafeConsole(Console):
    """A console that reads no markup in text, colours no words by itself, and marks control characters.

    Data, model output and file names can hold escape sequences and `[link=...]`; what rich itself sends to move the
    cursor passes.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, "highlight": False, **settings})

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


def printed(parts: Iterable[RenderableType], *, width: int | None = None, colour: bool = False) -> str:
    """What a terminal of this width shows, without trailing blanks."""
    stream = StringIO()
    console = SafeConsole(file=stream, width=width or 110, force_terminal=colour, no_color=not colour)
    for part in parts:
        console.print(part)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


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
        self.console = SafeConsole(stderr=True)
        self._render, self._bars = render, []
        self._next_drawing = 0.0
        self._live: Any = None

    @property
    def is_possible(self) -> bool:
        """Whether standard error is a terminal that can be drawn on."""
        return _is_drawn_on(self.console)

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
    def counting(self, description: Words, total: int) -> Iterator[Callable[[int], None]]:
        """A progress bar below the rest, as `counting`."""
        bar = _bar(self.console)
        task = bar.add_task(in_words(description), total=total)

        def advance(done: int) -> None:
            bar.update(task, advance=done, description=in_words(description))
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
    return f"the display of the run is out of order ({type(error).__name__}: {whole_reason(error)}); training goes on"


def _bar(console: Any) -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not _is_drawn_on(console), transient=True)


def _is_drawn_on(console: Any) -> bool:
    return console.is_terminal and not console.is_dumb_terminal and speaks()


_phases = Phases()
_running_bar: list[Any] = []  # a terminal holds one display: inner bars stand in the outer one's


@contextmanager
def counting(description: Words, total: int | None) -> Iterator[Callable[[int], None]]:
    """A progress bar over `total` things, or over an unknown number; yields what is to be called with the number just
    done. `description` may be what gives it, where it changes. Where no terminal can be drawn on, a plain line after
    every ten seconds in which nothing else was said.
    """
    if Display.running is not None and total:
        with Display.running.counting(description, total) as advance:
            yield advance
        return
    console = SafeConsole(stderr=True)
    if not _is_drawn_on(console):
        with _phases.phase(description, total) as advance:
            yield advance
    elif Display.running is not None:
        yield lambda done: None
    else:
        with _drawn(description, total, console) as advance:
            yield advance


def under_way(description: str) -> AbstractContextManager[Any]:
    """The whole of a command: told of where something in it takes long and has no name of its own, in plain lines; at a
    terminal it draws nothing.
    """
    return nullcontext() if _is_drawn_on(SafeConsole(stderr=True)) else _phases.phase(description)


def busy(description: str) -> AbstractContextManager[Callable[[int], None]]:
    """`counting`, of work whose length is not known."""
    return counting(description, None)


@contextmanager
def _drawn(description: Words, total: int | None, console: Any) -> Iterator[Callable[[int], None]]:
    with ExitStack() as stack:
        if not _running_bar:
            _running_bar.append(stack.enter_context(_bar(console)))
            stack.callback(_running_bar.clear)
        bar = _running_bar[0]
        task = bar.add_task(in_words(description), total=total)
        try:
            yield lambda done: bar.update(task, advance=done, description=in_words(description))
        finally:
            bar.remove_task(task)
