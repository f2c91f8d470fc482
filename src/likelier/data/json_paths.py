"""Rows that lie inside a JSON file: the list under a path, and which lists there are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from likelier.utils.errors import DataError

_DEEPEST = 4  # levels at which lists are looked for, to name them
_NAMED = 8  # of them


def rows_at(loaded: Any, records: str, name: str) -> list[Any]:
    """The items of the list under `records` (`export.sessions`, or with slashes); lists on the way are gone through.

    Raises `DataError` where there is none, naming the lists of objects that the file has.
    """
    found = [loaded]
    for part in re.split(r"[./]", records.strip("./")):
        inner = [one[part] for one in _items(found) if _is_object(one) and part in one]
        if not inner:
            lists = ", ".join(f"{path} ({count} objects)" for path, count in lists_of_objects(loaded)) or "none"
            raise DataError(
                f"{name}: no list has the path {records!r}; lists of objects: {lists}. Mend records under columns (as "
                "a flag: --columns records=...)"
            )
        found = inner
    return list(_items(found))


def _is_object(value: Any) -> bool:
    return isinstance(value, Mapping)


def _items(found: list[Any]) -> Iterator[Any]:
    for one in found:
        yield from one if isinstance(one, list) else [one]


def lists_of_objects(value: Any) -> list[tuple[str, int]]:
    """The paths of lists of objects inside an object, with how many objects they hold; the outer ones first."""
    found: list[tuple[str, int]] = []
    level: list[tuple[str, Any]] = [("", value)]
    for _ in range(_DEEPEST):
        inner = [
            (f"{path}.{key}".lstrip("."), one)
            for path, outer in level
            if _is_object(outer)
            for key, one in outer.items()
        ]
        found += [(path, len(one)) for path, one in inner if isinstance(one, list) and one and _is_object(one[0])]
        level = inner
    return found[:_NAMED]
