"""What rows say beyond prompt and answers: a weight, tools, and of pairs votes, a margin and scores."""

from __future__ import annotations

import re
from collections.abc import Iterator, Set
from dataclasses import replace
from functools import lru_cache
from typing import Any

from likelier.data.formats.messages import Row, Unfit, as_number, json_text
from likelier.data.records import Labelled, Pair, Record

_NAMES = frozenset({"weight", "tools", "judge", "margin", "score_chosen", "score_rejected", "votes", "flip_chance"})


def with_extras(row: Row, record: Record, read: Set[str]) -> Record:
    """The record with what the row says beyond its layout, of the columns that it reads. A number that is none becomes
    NaN, which is refused where a run uses that column, and not before.
    """
    said = _said(row, read)
    found: dict[str, Any] = {}
    if "weight" in said:
        found["weight"] = as_number(said["weight"])
    if "tools" in said:
        found["tools"] = json_text(said["tools"])
    judge = _judge(row, said)
    if judge and isinstance(record, (Pair, Labelled)):
        found["judge"] = judge
    if isinstance(record, Pair):
        found |= _of_pair(said, record)
    return replace(record, **found) if found else record


def ignored_extras(row: Row, record: Record, read: Set[str]) -> Iterator[str]:
    """The columns that say something which nothing can make use of."""
    said = _said(row, read)
    if "tools" in said and not isinstance(record.prompt, tuple):
        yield "tools"  # text goes past the chat template
    if "votes" in said and not _are_votes(said["votes"]):
        yield "votes"  # a number of something else


def _said(row: Row, read: Set[str]) -> Row:
    return {name: value for name in _NAMES & read if not _is_empty(value := row.get(name))}


def _judge(row: Row, said: Row) -> str:
    """Who judged: the column `judge`, or one that is called so by its name (`annotator_id`); empty where none is."""
    named = said.get("judge") or next((row[name] for name in row if _names_judge(name)), None)
    return str(named) if isinstance(named, (str, int)) else ""


_JUDGE = re.compile(
    r"(.*[_ ])?(annotator|judge|rater|labell?er|evaluator|reviewer|assessor|worker)([_ ]?(id|name|model))?"
)


@lru_cache(maxsize=1024)
def _names_judge(column: str) -> bool:
    return _JUDGE.fullmatch(column.lower()) is not None


def _is_empty(value: Any) -> bool:
    """Whether a cell says nothing: tables tell that by a null, CSV by an empty text."""
    return value is None or (isinstance(value, (str, list, dict)) and not value)


def _of_pair(said: Row, pair: Pair) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if "margin" in said:
        found["margin"] = as_number(said["margin"])
    if pair.scores is None and {"score_chosen", "score_rejected"} & said.keys():
        found["scores"] = (as_number(said.get("score_chosen")), as_number(said.get("score_rejected")))
    if pair.votes is None and _are_votes(said.get("votes")):
        found["votes"] = _votes(said["votes"])
    if pair.flip_chance is None and "flip_chance" in said:
        found["flip_chance"] = _flip_chance(said["flip_chance"])
    return found


def _are_votes(value: Any) -> bool:
    """Whether a column holds counts of votes; a single number is something else."""
    return isinstance(value, (list, tuple))


def _votes(value: Any) -> tuple[int, int, int]:
    """(for the chosen answer, for the rejected one, ties)"""
    counts = [as_number(count) for count in value]
    if len(counts) != 3 or not all(count.is_integer() and count >= 0 for count in counts) or not any(counts):
        raise Unfit("votes-not-three-counts", repr(list(value))[:60])
    if counts[0] < counts[1]:
        raise Unfit("votes-against-chosen", repr(list(value)))
    return (int(counts[0]), int(counts[1]), int(counts[2]))


def _flip_chance(value: Any) -> float:
    number = as_number(value)
    if not 0 <= number <= 0.5:
        raise Unfit("flip-chance-out-of-range", f"{value!r} is no number from 0 to 0.5")
    return number
