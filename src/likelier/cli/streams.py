"""The streams of a command's process: closed ones, full ones, and those whose encoding lacks a character."""

from __future__ import annotations

import codecs
import os
import sys
from contextlib import suppress

_STREAMS = {0: ("stdin", "r"), 1: ("stdout", "w"), 2: ("stderr", "w")}


def prepare_streams() -> None:
    """Make the process's streams such that printing cannot fail for what they are.

    A closed one leads nowhere, before a file that is opened takes its number. What a stream's encoding lacks is written
    as `\\u00e9`, which in JSON is the character itself.
    """
    for number, (name, mode) in _STREAMS.items():
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))
    codecs.register_error("likelier", _escaped)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="likelier")


def _escaped(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4)), error.end


def end_streams(code: int) -> int:
    """Write what is still held; gives the exit code. What cannot be written is told once, not by the interpreter."""
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        try:
            stream.flush()
        except BrokenPipeError:  # who reads has read enough
            _lead_nowhere(number)
        except (OSError, ValueError) as error:
            _lead_nowhere(number)
            if number == 1 and code != 2:  # else it, or worse, was told
                code = 2
                with suppress(OSError, ValueError):
                    from likelier.utils.console import say_error  # not loaded where an interpreter has just begun
                    from likelier.utils.errors import unwritable

                    say_error(f"error: {unwritable('standard output', error)}")
    return code


def _lead_nowhere(number: int) -> None:
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)
