"""Splits of a data set of `datasets`, slices of them, and the columns in them that hold pictures and sounds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from likelier.data.records import Source
from likelier.utils.errors import ConfigError, DataError


def is_slice(split: str | None) -> bool:
    """Whether this is more than the name of a split."""
    return split is not None and any(sign in split for sign in "[+")


def split_rows(name: str, loaded: Any, split: str | None) -> Iterator[tuple[Source, Any]]:
    """The rows of one split, of slices, or of several splits behind each other, numbered as in their split.

    Raises `DataError` for a split that is not there or must be named, `ConfigError` for what is no slice.
    """
    splits: Mapping[str, Any] = loaded if hasattr(loaded, "keys") else {str(loaded.split or "train"): loaded}
    if loaded is not splits and split is not None and not is_slice(split):
        raise DataError(f"{name} holds no splits; drop split={split!r}")
    parts = _parts(name, splits, split)
    several = len({part for part, _, _ in parts}) > 1
    if all(start >= end for _, start, end in parts) and is_slice(split):
        raise DataError(f"{name}: split={split!r} is none of its rows; take more of them")
    for part, start, end in parts:
        # A format that was set and saved hides columns, and turns lists into arrays
        table = without_decoding(splits[part].with_format(None))
        table = table if (start, end) == (0, len(table)) else table.select(range(start, max(start, end)))
        file = f"{name} ({part})" if several else name
        yield from ((Source(file, number, "row"), row) for number, row in enumerate(table, start + 1))


def _parts(name: str, splits: Mapping[str, Any], split: str | None) -> list[tuple[str, int, int]]:
    """(split, first row, row behind the last), from 0."""
    if not is_slice(split):
        names = list(splits)
        wanted = split or ("train" if "train" in names else names[0])
        if wanted not in names or (split is None and len(names) > 1 and "train" not in names):
            wish = f"none is called {split or 'train'}"
            raise DataError(f"{name} holds the splits {names} and {wish}; name one with split (under data, in YAML)")
        return [(wanted, 0, len(splits[wanted]))]
    from datasets import ReadInstruction

    lengths = {part: len(table) for part, table in splits.items()}
    try:
        found = ReadInstruction.from_spec(str(split).replace(" ", "")).to_absolute(lengths)
    except (ValueError, AssertionError) as error:
        raise ConfigError(
            f"{name}: split={split!r}: {error} It has {_told(lengths)}; write train[:50%], train[10:20], train[-100:] "
            "or train+test"
        ) from error
    return [(one.splitname, one.from_, one.to) for one in found]


def _told(lengths: Mapping[str, int]) -> str:
    return ", ".join(f"{part} ({length} rows)" for part, length in lengths.items())


# --- pictures and sounds in columns ----------------------------------------------------------------------


def without_decoding(loaded: Any) -> Any:
    """The data set (of `datasets`) with such columns as they are stored: a path and bytes."""
    for name, feature in (getattr(loaded, "features", None) or {}).items():
        if (stored := _stored(feature)) != feature:
            loaded = loaded.cast_column(name, stored)
    return loaded


def _stored(feature: Any) -> Any:
    if isinstance(feature, dict):
        return type(feature)({name: _stored(part) for name, part in feature.items()})
    if isinstance(feature, (list, tuple)):
        return [_stored(part) for part in feature]
    if hasattr(feature, "feature"):  # a list of them
        return replace(feature, feature=_stored(feature.feature))
    is_media = hasattr(feature, "decode") and type(feature).__name__ != "Json"  # JSON is text, and wants to be read
    return replace(feature, decode=False) if is_media else feature
