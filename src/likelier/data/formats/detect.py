"""A file's rows as records: its layout recognised, its codings found, every row that cannot be used accounted for."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain, islice

from likelier.data.columns import Columns
from likelier.data.formats.account import Account, holds_nothing
from likelier.data.formats.annotations import with_extras
from likelier.data.formats.codings import (
    Coding,
    Key,
    Reading,
    key_of,
    label_coding,
    scale_coding,
    threshold_coding,
    winner_coding,
)
from likelier.data.formats.guesses import TRIED_ON, guessed
from likelier.data.formats.layouts import FORMATS, Format
from likelier.data.formats.mapping import Preset
from likelier.data.formats.meanings import understood
from likelier.data.formats.messages import Row, Unfit, as_list
from likelier.data.formats.questions import directed, question
from likelier.data.formats.recognised import Recognised, UnknownLayout, recognise
from likelier.data.formats.unknown import unknown_layout, unknown_turns
from likelier.data.formats.words import answers_in_words, shown
from likelier.data.records import (
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
from likelier.data.sources import NamedRows
from likelier.utils.errors import DataError


@dataclass
class Converted:
    """Records of one file, the rows left out, the layout's name, columns that were present but not read, and notes.

    `example` is the first row in words where values or a known data set's columns say who won; else empty. `made_turns`
    says whether `chat=true` made a turn of any text (see `load.ChatMaps`).
    """

    records: Sequence[Record]
    unusable: UnusableRows
    format: str
    unread_columns: list[str]
    notes: list[str] = field(default_factory=list)
    example: str = ""
    made_turns: bool = False


# --- the meaning of coded values -----------------------------------------------------------------------------------


def _given_coding(layout: Format, columns: Columns) -> Coding | None:
    if layout.coded == "label":
        if columns.threshold is not None:
            return threshold_coding(columns.threshold)
        return None if columns.label_coding is None else label_coding(columns.label_coding)
    if columns.scale is not None and layout.coded == "winner":
        return scale_coding(columns.scale)
    return None if columns.winner_coding is None else winner_coding(columns.winner_coding)


def _values(rows: Iterable[tuple[Source, Row]], column: str) -> Counter[Key]:
    found: Counter[Key] = Counter()
    for _, row in rows:
        one = column == "label" and not {"messages", "conversations", "answers"} & row.keys()
        values = [row.get(column)] if one else as_list(row.get(column))
        found.update(key for value in values if (key := key_of(value)) is not None)
    return found


def _holds(coding: Coding, values: Iterable[Key], preset: Preset) -> bool:
    """Whether a file's values are those of the known data set that its columns are of."""
    return set(values) >= preset.seen and all(coding.meaning(value) is not None for value in values)


# --- rows to records -----------------------------------------------------------------------------------------------


def check_answers(record: Record) -> None:
    """Raise `Unfit` for an empty answer, a pair whose two answers are the same, or text that is no Unicode."""
    answers = answers_of(record)
    for content in (record.prompt, *answers):
        check_unicode(content)
    for answer in answers:
        if _is_empty(answer):
            raise Unfit("empty-answer", _held_besides(answer))
    if len(answers) == 2 and spoken_key(answers[0]) == spoken_key(answers[1]):
        raise Unfit("identical-answers")


def convert(
    named: NamedRows,
    columns: Columns | None = None,
    layouts: Sequence[Format] = FORMATS,
    check: Callable[[Record], None] = check_answers,
    collect: Callable[[Iterator[Record]], Sequence[Record]] = list,
) -> Converted:
    """Turn rows into records by their layout, one of `layouts`, with a column map where the file needs one; `collect`
    takes them up as they come.

    Rows that cannot be used, those for which `check` raises `Unfit` among them, are counted by reason; missing columns,
    values without a meaning and values nested too deeply raise `DataError`.
    """
    try:
        return _converted(named, columns, layouts, check, collect)
    except RecursionError as error:
        raise DataError(f"{named.name}: a value is nested too deeply to be read; flatten it") from error


def _converted(
    named: NamedRows,
    columns: Columns | None,
    layouts: Sequence[Format],
    check: Callable[[Record], None],
    collect: Callable[[Iterator[Record]], Sequence[Record]],
) -> Converted:
    rows = iter(named.rows)
    begin = _begin(rows)
    if not begin:
        raise DataError(f"{named.name} holds no rows; give a file with at least one")
    first = begin[-1]
    try:
        found = recognise(*first, columns, layouts)
    except UnknownLayout:
        with suppress(DataError):  # of a broken row; what is to be told is another thing
            begin.extend(islice(rows, TRIED_ON - 1))
        guesses = guessed(begin, columns or Columns(), layouts, _Trial(named.name, first, begin, layouts, check))
        raise DataError(unknown_layout(*first, columns or Columns(), layouts, guesses)) from None
    return _read(found, replace(named, rows=chain(begin, rows)), columns, check, collect)


def _begin(rows: Iterator[tuple[Source, Row]]) -> list[tuple[Source, Row]]:
    """The rows up to the first that has a value, by which the file is recognised."""
    found: list[tuple[Source, Row]] = []
    for source, row in rows:
        found.append((source, row))
        if not holds_nothing(row):
            break
    return found


@dataclass(frozen=True)
class _Trial:
    """The first rows of a file, on which column maps are tried."""

    name: str
    first: tuple[Source, Row]
    rows: Sequence[tuple[Source, Row]]
    layouts: Sequence[Format]
    check: Callable[[Record], None]

    def __call__(self, columns: Columns) -> str:
        """What the rows become by a map, in words. Raises `DataError` where less than half of them become anything."""
        found = recognise(*self.first, columns, self.layouts)
        made = _read(found, NamedRows(self.name, self.rows), columns, self.check)
        left_out = len({row.source for row in made.unusable})
        if 2 * left_out > len(self.rows):
            raise DataError(f"{left_out} of {len(self.rows)} rows are left out")
        example = made.example or answers_in_words(made.records[0])
        return f"read as '{made.format}'" + (f"; {example}" if example else "")


def _read(
    found: Recognised,
    named: NamedRows,
    columns: Columns | None,
    check: Callable[[Record], None],
    collect: Callable[[Iterator[Record]], Sequence[Record]] = list,
) -> Converted:
    account = Account(found)
    places = account.mapped(named.rows)
    reading, places = _prepared(found, places, named.name, columns or Columns())
    if found.layout.expand is not None:
        places = found.layout.expand(places)
    if found.layout.settings & {"ranks_best", "scores_best"}:
        places = directed(places, found.layout, reading.columns, named.name)
    records = collect(_records(found.layout, places, reading, account, check))
    account.unusable.extend(Unusable(place, "blank-row") for place in named.blank)
    if not records:
        raise DataError(_nothing(named.name, account))
    if mixture := account.mixture():
        raise DataError(
            f"{named.name}: {mixture}: text goes to the model as it is, messages through its chat template. Write all "
            "rows in one way, or keep all texts as they are with chat=false (as a flag: --columns chat=false)"
        )
    return Converted(
        records,
        account.unusable,
        found.name,
        account.unread(),
        _notes(found, reading, account),
        account.example or "",
        found.map.made_turns,
    )


def _notes(found: Recognised, reading: Reading, account: Account) -> list[str]:
    """What columns and values were taken to mean."""
    constants = found.map.constants.items()
    said = [f"{role}: the same in every row, {shown(text)}" for role, text in constants]
    partly = [(name, count) for name, count in account.ignored.items() if account.kept[name]]
    notes = said + [f"{name}: of no use in {count} rows ({_PLACELESS[name]})" for name, count in partly]
    if {str, tuple} <= account.prompts.keys():
        places = " and ".join(map(str, account.prompts.values()))
        notes.append(f"some prompts are text, which goes past the chat template, and some are messages ({places})")
    if account.talks:
        notes.append("system: the column makes every row a conversation, for the chat template")
    return notes + _meanings(found, reading, account)


_PLACELESS = {"tools": "text goes past the chat template", "votes": "no list of three counts"}


def _meanings(found: Recognised, reading: Reading, account: Account) -> list[str]:
    if reading.coding is not None:
        return [f"{found.layout.coded}: {reading.coding.words}"]
    columns, said = reading.columns, {"ranks": "rank", "scores": "score"}.get(account.ranked_by)
    best = columns.ranks_best if said == "rank" else columns.scores_best or "largest"
    if said is None or best is None:
        return []
    meaning = "the answers' numbers, the best first" if best == "order" else f"the {best} {said} is the best"
    return [f"{account.ranked_by}: {meaning}"]


def _nothing(name: str, account: Account) -> str:
    if account.unusable:
        summary, first = account.unusable.summary(), account.unusable[0]
        hint = unknown_turns(account.unusable)
        return f"{name}: none of the {account.rows} rows can be used:\n{summary}\nThe first is {first}{hint}"
    return f"{name}: read as '{account.found.name}', none of the {account.rows} rows prefers one answer to another"


def _prepared(
    found: Recognised, places: Iterator[tuple[Source, Row]], name: str, own: Columns
) -> tuple[Reading, Iterator[tuple[Source, Row]]]:
    """What is to be known before the first row is converted; to find a coding, all rows are looked at."""
    layout, columns = found.layout, found.map.columns
    coding = _given_coding(layout, columns) if layout.coded else None
    assumed = coding is not None and found.preset is not None and _given_coding(layout, own) is None
    if layout.coded and (coding is None or assumed):
        kept = list(places)
        values = _values(kept, layout.coded)
        if coding is None or not _holds(coding, values, found.preset):  # type: ignore[arg-type]
            coding = None if columns.share else understood(layout.coded, values, columns)
        if coding is None:
            raise question(layout, kept, values, columns, name)
        places = iter(kept)
    return Reading(columns, coding), places


def _records(
    layout: Format,
    places: Iterable[tuple[Source, Row]],
    reading: Reading,
    account: Account,
    check: Callable[[Record], None],
) -> Iterator[Record]:
    unusable = account.unusable
    for source, row in places:
        try:
            for record in layout.convert(row, source, reading):
                if isinstance(record, Unusable):
                    unusable.append(record)
                    continue
                for good in _checked(with_extras(row, record, layout.read), unusable, check):
                    account.first(row, good, reading)
                    account.note(row, good)
                    yield good
        except Unfit as unfit:
            unusable.append(Unusable(source, unfit.reason, unfit.detail))


def _checked(record: Record, unusable: UnusableRows, check: Callable[[Record], None]) -> Iterator[Record]:
    try:
        check(record)
    except Unfit as unfit:
        unusable.append(Unusable(record.source, unfit.reason, unfit.detail, record))
    else:
        yield record


def _is_empty(answer: Content) -> bool:
    if isinstance(answer, TokenIds):
        return not answer.ids
    if isinstance(answer, tuple):  # each turn that the model is to write must be some text, or a call of tools
        own = (one for one in answer if one.role == "assistant")
        return any(not one.tool_calls and not one.content.strip() for one in own)
    return not (answer_text(answer) or "").strip()


def _held_besides(answer: Content) -> str:
    """What an answer without a text holds all the same, in words: nothing of it would be trained on."""
    fields = (one.fields for one in answer if one.fields) if isinstance(answer, tuple) else ()
    names = sorted({name for one in fields for name in json.loads(one)})
    return f"a turn without text or tool_calls, but with {', '.join(names)}" if names else ""


def check_unicode(content: Content) -> None:
    """JSON can escape half a surrogate pair (an emoji that was cut in two); no tokenizer takes that."""
    try:
        content_key(content).encode()
    except UnicodeEncodeError as error:
        raise Unfit("not-unicode", f"half a surrogate pair, {error.object[error.start]!a}") from error
