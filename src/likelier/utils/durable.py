"""Files that are whole or known not to be: lines of a log, folders under a manifest, and how a failed write looks.

A checkpoint is a folder whose manifest, written last, holds the name and size of every file in it.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from likelier.utils.errors import RunFolderError, whole_reason
from likelier.utils.files import made_anew, refuse_link, refuse_links_below, sync_files, sync_folder
from likelier.utils.strict_json import parse_json

MANIFEST = "manifest.json"
NEW_FILES = ".new-files"  # a folder where files wait until all of them are whole
_FAILED_WRITE = re.compile(  # what torch, safetensors and tokenizers say, whose errors are no OSErrors
    r"PytorchStreamWriter|inline_container|unexpected pos|os error \d+|I/O error|IoError|No space left", re.IGNORECASE
)


def seal(folder: Path) -> None:
    """Write the manifest of a folder that holds everything it should, and have all of it on disk."""
    sizes = {str(file.relative_to(folder)): file.stat().st_size for file in sorted(folder.rglob("*")) if file.is_file()}
    (folder / MANIFEST).write_text(json.dumps({"files": sizes}, indent=2) + "\n", encoding="utf-8")
    sync_files(folder)


def flaw_of(folder: Path) -> str | None:
    """What is wrong with a folder that was sealed; None if it is whole."""
    try:
        refuse_links_below(folder)
        sizes = read_object(folder / MANIFEST)["files"]
        for name, size in sizes.items():
            if Path(name).is_absolute() or ".." in Path(name).parts:
                return f"its {MANIFEST} names {name!r}, a file elsewhere"
            found = (folder / name).stat().st_size
            if found != size:
                return f"{name} has {found} bytes instead of {size}"
            if name.endswith(".json"):
                json.loads((folder / name).read_bytes())
    except RunFolderError as error:
        return str(error)
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"it cannot be read: {error}"
    return None


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds names and values. Raises `OSError`, or `ValueError` where it holds something else."""
    content = parse_json(path.read_bytes())
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} must hold names and values")
    return content


def append_line(path: Path, line: str) -> None:
    """Add a line to a file in one write, or nothing of it. Raises `OSError`."""
    content = (line + "\n").encode()
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        before = os.fstat(descriptor).st_size
        if os.write(descriptor, content) < len(content):
            os.ftruncate(descriptor, before)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    finally:
        os.close(descriptor)


@contextmanager
def moved_when_whole(target: Path) -> Iterator[Path]:
    """A folder to write files in, which are moved into `target` once all of them are on disk; an error leaves none."""
    staging = target / NEW_FILES
    made_anew(staging)
    try:
        yield staging
        sync_files(staging)
        for entry in sorted(staging.iterdir()):
            if entry.is_dir():
                refuse_link(target / entry.name)
                shutil.rmtree(target / entry.name, ignore_errors=True)
            os.replace(entry, target / entry.name)
        sync_folder(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def cause_of_failed_write(error: BaseException | None) -> str | None:
    """Why a file could not be written, if that is what an error, or the one behind it, says; else None."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError):
            return error.strerror or str(error)
        if _FAILED_WRITE.search(str(error)):
            return whole_reason(error)
        error = error.__cause__ or error.__context__
    return None
