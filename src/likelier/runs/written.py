"""What a run wrote, with length and hash as its card records them at the end: whoever reads it later sees what changed.

Weights, checkpoints and pages are left out: the first two have checks of their own, the last can be made again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

Written: TypeAlias = dict[str, dict[str, Any]]

_PIECE = 2**20
_FILES = ("metrics.jsonl", "audit.json", "evaluations/step-*.json", "skipped/step-*.json", "rollouts/step-*.jsonl")


def written_in(folder: Path) -> Written:
    """`bytes` and `hash` of every file that numbers are read from, by its name in the folder. Raises `OSError`."""
    return {str(file.relative_to(folder)): account_of(file) for file in written_files(folder)}


def written_files(folder: Path) -> list[Path]:
    """Every file that numbers are read from."""
    return sorted(file for pattern in _FILES for file in folder.glob(pattern) if file.is_file())


def account_of(file: Path) -> dict[str, Any]:
    """Its `bytes` and `hash`. Raises `OSError`."""
    found, size = hashlib.blake2b(digest_size=16), 0
    with open(file, "rb") as stream:
        while piece := stream.read(_PIECE):
            found.update(piece)
            size += len(piece)
    return {"bytes": size, "hash": found.hexdigest()}


def what_changed(before: Mapping[str, Mapping[str, Any]], now: Written) -> str | None:
    """In words, the first file that is not what it was; None if all are."""
    for name in sorted({*before, *now}):
        then, here = before.get(name), now.get(name)
        if then != here:
            return f"{name} {_in_words(then, here)}"
    return None


def _in_words(then: Mapping[str, Any] | None, here: Mapping[str, Any] | None) -> str:
    if then is None or here is None:
        return "is missing" if here is None else "was not there"
    if here["bytes"] == then["bytes"]:
        return "holds something else"
    how = "was cut" if here["bytes"] < then["bytes"] else "has grown"
    return f"{how}: it has {here['bytes']:,} bytes instead of {then['bytes']:,}"
