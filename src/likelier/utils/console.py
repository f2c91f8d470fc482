"""What a run says to the person at the terminal: plain lines on standard error."""

from __future__ import annotations

import logging
import os
import sys
import time
import unicodedata
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from likelier.utils.errors import ConfigError, LikelierWarning, unwritable


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
    global _said_at
    _said_at = time.monotonic()
    with suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


_said_at = time.monotonic()


def said_at() -> float:
    """When something was said last, in seconds of `time.monotonic`."""
    return _said_at


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
        raise ConfigError(unwritable("standard output", error)) from error


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

    make = logging.getLogRecordFactory()
    if not isinstance(make, _PrintableRecords):
        logging.setLogRecordFactory(_PrintableRecords(make))
    warnings.showwarning = show
    warnings.simplefilter("always", LikelierWarning)


class _PrintableRecords:
    """What libraries log can quote names from files as well, such as those of weights."""

    def __init__(self, make: Callable[..., logging.LogRecord]) -> None:
        self._make = make

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        made = self._make(*args, **kwargs)
        with suppress(TypeError, ValueError):  # a message that does not fit its arguments: logging tells of it
            made.msg, made.args = printable(made.getMessage()), None
        return made
