"""What rows say beyond prompt and answers: a weight, tools, and of pairs votes, a margin and scores."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from likelier.data.formats.content import Row, Unfit, as_number, json_text
from likelier.records import Pair, Record


def with_extras(row: Row, record: Record) -> Record:
    """The record with what the row says beyond its layout. A number that is none becomes NaN, for who asks for it."""
    found: dict[str, Any] = {}
    if row.get("weight") is not None:
        found["weight"] = as_number(row["weight"])
    if row.get("tools"):
        found["tools"] = json_text(row["tools"])
    if isinstance(record, Pair):
        found |= _of_pair(row, record)
    return replace(record, **found) if found else record


def _of_pair(row: Row, pair: Pair) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if row.get("margin") is not None:
        found["margin"] = as_number(row["margin"])
    if pair.scores is None and row.get("score_chosen") is not None and row.get("score_rejected") is not None:
        found["scores"] = (as_number(row["score_chosen"]), as_number(row["score_rejected"]))
    if pair.votes is None and isinstance(row.get("votes"), (list, tuple)):
        found["votes"] = _votes(row["votes"])
    if pair.flip_chance is None and row.get("flip_chance") is not None:
        found["flip_chance"] = _flip_chance(row["flip_chance"])
    return found


def _votes(value: Any) -> tuple[int, int, int]:
    """(for the chosen answer, for the rejected one, ties)"""
    if len(value) != 3 or not all(type(count) is int and count >= 0 for count in value) or not any(value):
        raise Unfit("votes-not-three-counts", repr(list(value))[:60])
    if value[0] < value[1]:
        raise Unfit("votes-against-chosen", repr(list(value)))
    return (value[0], value[1], value[2])


def _flip_chance(value: Any) -> float:
    number = as_number(value)
    if not 0 <= number <= 0.5:
        raise Unfit("flip-chance-out-of-range", f"{value!r} is no number from 0 to 0.5")
    return number
