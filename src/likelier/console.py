"""What a run says to the person at the terminal: plain lines and calm progress bars, on standard error."""

from __future__ import annotations

import sys
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from likelier.errors import LikelierWarning


def say(text: str) -> None:
    """Print a line for the person at the terminal."""
    print(text, file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """Warn: shown by Python's warning machinery in a library, as a plain line on the command line."""
    warnings.warn(text, LikelierWarning, stacklevel=3)


def printable(text: str) -> str:
    """Text that a model wrote, or a file brought, safe to print: control characters, and what turns the direction of
    writing, become visible marks; lines and tabs stay.
    """
    return "".join(_safe(character) for character in text.replace("\r\n", "\n"))


def _safe(character: str) -> str:
    if character in "\n\t\u200c\u200d":  # the last two join letters and emoji
        return character
    return "\ufffd" if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") else character


def plain_warnings() -> None:
    """Show warnings as lines that begin with "warning:"; what libraries say of their own future is left out."""

    def show(message: Warning | str, category: type[Warning], *args: Any, **kwargs: Any) -> None:
        if not issubclass(category, (FutureWarning, DeprecationWarning, PendingDeprecationWarning)):
            say(f"warning: {message}")

    warnings.showwarning = show
    warnings.simplefilter("always", LikelierWarning)


def progress(*columns: Any) -> Any:
    """A rich progress bar on standard error; it is silent where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    shown = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *columns, TimeRemainingColumn())
    return Progress(*shown, console=console, disable=not console.is_terminal, transient=True)


@contextmanager
def counting(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar over `total` things; yields what is to be called with the number just done."""
    with progress() as bar:
        task = bar.add_task(description, total=total)
        yield lambda done: bar.advance(task, done)
