"""Files that a command is told to write: never onto what is there already, unless likelier made it or it is asked to.

What is read by a command is there already, so that no command replaces its inputs either, whatever name, link or case
of letters leads to them.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from likelier.utils.errors import ConfigError, writing
from likelier.utils.files import is_stream, local

MARK = '<meta name="generator" content="likelier">'  # stands in the head of every page
_HEAD = 2048  # bytes in which it is looked for


def check_output(
    output: str | Path, *, inputs: Iterable[str | Path] = (), overwrite: bool = False, page: bool = False
) -> None:
    """Raises `ConfigError` for a file that is there, before any work. `page`: one of ours may be written again. Pipes
    and devices are nobody's files; of a folder the one who writes tells.
    """
    path = local(output)
    is_link = path.is_symlink()
    if overwrite or is_stream(path) or path.is_dir() or not (is_link or path.is_file()):
        return
    for one in inputs:
        if _is_same(path, local(one)):
            raise ConfigError(
                f"{output} is the data itself and would be overwritten; name another output"
                if str(one) == str(output)
                else f"{output} is {one}, which is read here, and would be overwritten; name another output"
            )
    if page and not is_link and is_own_page(path):
        return
    raise ConfigError(f"{output} exists already; name another output, or give --overwrite")


def check_writable(output: str | Path, *, mend: str) -> None:
    """Fail before the work, and leave no empty file behind. Raises `ConfigError`."""
    path = local(output)
    existed = path.exists()
    if path.is_symlink():  # it is replaced, and what it leads to is left
        return
    with writing(output, mend=mend), open(path, "a", encoding="utf-8"):
        pass
    if not existed:
        path.unlink()


def is_own_page(path: Path) -> bool:
    """Whether a file is a page that likelier wrote."""
    with suppress(OSError), open(path, "rb") as stream:
        return MARK.encode() in stream.read(_HEAD)
    return False


def _is_same(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other)
    except (OSError, ValueError):
        return False
