"""What data sets are called that nobody gave a name: a path's last part, and as much more of it as tells two apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

GYM = "gym:"  # before the task of reasoning-gym whose questions are asked


class Named(NamedTuple):
    """A data set's path, and the part of it that is taken (a subset or a split), if one is."""

    path: str
    part: str | None = None


def short_name(path: str) -> str:
    """The path's last part without what follows its first dot."""
    return path.rstrip("/").rsplit("/", 1)[-1].split(".")[0]


def distinct_names(sets: Sequence[Named], taken: Collection[str] = ()) -> list[str]:
    """A short name for each: of those that would be called alike (or as one of `taken`) the shortest ends of their
    paths that differ, `a/prefs` and `b/prefs`. What nothing tells apart is called alike.
    """
    found = [short_name(one.path) for one in sets]
    counts = Counter([*found, *taken])
    for name in [name for name in dict.fromkeys(found) if counts[name] > 1]:
        alike = [number for number, other in enumerate(found) if other == name]
        longer = _told_apart([sets[number] for number in alike], {*taken, *(set(found) - {name})})
        for number, new in zip(alike, longer or [], strict=False):
            found[number] = new
    return found


def _told_apart(sets: Sequence[Named], taken: Collection[str]) -> list[str] | None:
    """The first way of naming them in which all differ."""
    fitting = (names for names in _ways(sets) if len(set(names)) == len(names) and not set(names) & set(taken))
    return next(fitting, None)


def _ways(sets: Sequence[Named]) -> Iterator[list[str]]:
    """From short to long: the part that is taken, the file's whole name, then one folder more each time."""
    yield [f"{short_name(one.path)}-{one.part}" if one.part else short_name(one.path) for one in sets]
    paths = [PurePosixPath(one.path) for one in sets]
    for depth in range(max(len(path.parts) for path in paths)):
        folders = [path.parts[:-1][-depth:] if depth else () for path in paths]
        for last in (short_name, str):
            yield ["/".join((*above, last(path.name))) for above, path in zip(folders, paths, strict=True)]
