"""Values that can mean several things: the question, with what one row of the file says by each of its readings."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, TypeAlias

from likelier.data.columns import Columns
from likelier.data.formats.codings import Coding, Key, Reading, key_of
from likelier.data.formats.layouts import Format
from likelier.data.formats.meanings import (
    Choice,
    Coded,
    choices,
    is_plain_label,
    proposed_shares,
    scale_choices,
    understood,
)
from likelier.data.formats.messages import Row, Unfit, as_list
from likelier.data.formats.words import both_quoted, called, place, quoted, ranked_names, share_of, verdict, with_name
from likelier.data.records import Pair, Record, Source, Unusable
from likelier.utils.errors import DataError

Placed: TypeAlias = "tuple[Source, Row]"


class OpenQuestion(DataError):
    """What values mean is open; each of `settings` is an answer, as a word of a column map (`ranks_best=order`)."""

    def __init__(self, message: str, settings: Sequence[str]) -> None:
        super().__init__(message)
        self.settings = tuple(settings)


_LOOKED_AT = 200  # rows of rankings among which one is looked for on which the readings differ most

# --- coded values --------------------------------------------------------------------------------------------------

_HOW = {
    "winner": "Say which: winner_coding under columns is the values that mean the first answer, the second and a tie, "
    "in this order (1/2/0), or share, share-second, positive-first or negative-first. As a flag: --columns "
    "winner_coding=1/0. For soft labels out of a scale: --columns scale=1..5 (wholly the first answer .. the second)",
    "share": "Say which: scale under columns is the number that is wholly for the first answer, two dots, and the one "
    "that is wholly for the second, also where the file does not reach them. As a flag: --columns scale=1..5",
    "judgements": "Say which: winner_coding under columns is the values that mean the first of two answers, the second "
    "and a tie, in this order. As a flag: --columns winner_coding=1/2/0",
    "label": "Say which, under columns: threshold (numbers are good from it on), or label_coding (the values that mean "
    "good, bad and neither, in this order, such as up/down or 4|5/1|2/3). As a flag: --columns threshold=4, --columns "
    "label_coding=good/bad",
}


@dataclass(frozen=True)
class _Example:
    """A row as if its first answer had won, the values that judge it, and what its answers are called."""

    record: Record
    values: list[Any]
    names: tuple[str, str]


def question(layout: Format, rows: Sequence[Placed], values: Counter[Key], columns: Columns, name: str) -> DataError:
    """The error that asks what coded values mean: the values, the readings that there are, and one row by each."""
    coded = layout.coded
    assert coded is not None
    given = columns.share or getattr(columns, coded)
    column = f" (column {given if isinstance(given, str) else ', '.join(given)})" if given not in (None, coded) else ""
    if not values:
        return DataError(f"{name}: no row has a {coded.removesuffix('s')}{column}; name the column that holds it")
    found = scale_choices(values) if columns.share else choices(coded, values)
    odd = _odd_label(rows) if coded == "label" and not column else ""
    head = f"{odd or name}: the {coded.removesuffix('s')}{column} is {_counted(values)}, which can mean several things"
    silent = _silent(coded, values, columns)
    how = f"{silent and _NO_VERDICT.format(flag=shlex.quote(silent))}{_how(coded, values, columns)}"
    return OpenQuestion(
        f"{head}.{_by_example(_example(layout, rows, found, columns), found)}\n{how}",
        [*([silent] if silent else []), *(choice.setting for choice in found)],
    )


_NO_VERDICT = "Where the others are all that judge, leave the rows of these out: --columns {flag}\n"


def _silent(coded: Coded, values: Iterable[Key], columns: Columns) -> str:
    """The setting that takes out the values that mean nothing by themselves, where the others mean one thing."""
    odd = [value for value in values if understood(coded, [value], columns) is None]
    others = set(values) - set(odd)
    is_mend = (
        odd
        and all(isinstance(one, str) for one in odd)
        and not columns.share
        and understood(coded, others, columns) is not None
    )
    texts = [str(value) for value in odd]
    return f"no_verdict={','.join(texts)}" if is_mend and not any("," in text for text in texts) else ""


def _how(coded: str, values: Counter[Key], columns: Columns) -> str:
    """How to say what is meant; words of strength as a coding to be corrected."""
    shares = proposed_shares(values) if coded != "label" and not columns.share else ""
    if not shares:
        return _HOW["share" if columns.share else coded]
    flag = shlex.quote(f"winner_coding={shares}")
    return (
        "Say which: winner_coding under columns gives each value the share of the first answer that it stands for, "
        f"from 0 to 1, which soft labels take. As a flag, with numbers of your own: --columns {flag}"
    )


def _counted(values: Counter[Key], limit: int = 8) -> str:
    more = f" and {len(values) - limit} more" if len(values) > limit else ""
    return ", ".join(f"{_short(key)} ({count} times)" for key, count in values.most_common(limit)) + more


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _odd_label(rows: Iterable[Placed]) -> str:
    """The first row whose label is none of those that need no word, if there is one."""
    for source, row in rows:
        key, value = key_of(row["label"]), row["label"]
        if key is not None and not is_plain_label(key):
            return (
                f"{source}: label is {_short(value)} ({type(value).__name__}); a label must be true (desirable) or "
                "false (undesirable), 1 or 0, or yes or no. In this file"
            )
    return ""


def _by_example(example: _Example | None, found: Sequence[Choice]) -> str:
    """The readings, each with what the example says by it."""
    if example is None:
        return "".join(f"\n  reading {number}: {shlex.quote(choice.setting)}" for number, choice in enumerate(found, 1))
    where = place(example.record.source)
    if not found:
        return f" In {where} it is {', '.join(map(_short, example.values))} for {_answers(example)}."
    lines = (
        f"\n  reading {number} ({shlex.quote(choice.setting)}): {where}: "
        + verdict(example.record, share_of(example.values, choice.coding), example.names)
        for number, choice in enumerate(found, 1)
    )
    return "".join(lines)


def _answers(example: _Example) -> str:
    record = example.record
    if not isinstance(record, Pair):
        return f"the answer {quoted(record.answer)}"
    return " and ".join(map(with_name, example.names, both_quoted(record)))


def _example(layout: Format, rows: Iterable[Placed], found: Sequence[Choice], columns: Columns) -> _Example | None:
    """The first row on which the readings differ as much as they do on any."""
    best, most = None, -1
    for example in (one for source, row in rows for one in _examples(layout, row, source, columns)):
        differing = len({share_of(example.values, choice.coding) for choice in found})
        if differing > most:
            best, most = example, differing
        if differing == len(found):
            break
    return best


_FIRST_WINS = Coding("the first answer wins", lambda key: 1.0)


def _examples(layout: Format, row: Row, source: Source, columns: Columns) -> Iterator[_Example]:
    """What a row compares: one thing, or with judgements each two of its answers."""
    values = as_list(row[str(layout.coded)])
    if all(key_of(value) is None for value in values):
        return
    try:
        records = list(layout.convert(row, source, Reading(columns, _FIRST_WINS)))
    except Unfit:
        return
    of_two = layout.coded == "judgements"
    for record, own in zip(records, [[value] for value in values] if of_two else [values], strict=False):
        if isinstance(record, Unusable):
            continue
        if isinstance(record, Pair) and of_two:
            yield _Example(record, own, ranked_names(row, record))
        else:
            yield _Example(record, own, called(layout, columns))


# --- which end of a ranking is the best ----------------------------------------------------------------------------

_DIRECTIONS = {"ranks_best": ("smallest", "largest", "order"), "scores_best": ("largest", "smallest")}
_HOW_DIRECTED = {
    "ranks_best": "Say which: ranks_best under columns is smallest, largest, or order (no ranks, but the answers' "
    "numbers, the best first). As a flag: --columns ranks_best=smallest",
    "scores_best": "Say which: scores_best under columns is largest or smallest. As a flag: --columns "
    "scores_best=smallest",
}
_SMALL_IS_GOOD = re.compile(
    r"loss|losses|nll|ppl|perplexity|perplexities|error|errors|cost|costs|penalty|penalties|distance|distances|"
    r"toxicity|toxic|harm|harmfulness|risk|wer|cer|violations|rank|ranks"
)


def directed(rows: Iterable[Placed], layout: Format, columns: Columns, name: str) -> Iterator[Placed]:
    """The rows of rankings, until one is met that says something else if the other end of its ranks or scores is the
    best, and nothing says which is: then `DataError`.
    """
    places = iter(rows)
    for source, row in places:
        setting = _open_setting(row, columns)
        if setting is not None and len(set(_verdicts(layout, source, row, columns, setting))) > 1:
            raise _direction_question(layout, [(source, row), *islice(places, _LOOKED_AT)], columns, setting, name)
        yield source, row


def _open_setting(row: Row, columns: Columns) -> str | None:
    """The setting that has to be given. The largest score is the best, unless its name says that it counts faults."""
    if row.get("ranks") is not None:
        return "ranks_best" if columns.ranks_best is None else None
    if columns.scores_best is not None:
        return None
    named = [name for given in (columns.scores, columns.score) if given for name in _each(given)]
    parts = [part for name in named for part in re.findall(r"[a-z]+", name.lower())]
    return "scores_best" if any(map(_SMALL_IS_GOOD.fullmatch, parts)) else None


def _each(given: str | Sequence[str]) -> Sequence[str]:
    return (given,) if isinstance(given, str) else given


def _verdicts(layout: Format, source: Source, row: Row, columns: Columns, setting: str) -> list[str | None]:
    """The row's first pair in words by each direction; None where it has none."""
    return [_first_pair(layout, source, row, replace(columns, **{setting: best})) for best in _DIRECTIONS[setting]]


def _first_pair(layout: Format, source: Source, row: Row, columns: Columns) -> str | None:
    try:
        found = next(iter(layout.convert(row, source, Reading(columns))), None)
    except Unfit:
        return None
    return verdict(found, 1.0, ranked_names(row, found)) if isinstance(found, Pair) else None


def _direction_question(layout: Format, rows: Sequence[Placed], columns: Columns, setting: str, name: str) -> DataError:
    of = setting.partition("_")[0]
    told = [(source, row, _verdicts(layout, source, row, columns, setting)) for source, row in rows if row.get(of)]
    told = [one for one in told if one[2][0] is not None]
    source, row, verdicts = max(told, key=lambda one: len(set(one[2]) - {None}))
    kept: dict[tuple[str | None, ...], int] = {}
    for number in range(len(verdicts)):
        by_row = tuple(one[2][number] for one in told)
        if None not in by_row:
            kept.setdefault(by_row, number)
    lines = [
        f"\n  reading {number} ({setting}={_DIRECTIONS[setting][at]}): {place(source)}: {verdicts[at]}"
        for number, at in enumerate(kept.values(), 1)
    ]
    values = _short(list(as_list(row[of])))
    head = f"{name}: the {of} {values} in {place(source)} can mean several things."
    answers = [f"{setting}={_DIRECTIONS[setting][at]}" for at in kept.values()]
    return OpenQuestion(head + "".join(lines) + f"\n{_HOW_DIRECTED[setting]}", answers)
