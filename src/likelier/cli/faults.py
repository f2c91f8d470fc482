"""How a command ends that cannot do what it was asked for: one message, an exit code, and no traceback on the screen.

What nobody foresaw is a fault of likelier: its traceback goes into a file, for a report.
"""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from contextlib import suppress
from pathlib import Path

from likelier.utils.console import say, say_error
from likelier.utils.errors import OTHER_RANK_ENDED, LikelierError, OtherRankEndedError

SHOWN = "LIKELIER_TRACEBACK"  # in the environment: the traceback is printed as well


def report_error(error: BaseException) -> int:
    """Say what ended a command; gives its exit code."""
    if os.environ.get(SHOWN):
        say_error("".join(traceback.format_exception(error)).rstrip())
    if isinstance(error, LikelierError):
        say_error(f"error: {error}")
        return OTHER_RANK_ENDED if isinstance(error, OtherRankEndedError) else 2
    if isinstance(error, KeyboardInterrupt):
        say("interrupted")
        return getattr(error, "exit_code", 130)  # 129 after a SIGHUP, 143 after a SIGTERM
    if isinstance(error, BrokenPipeError):
        return 0
    known = _in_words(error)
    if known is None:
        return _our_fault(error)
    say_error(f"error: {known}")
    return 2


def _in_words(error: BaseException) -> str | None:
    """What no command expected of the machine, or of a name: no room, no permission, a file that vanished."""
    if isinstance(error, OSError) and error.errno is not None and error.strerror is not None:
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    if isinstance(error, UnicodeEncodeError) and error.object[error.start : error.end].isprintable() is False:
        begin = error.object[max(0, error.start - 40) : error.end]
        return f"a name or text is not UTF-8, and cannot be written: {begin!r}; rename or mend it"
    of_torch = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    if isinstance(error, MemoryError) or of_torch or type(error).__name__ == "OutOfMemoryError":  # torch's on a device
        return "the memory of this machine is not enough; give less data at once, or a smaller model"
    return None


def _our_fault(error: BaseException) -> int:
    """The last line of the traceback, and where the whole of it lies."""
    from likelier.utils.redaction import without_secrets

    text = str(without_secrets(f"{sys.argv}\n{''.join(traceback.format_exception(error))}"))
    last = traceback.format_exception_only(error)[-1].strip().splitlines()[0]
    where = _kept(text)
    found = f"The traceback is in {where}" if where else f"{SHOWN}=1 in the environment shows the traceback"
    say_error(
        f"error: {without_secrets(last)}\nthis is a fault of likelier, not of your input. {found}; please report it "
        "with that"
    )
    return 1


def _kept(text: str) -> Path | None:
    """A new file of the user's own with this text; None where there is no room for one."""
    with suppress(OSError):
        number, name = tempfile.mkstemp(prefix="likelier-", suffix=".traceback.txt")
        with open(number, "w", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(text)
        return Path(name)
    return None
