"""The layout of a file, from its first row and a column map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from likelier.data.columns import Columns
from likelier.data.formats.layouts import FORMATS, Format
from likelier.data.formats.mapping import ColumnMap, Preset, layout_roles, merged, preset_of
from likelier.data.formats.messages import Row
from likelier.data.records import Source
from likelier.utils.errors import ConfigError, DataError


class UnknownLayout(DataError):
    """A file of no known layout."""


@dataclass(frozen=True)
class Recognised:
    """A layout, what the file calls it, the map that brings its rows to it, and the known data set whose map it is."""

    layout: Format
    name: str
    map: ColumnMap
    preset: Preset | None = None


def recognise(
    source: Source, row: Row, columns: Columns | None = None, layouts: Sequence[Format] = FORMATS
) -> Recognised:
    """The layout of a file, one of `layouts`, from its first row and the column map.

    Raises `UnknownLayout` where there is none, or `ConfigError` for a part of the map without effect.
    """
    own = columns or Columns()
    found = _recognise_as(source, row, own, layouts)
    preset = preset_of(row)
    if found is None and preset is not None:
        full = merged(preset.of(row), own)
        found = _recognise_as(source, row, full, layouts, preset)
    if found is None:
        raise UnknownLayout(f"{source}: the columns {sorted(map(str, row))} are of no known layout")
    inert = own.settings - found.layout.settings - ({"chat"} if own.chat else set())  # see `load.ChatMaps`
    if own.role_coding is not None and not found.map.turns.concern(found.map.shape(row, source)):
        inert |= {"role_coding"}
    if own.chat is False and own.system is not None:
        raise ConfigError(
            "columns: system makes conversations and chat=false keeps texts as they are; drop one of them"
        )
    if inert:
        name = min(inert)
        raise ConfigError(f"columns: {name} has no effect on '{found.name}' ({source}); drop it")
    return found


def _recognise_as(
    source: Source, row: Row, columns: Columns, layouts: Sequence[Format], preset: Preset | None = None
) -> Recognised | None:
    mapping = ColumnMap(columns, row)
    mapped = mapping.shape(row, source)
    for layout in layouts:
        if layout.fits(mapped) and layout_roles(mapping.columns) <= layout.read:
            return Recognised(layout, preset.name if preset else layout.name, mapping, preset)
    return None
