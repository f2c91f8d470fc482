"""Whether each answer is acceptable, beside a preference between them."""

from __future__ import annotations

from typing import Any

import pytest

from likelier.data.columns import columns_of
from likelier.data.formats import Converted, convert
from likelier.data.records import Labelled, Pair
from likelier.data.sources import read_rows
from likelier.utils.errors import DataError

MAP = ["prompt=q", "first=a", "second=b", "winner=w"]


def row(winner: str, ok_a: Any, ok_b: Any) -> dict[str, Any]:
    return {"q": "ask", "a": "yes", "b": "no", "w": winner, "ok_a": ok_a, "ok_b": ok_b}


def converted(rows: list[dict[str, Any]], *words: str) -> Converted:
    return convert(read_rows(rows), columns_of(words))


def test_a_row_that_prefers_what_is_not_acceptable_is_left_out() -> None:
    rows = [row("a", True, False), row("b", True, False), row("b", "no", "yes"), row("a", 0, 0), row("tie", 0, 0)]
    found = converted(rows, *MAP, "acceptable=ok_a,ok_b")
    assert [record.chosen for record in found.records if isinstance(record, Pair)] == ["yes", "no", "yes"]
    left_out = [(str(one.source), one.reason) for one in found.unusable]
    assert left_out == [(f"rows, row {number}", "preferred-not-acceptable") for number in (2, 4)]


def test_words_of_acceptability_are_given_or_asked_for() -> None:
    rows = [row("a", "fine", "harmful")]
    assert len(converted(rows, *MAP, "acceptable=ok_a,ok_b", "label_coding=fine/harmful").records) == 1
    with pytest.raises(DataError, match=r"row 1: acceptable is 'fine', which has no meaning.*--columns label_coding="):
        converted(rows, *MAP, "acceptable=ok_a,ok_b")


def test_answers_with_a_column_of_labels_each_are_labelled_answers() -> None:
    words = ["prompt=q", "answers=a,b", "label=ok_a,ok_b", "label_coding=1/0"]
    found = converted([row("a", 1, 0), row("a", 1, None)], *words)
    assert [(one.answer, one.desirable) for one in found.records if isinstance(one, Labelled)] == [
        ("yes", True),
        ("no", False),
        ("yes", True),
    ]
    assert found.unusable.counts() == {"no-label": 1}
