"""Pictures and sounds in `datasets` columns stay references: decoding one would fetch the address that a row names."""

from __future__ import annotations

from dataclasses import replace
from typing import Any


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
