"""Commands that we propose: what is pasted into a shell does what it says, whatever names it holds."""

from __future__ import annotations

import shlex

CODE = "eval_reward can name a Python file, which such a run executes: read it first, as you would read a script."


def quoted(name: object) -> str:
    """A name from a file or a folder as one word of a shell, which is no flag and in which all can be seen."""
    text = str(name)
    if text.startswith("-"):
        text = f"./{text}"
    if text.isprintable():
        return shlex.quote(text)
    return f"$'{''.join(map(_escaped, text))}'"


def names_code(text: str) -> bool:
    """Whether a run file or a command could have code executed that somebody else named."""
    return "eval_reward" in text.replace("-", "_")


def _escaped(character: str) -> str:
    if character.isprintable() and character not in "'\\":
        return character
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogateescape"))
