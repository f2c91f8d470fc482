"""Commands that we propose: what is pasted into a shell does what it says, whatever names it holds."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar

CODE = "eval_reward can name a Python file, which such a run executes: read it first, as you would read a script."


_TYPED: ContextVar[tuple[str, ...]] = ContextVar("_TYPED", default=())


@contextmanager
def carrying_out(words: Sequence[str]) -> Iterator[None]:
    """While a command is carried out: what was typed after `likelier`, or nothing where it would not help to know."""
    token = _TYPED.set(tuple(words))
    try:
        yield
    finally:
        _TYPED.reset(token)


def for_one_of_several() -> AbstractContextManager[None]:
    """While one of several files is read: more words in the command would be for all of them."""
    return carrying_out(())


def typed_with(*words: str) -> str:
    """The command that is being carried out with more words at its end, to be pasted; empty outside of commands."""
    typed = _TYPED.get()
    return " ".join(map(_as_word, ("likelier", *typed, *words))) if typed else ""


def was_typed(word: str) -> bool:
    """Whether the command that is being carried out has this flag."""
    return any(one.partition("=")[0] == word for one in _TYPED.get())


def quoted(name: object) -> str:
    """A name from a file or a folder as one word of a shell, which is no flag and in which all can be seen."""
    text = str(name)
    if text.startswith("-"):
        text = f"./{text}"
    return _as_word(text)


def _as_word(text: str) -> str:
    return shlex.quote(text) if text.isprintable() else f"$'{''.join(map(_escaped, text))}'"


def names_code(text: str) -> bool:
    """Whether a run file or a command could have code executed that somebody else named."""
    return "eval_reward" in text.replace("-", "_")


def _escaped(character: str) -> str:
    if character.isprintable() and character not in "'\\":
        return character
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogateescape"))
