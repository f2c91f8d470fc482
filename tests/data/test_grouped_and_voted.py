"""Answers that are scored in a row each, and pairs with counts of votes in columns."""

from __future__ import annotations

from typing import Any

import pytest

from likelier.data.columns import columns_of
from likelier.data.formats import Converted, convert
from likelier.data.records import Demonstration, Pair
from likelier.data.sources import read_rows
from likelier.utils.errors import ConfigError, DataError


def converted(rows: list[dict[str, Any]], *words: str) -> Converted:
    return convert(read_rows(rows), columns_of(words))


def rated(*values: tuple[str, str, Any]) -> list[dict[str, Any]]:
    return [{"question": question, "reply": reply, "stars": stars} for question, reply, stars in values]


MAP = ["prompt=question", "completion=reply"]


def test_answers_of_one_prompt_are_ranked_by_their_scores() -> None:
    rows = rated(("a", "good", 5), ("b", "only", 3), ("a", "bad", "1"), ("a", "none", None))
    found = converted(rows, *MAP, "score=stars")
    (pair,) = found.records
    assert isinstance(pair, Pair) and (pair.chosen, pair.rejected, pair.scores) == ("good", "bad", (5.0, 1.0))
    assert str(pair.source) == "rows, row 1"
    assert [(str(row.source), row.reason) for row in found.unusable] == [("rows, row 2", "fewer-than-two-answers")]
    assert found.notes == ["scores: the largest score is the best"] and found.unread_columns == []


def test_an_answer_scored_twice_has_the_mean() -> None:
    rows = rated(("a", "x", 5), ("a", "x", 2), ("a", "y", 4))
    (pair,) = converted(rows, *MAP, "score=stars").records
    assert isinstance(pair, Pair) and (pair.chosen, pair.scores) == ("y", (4.0, 3.5))


def test_a_score_that_counts_faults_is_asked_for() -> None:
    rows = [{"prompt": "a", "completion": text, "errors": errors} for text, errors in (("x", 3), ("y", 0))]
    with pytest.raises(DataError, match="scores_best=smallest"):
        converted(rows, "score=errors")
    (pair,) = converted(rows, "score=errors", "scores_best=smallest").records
    assert isinstance(pair, Pair) and pair.chosen == "y"


def test_a_system_prompt_goes_along_and_without_a_map_nothing_changes() -> None:
    rows = [{**row, "tone": "Be kind."} for row in rated(("a", "x", 5), ("a", "y", 4))]
    (pair,) = converted(rows, *MAP, "score=stars", "system=tone").records
    assert isinstance(pair.prompt, tuple) and pair.prompt[0].content == "Be kind."
    plain = convert(read_rows([{"prompt": "a", "completion": "x", "score": 3}])).records
    assert isinstance(plain[0], Demonstration)


@pytest.mark.parametrize(
    ("values", "expected"),
    [((3, 1, 0), ("x", (3, 1, 0))), ((1, 3, 2), ("y", (3, 1, 2))), (("2", "", ""), ("x", (2, 0, 0)))],
)
def test_counts_of_votes_are_columns(values: tuple[Any, ...], expected: tuple[str, tuple[int, int, int]]) -> None:
    row = {"q": "ask", "l": "x", "r": "y", **dict(zip(("for_l", "for_r", "ties"), values, strict=True))}
    (pair,) = converted([row], "prompt=q", "first=l", "second=r", "votes=for_l,for_r,ties").records
    assert isinstance(pair, Pair) and (pair.chosen, pair.votes) == expected


def test_two_counts_are_enough_and_others_are_refused() -> None:
    row = {"q": "ask", "l": "x", "r": "y", "n": [1, 4]}
    words = ["prompt=q", "first=l", "second=r", "votes=n"]
    (pair,) = converted([row], *words).records
    assert isinstance(pair, Pair) and pair.votes == (4, 1, 0)
    found = converted([row, {**row, "n": [-1, 2]}, {**row, "n": [0, 0]}, {**row, "n": [1]}], *words)
    assert found.unusable.counts() == {"votes-not-counts": 3}
    with pytest.raises(ConfigError, match="votes and winner were both given"):
        columns_of([*words, "winner=l"])
