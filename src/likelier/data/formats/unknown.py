"""A file of no known layout: what is missing, and a script for what no column map can describe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from likelier.data.columns import Columns
from likelier.data.formats.guesses import Guess
from likelier.data.formats.layouts import FORMATS, Format
from likelier.data.formats.mapping import PRESETS
from likelier.data.formats.messages import Row, is_answer
from likelier.data.json_paths import lists_of_objects
from likelier.data.records import Source, Unusable
from likelier.utils.shell import quoted, typed_with, was_typed

_FRAME = """\
Where a prompt stands inside a text, or a judgement follows from several columns, a script makes rows of your own:
  import json
  from likelier.data.sources import read_rows

  with open("pairs.jsonl", "w", encoding="utf-8") as out:
      for place, row in read_rows({file!r}).rows:  # row has {names}
{body}
          print(json.dumps({{"prompt": prompt, "chosen": chosen, "rejected": rejected}}), file=out)"""

_INSIDE = """\
          prompt, mark, chosen = row["chosen"].partition("\\nAnswer: ")  # what stands before the answer
          rejected = row["rejected"].removeprefix(prompt + mark)"""


def unknown_layout(
    source: Source, row: Row, columns: Columns, layouts: Sequence[Format], guesses: Sequence[Guess]
) -> str:
    """What to say of a file of no known layout: its columns, the row, what to do, and the layouts that there are."""
    known = "\n".join(f"  {one.name}: {one.example}" for one in (*layouts, *PRESETS))
    mapped = f" With the column map {columns.given} they make no known layout." if columns.roles else ""
    inside = _rows_inside(source, row, columns)
    script = "" if inside or guesses else script_for(source, row, columns)
    mends = [inside, _guessed(guesses, columns) if guesses else _HOW, _OR_RENAME, known, script]
    head = f"{source}: {_what_is_missing(row)}.{mapped}\nThe row: {_shown(row)}\n"
    return head + "\n".join(mend for mend in mends if mend)


_OR_RENAME = "Or rename the columns, as one of the known layouts has them:"
_ONE_GUESS = "A guess from their names, tried on the file"
_NAMED = 20  # columns that are named

_HOW = (
    "Say with columns which of them is what (as flags: --columns prompt=question chosen=good rejected=bad; see "
    "docs/data.md). Texts that answer one and the same request get it as a constant: --columns "
    "'prompt=\"Write a review.\"' completion=text"
)


def _guessed(guesses: Sequence[Guess], columns: Columns) -> str:
    """The maps that were found to hold, as commands where one is being carried out."""
    lines = [f"  {_to_paste(guess, columns)}\n    {guess.told}" for guess in guesses]
    what = "Guesses from their names, tried on the file, of which one may be meant" if len(guesses) > 1 else _ONE_GUESS
    return f"Say with columns which of them is what (see docs/data.md). {what}:\n" + "\n".join(lines)


def _to_paste(guess: Guess, columns: Columns) -> str:
    """The command with the words of a guess; the flags alone where it is not known, or the map was not typed in it."""
    if (not columns.given or was_typed("--columns")) and (command := typed_with("--columns", *guess.words)):
        return command
    return "--columns " + " ".join(map(quoted, guess.words))


def _rows_inside(source: Source, row: Row, columns: Columns) -> str:
    """What to say of a JSON file that is one object with lists in it, which may be its rows; else empty."""
    lists = lists_of_objects(row) if ".json" in Path(source.file).suffixes[-2:] else []
    if source.number != 1 or not lists or columns.records is not None:
        return ""
    told = ", ".join(f"{path} ({count} objects)" for path, count in lists)
    return f"If its rows stand in a list inside, {told}, name it: --columns records={lists[0][0]}"


def unknown_turns(unusable: Sequence[Unusable]) -> str:
    """How a column map says who speaks in messages and what, where rows cannot be used for that; else empty."""
    roles = dict.fromkeys(row.detail for row in unusable if row.reason == "unknown-role")
    if not roles and not any("has neither content nor value" in row.detail for row in unusable):
        return ""
    said = f"\nThe messages say who speaks by {', '.join(list(roles)[:5])}." if roles else ""
    return (
        f"{said}\nWhich field of a message says who speaks and which what is said, and what the user and the assistant "
        "are called there, is said under columns (as flags: --columns messages=turns role=turns.who text=turns.said "
        "role_coding=customer/agent; see docs/data.md)"
    )


def _what_is_missing(row: Row) -> str:
    names = sorted(map(str, row))
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    columns = f"the columns are {names[:_NAMED]}{more}"
    if {"chosen", "rejected"} <= row.keys():
        kind = "the assistant's turn alone" if is_answer(row["chosen"]) else "no list of messages"
        kind = "plain text" if isinstance(row["chosen"], str) else kind
        return (
            f"{columns}, without a prompt, and chosen is {kind}: a prompt is never guessed inside a text. "
            'Add a prompt column, or give one for every row (as a flag: --columns prompt="Write a review.")'
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


def script_for(source: Source, row: Row, columns: Columns) -> str:
    """About ten lines that read the file and write pairs, where a column map was tried or a prompt may stand inside the
    answers; empty for rows in memory, which their owner has made.
    """
    inside = {"chosen", "rejected"} <= row.keys() and "prompt" not in row and isinstance(row["chosen"], str)
    if not (columns.roles or inside) or not Path(source.file).exists():
        return ""
    names = [name for role in ("prompt", "chosen", "rejected") if isinstance(name := columns.roles.get(role), str)]
    texts = [name for name in row if isinstance(row[name], str) and name not in names]
    taken = [*(name for name in names if name in row), *texts, *row, "...", "...", "..."][:3]
    body = (
        _INSIDE if inside else "          prompt, chosen, rejected = " + ", ".join(f"row[{name!r}]" for name in taken)
    )
    return _FRAME.format(file=source.file, names=", ".join(map(str, row)), body=body)
