"""Errors that are the user's to mend. Each message names the place, the value and the mend; none needs a traceback."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

OTHER_RANK_ENDED = 4  # the exit code of `OtherRankEndedError`


class LikelierError(Exception):
    """Base class: bad input of any kind. The command line prints the message and exits with 2."""


class DataError(LikelierError):
    """A preference file, or a row in it, cannot be used."""


class ConfigError(LikelierError):
    """An option is unknown, inert, out of range or contradicts another."""


class ModelError(LikelierError):
    """A model or tokenizer cannot be loaded or used."""


class WrongReferenceError(LikelierError):
    """The reference is not the one that the run says it is."""


class RunFolderError(LikelierError):
    """A run folder cannot be written, read or resumed."""


class TrainingError(LikelierError):
    """Training cannot go on: the loss or the gradient is not finite."""


class OtherRankEndedError(LikelierError):
    """Another process of the run has ended, and this one cannot go on without it."""


class HubError(LikelierError):
    """The model hub refuses, or cannot be reached."""


class LikelierWarning(UserWarning):
    """Something a user should know about before trusting the run."""


def whole_reason(error: BaseException, most: int = 600) -> str:
    """What an error of another library says: all its lines in one of at most `most` characters, and never nothing.

    Libraries put the cause into any line ("Error(s) in loading state_dict:" comes before it); of what is longer the
    beginning and the end are kept.
    """
    lines = (line.strip() for line in str(error).splitlines())
    words = " ".join(line for line in lines if line).rstrip(".") or type(error).__name__
    if len(words) <= most:
        return words
    end = most // 3
    return f"{words[: most - end - 5].rstrip()} ... {words[-end:].lstrip()}"


def require_text(what: str, typed: str) -> None:
    """Raises `ConfigError` for a text that is empty, or not UTF-8."""
    if not typed.strip():
        raise ConfigError(f"{what} is empty; give some text")
    try:
        typed.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{what} is not UTF-8 text: {typed!r}") from error


def unwritable(what: object, error: object, mend: str = "") -> str:
    """That a file or folder cannot be written, why, and what to do instead."""
    reason = getattr(error, "strerror", None) or error
    return f"{what} cannot be written: {reason}{mend and f'; {mend}'}"


@contextmanager
def writing(what: object, *, mend: str = "", kind: type[LikelierError] = ConfigError) -> Iterator[None]:
    """Around everything that writes `what`. Raises `kind` in place of an `OSError`, in the words of `unwritable`."""
    try:
        yield
    except OSError as error:
        raise kind(unwritable(what, error, mend)) from error


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean ...?` where a known name is close."""
    from difflib import get_close_matches

    close = get_close_matches(name, sorted(known), n=1)
    if not close:
        return ""
    found = close[0] if close[0] == close[0].strip() else repr(close[0])  # white space at its ends is the difference
    return f"; did you mean {found}?"
