"""Facts that were found once on this machine, kept under a hash of everything that decides them.

Each is a small file of its own in the cache, `remembered/KIND/HASH.json`, which holds its whole key, the fact and a
checksum. Files appear whole, so that several processes may share them, and can be deleted at any time. What cannot be
read is found again, and what cannot be written is not kept: no command ends because of them.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from likelier.utils.console import warn
from likelier.utils.files import cache_folder, read_object, refuse_link, write_whole
from likelier.utils.versions import versions

_PACKAGE = Path(__file__).parent.parent


def recall(kind: str, key: Mapping[str, Any]) -> Any:
    """What was remembered under this key by this code and these versions; None where nothing was. A damaged file is
    named, removed and None.
    """
    whole = _whole(key)
    path = _path(kind, whole)
    for place in (path.parent.parent, path.parent, path):
        refuse_link(place)
    try:
        found = read_object(path)
        if found["key"] == json.loads(_text(whole)) and found["crc32"] == _checksum(found["fact"]):
            return found["fact"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, RecursionError):
        pass  # as damaged as with a wrong checksum
    warn(f"{path}: what was remembered is damaged; it is found again")
    with suppress(OSError):
        path.unlink()
    return None


def remember(kind: str, key: Mapping[str, Any], fact: Any) -> None:
    """Keep a fact (anything that JSON holds) under what decides it. A full disk, or one that is read only, is a
    warning.
    """
    whole = _whole(key)
    path = _path(kind, whole)
    try:
        write_whole(path, (_text({"key": whole, "fact": fact, "crc32": _checksum(fact)}) + "\n").encode())
    except OSError as error:
        _warn_once(str(path.parent.parent), error.strerror or str(error))


@cache
def _warn_once(folder: str, why: str) -> None:
    warn(f"{folder}: what was found out cannot be remembered, and the next run finds it out again: {why}")


def _whole(key: Mapping[str, Any]) -> dict[str, Any]:
    return {**key, "versions": versions(), "source": _source()}


@cache
def _source() -> str:
    """A hash of this package's code: a version is the same while the code is being worked on."""
    found = hashlib.blake2b(digest_size=16)
    for file in sorted(_PACKAGE.rglob("*.py")):
        content = file.read_bytes()
        found.update(f"{file.relative_to(_PACKAGE)}|{len(content)}|".encode() + content)
    return found.hexdigest()


def _path(kind: str, whole: Mapping[str, Any]) -> Path:
    name = hashlib.blake2b(_text(whole).encode(), digest_size=16).hexdigest()
    return cache_folder() / "remembered" / kind / f"{name}.json"


def _text(content: Any) -> str:
    return json.dumps(content, sort_keys=True)


def _checksum(fact: Any) -> int:
    return zlib.crc32(_text(fact).encode())
