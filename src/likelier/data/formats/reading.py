"""A file's rows as records: its layout recognised, its codings found, every row that cannot be used accounted for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from likelier.data.columns import Columns
from likelier.data.formats.codings import (
    Coding,
    Key,
    Reading,
    find_label_coding,
    find_winner_coding,
    key_of,
    label_coding,
    threshold_coding,
    winner_coding,
)
from likelier.data.formats.content import Row, Unfit, as_list
from likelier.data.formats.extras import with_extras
from likelier.data.formats.layouts import FORMATS, Format
from likelier.data.formats.mapping import PRESETS, ColumnMap, merged, preset_of
from likelier.data.sources import NamedRows
from likelier.errors import ConfigError, DataError
from likelier.records import (
    Content,
    Record,
    Source,
    TokenIds,
    Unusable,
    UnusableRows,
    answer_text,
    answers_of,
    content_key,
    spoken_key,
)


@dataclass
class Converted:
    """Records of one file, the rows left out, the layout's name, columns that were present but not read, and notes."""

    records: list[Record]
    unusable: UnusableRows
    format: str
    unread_columns: list[str]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Recognised:
    """A layout, what the file calls it, and the map that brings its rows to it."""

    layout: Format
    name: str
    map: ColumnMap


def recognise(source: Source, row: Row, columns: Columns | None = None) -> Recognised:
    """The layout of a file from its first row and the column map.

    Raises `DataError` showing columns, the row and the known layouts, or `ConfigError` for a part of the map without
    effect.
    """
    own = columns or Columns()
    found = _recognise_as(source, row, own)
    preset = preset_of(row)
    if found is None and preset is not None:
        full = merged(preset.of(row), own)
        found = _recognise_as(source, row, full, preset.name)
    if found is None:
        raise DataError(_unknown(source, row, own))
    inert = own.given.keys() - own.roles.keys() - found.layout.settings
    if inert:
        name = min(inert)
        raise ConfigError(f"columns: {name} has no effect on '{found.name}' ({source}); drop it")
    return found


def _recognise_as(source: Source, row: Row, columns: Columns, name: str = "") -> Recognised | None:
    mapping = ColumnMap(columns)
    try:
        mapped = mapping.row(row, source)
    except Unfit:  # the first row may have no prompt and yet show its layout
        mapped = {**row, **dict.fromkeys(columns.roles, "")}
    for layout in FORMATS:
        if layout.fits(mapped) and columns.roles.keys() <= layout.readable:
            return Recognised(layout, name or layout.name, mapping)
    return None


def _unknown(source: Source, row: Row, columns: Columns) -> str:
    known = "\n".join(f"  {layout.name}: {layout.example}" for layout in (*FORMATS, *PRESETS))
    mapped = f" With the column map {columns.given} they make no known layout." if columns.roles else ""
    return (
        f"{source}: {_what_is_missing(row)}.{mapped}\nThe row: {_shown(row)}\nKnown formats:\n{known}\n"
        "Rename the columns, or say with columns which of them is what (as flags: --columns prompt=question "
        "chosen=good rejected=bad; see docs/data.md)"
    )


def _what_is_missing(row: Row) -> str:
    columns = f"the columns are {sorted(row.keys())}"
    if {"chosen", "rejected"} <= row.keys():
        kind = "plain text" if isinstance(row["chosen"], str) else "no list of messages"
        return (
            f"{columns}, without a prompt, and chosen is {kind}: a prompt is never guessed inside a text. "
            "Add a prompt column"
        )
    incomplete = [layout for layout in FORMATS if layout.columns - row.keys()]
    nearest = min(incomplete, key=lambda layout: (len(layout.columns - row.keys()), -len(layout.columns)))
    missing = sorted(nearest.columns - row.keys())
    if 0 < len(missing) < len(nearest.columns):
        return f"{columns}; for '{nearest.name}' the column {', '.join(missing)} is missing"
    return f"{columns}: not a format known here"


def _shown(row: Row, limit: int = 300) -> str:
    cells = {key: (value if len(repr(value)) <= 60 else repr(value)[:57] + "...") for key, value in row.items()}
    text = repr(cells)
    return text if len(text) <= limit else text[: limit - 3] + "..."


# --- the meaning of coded values -----------------------------------------------------------------------------------


def _given_coding(layout: Format, columns: Columns) -> Coding | None:
    if layout.coded == "label":
        if columns.threshold is not None:
            return threshold_coding(columns.threshold)
        return None if columns.label_coding is None else label_coding(columns.label_coding)
    return None if columns.winner_coding is None else winner_coding(columns.winner_coding)


def _is_coded(layout: Format, columns: Columns) -> bool:
    """Whether the meaning of a column has to be known. A column that is called label is true or false by itself."""
    return layout.coded is not None and (layout.coded != "label" or bool(columns.roles.keys() & {"label"}))


def _values(rows: Iterable[Any], column: str) -> Counter[Key]:
    found: Counter[Key] = Counter()
    for _, row in rows:
        found.update(key for value in as_list(row.get(column)) if (key := key_of(value)) is not None)
    return found


# --- rows to records -----------------------------------------------------------------------------------------------


class _Account:
    """What is known of a file while its rows pass by."""

    def __init__(self, found: Recognised) -> None:
        self.found, self.rows = found, 0
        self.columns: set[str] = set()
        self.unusable = UnusableRows()

    def mapped(self, rows: Iterable[tuple[Source, Row]]) -> Iterator[tuple[Source, Row]]:
        """The rows under the layout's column names; one that misses a column raises `DataError`."""
        layout, mapping = self.found.layout, self.found.map
        for source, row in rows:
            self.rows += 1
            self.columns.update(row)
            try:
                named = mapping.row(row, source)
            except Unfit as unfit:
                self.unusable.add(Unusable(source, unfit.reason, unfit.detail))
                continue
            missing = layout.columns - named.keys()
            if missing:
                raise DataError(
                    f"{source}: the column {', '.join(sorted(missing))} is missing; row 1 was read as "
                    f"'{self.found.name}', this row has {sorted(row.keys())}. Add it, or take the row out"
                )
            yield source, named

    def unread(self) -> list[str]:
        """Columns that nothing read."""
        read = self.found.layout.read | self.found.map.used
        for pair in (("score_chosen", "score_rejected"), ("score_first", "score_second")):
            if not set(pair) <= self.columns | self.found.map.columns.roles.keys():
                read -= set(pair)  # half a pair of scores says nothing
        return sorted(self.columns - read)


def convert(named: NamedRows, columns: Columns | None = None) -> Converted:
    """Turn rows into records by their layout, with a column map where the file needs one.

    Rows that cannot be used are counted by reason; missing columns, values without a meaning and values nested too
    deeply raise `DataError`.
    """
    try:
        return _converted(named, columns)
    except RecursionError as error:
        raise DataError(f"{named.name}: a value is nested too deeply to be read; flatten it") from error


def _converted(named: NamedRows, columns: Columns | None) -> Converted:
    rows = iter(named.rows)
    first = next(rows, None)
    if first is None:
        raise DataError(f"{named.name} holds no rows; give a file with at least one preference")
    found = recognise(*first, columns)
    account = _Account(found)
    places = account.mapped(chain([first], rows))
    reading, places = _prepared(found, places, named.name)
    if found.layout.expand is not None:
        places = found.layout.expand(places)
    records = list(_records(found.layout, places, reading, account.unusable))
    if not records:
        raise DataError(_nothing(named.name, account))
    notes = [f"{found.layout.coded}: {reading.coding.words}"] if reading.coding is not None else []
    return Converted(records, account.unusable, found.name, account.unread(), notes)


def _nothing(name: str, account: _Account) -> str:
    if account.unusable.rows:
        summary, first = account.unusable.summary(), account.unusable.rows[0]
        return f"{name}: none of the {account.rows} rows can be used:\n{summary}\nThe first is {first}"
    return f"{name}: read as '{account.found.name}', none of the {account.rows} rows prefers one answer to another"


def _prepared(
    found: Recognised, places: Iterator[tuple[Source, Row]], name: str
) -> tuple[Reading, Iterator[tuple[Source, Row]]]:
    """What is to be known before the first row is converted; to find a coding, all rows are looked at."""
    layout, columns = found.layout, found.map.columns
    coding = _given_coding(layout, columns) if layout.coded else None
    if coding is None and _is_coded(layout, columns):
        kept = list(places)
        values = _values(kept, str(layout.coded))
        coding = find_label_coding(values, name) if layout.coded == "label" else find_winner_coding(values, name)
        places = iter(kept)
    return Reading(columns, coding), places


def _records(
    layout: Format, places: Iterable[tuple[Source, Row]], reading: Reading, unusable: UnusableRows
) -> Iterator[Record]:
    for source, row in places:
        try:
            for record in layout.convert(row, source, reading):
                if isinstance(record, Unusable):
                    unusable.add(record)
                else:
                    yield from _checked(with_extras(row, record), unusable)
        except Unfit as unfit:
            unusable.add(Unusable(source, unfit.reason, unfit.detail))


def _checked(record: Record, unusable: UnusableRows) -> Iterator[Record]:
    try:
        check_answers(record)
    except Unfit as unfit:
        unusable.add(Unusable(record.source, unfit.reason, unfit.detail, record))
    else:
        yield record


def check_answers(record: Record) -> None:
    """Raise `Unfit` for an empty answer, a pair whose two answers are the same, or text that is no Unicode."""
    answers = answers_of(record)
    for content in (record.prompt, *answers):
        _check_unicode(content)
    for answer in answers:
        if _is_empty(answer):
            raise Unfit("empty-answer")
    if len(answers) == 2 and spoken_key(answers[0]) == spoken_key(answers[1]):
        raise Unfit("identical-answers")


def _is_empty(answer: Content) -> bool:
    if isinstance(answer, TokenIds):
        return not answer.ids
    if isinstance(answer, tuple) and any(message.tool_calls for message in answer):
        return False
    return not (answer_text(answer) or "").strip()


def _check_unicode(content: Content) -> None:
    """JSON can escape half a surrogate pair (an emoji that was cut in two); no tokenizer takes that."""
    try:
        content_key(content).encode()
    except UnicodeEncodeError as error:
        raise Unfit("not-unicode", f"half a surrogate pair, {error.object[error.start]!a}") from error
