"""Where files of the user's lie, and how they are named to others."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import Any

_ABSOLUTE = re.compile(r"(?:~?/|[A-Za-z]:[\\/]).")
_ABSOLUTE_WORD = re.compile(r"(?<![^\s('\"=])(?:~?/|[A-Za-z]:[\\/])[^\s()'\"]+")


def cache_folder() -> Path:
    """`LIKELIER_CACHE`, or `likelier` under the user's cache folder."""
    named = os.environ.get("LIKELIER_CACHE")
    if named:
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "likelier"


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new one and nothing between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)


def sync_files(folder: Path) -> None:
    """Have every file below a folder on disk, before the folder is moved to its place."""
    for file in folder.rglob("*"):
        if file.is_file():
            with open(file, "rb") as stream:
                os.fsync(stream.fileno())


def base_names(value: Any) -> Any:
    """JSON in which every absolute local path is cut down to its last part: what may leave this machine.

    Paths that are a whole value are found as such, wherever else they stand in a text too; others word by word.
    """
    whole = sorted(set(_whole_paths(value)), key=len, reverse=True)
    return _with_base_names(value, whole)


def _whole_paths(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        if _ABSOLUTE.match(value) and " (" not in value:  # else it goes on in words: "PATH (an adapter on PATH)"
            yield value
    elif isinstance(value, (list, tuple, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _whole_paths(part)


def _with_base_names(value: Any, whole: list[str]) -> Any:
    if isinstance(value, dict):
        return {name: _with_base_names(part, whole) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_base_names(part, whole) for part in value]
    if not isinstance(value, str):
        return value
    for path in whole:
        value = value.replace(path, _base_name(path))
    return _ABSOLUTE_WORD.sub(lambda match: _base_name(match.group()), value)


def _base_name(path: str) -> str:
    """The last part of a path of this system or another."""
    return PureWindowsPath(path).name or path.strip("/\\") or path
