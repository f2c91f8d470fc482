"""Preferences by degrees: numbers on a scale, and words of strength."""

from __future__ import annotations

from typing import Any

import pytest

from likelier.data.columns import columns_of
from likelier.data.formats import convert
from likelier.data.formats.meanings import proposed_shares
from likelier.data.records import Pair
from likelier.data.sources import read_rows
from likelier.utils.errors import ConfigError, DataError

BASE = {"q": "ask", "x": "yes", "y": "no"}
MAP = ["prompt=q", "first=x", "second=y"]


def pairs(values: list[Any], *words: str, **more: Any) -> list[Pair]:
    rows = [{**BASE, "degree": value} for value in values]
    typed = columns_of([*MAP, *words])
    assert typed is not None
    found = convert(read_rows(rows), columns_of({**typed.given, **more}))
    return [record for record in found.records if isinstance(record, Pair)]


def refused(kind: type[Exception], values: list[Any], *words: str) -> str:
    with pytest.raises(kind) as caught:
        pairs(values, *words)
    return str(caught.value)


def told(found: list[Pair]) -> list[tuple[str, float]]:
    return [(str(pair.chosen), round(pair.rejected_share, 6)) for pair in found]


# --- scales --------------------------------------------------------------------------------------------------------


def test_a_share_on_any_scale_is_a_soft_label() -> None:
    found = pairs([1, 2, 1.25, 1.5], "share=degree", "scale=1..2")
    assert told(found) == [("yes", 0.0), ("no", 0.0), ("yes", 0.25), ("yes", 0.5)]
    assert told(pairs(["80", "0"], "share=degree", "scale=100..0")) == [("yes", 0.2), ("no", 0.0)]
    assert told(pairs([-3, 1], "winner=degree", "scale=-3..3")) == [("yes", 0.0), ("no", round(1 / 3, 6))]


def test_several_annotators_may_give_shares() -> None:
    rows = [{**BASE, "one": 1, "two": 4}]
    columns = columns_of([*MAP, "share=one,two", "scale=1..5"])
    (found,) = convert(read_rows(rows), columns).records
    assert isinstance(found, Pair) and (found.chosen, found.rejected_share) == ("yes", 0.375)


def test_a_share_without_a_scale_is_asked_for_with_both_readings() -> None:
    said = refused(DataError, [1, 2, 5], "share=degree")
    assert "the winner (column degree) is 1 (1 times), 2 (1 times), 5 (1 times)" in said
    assert '(scale=1..5): row 1: `x` is preferred: "yes"' in said
    assert '(scale=5..1): row 1: `y` is preferred: "no"' in said
    assert "--columns scale=1..5" in said


def test_what_lies_beyond_the_scale_is_named() -> None:
    said = refused(DataError, [1, 7], "share=degree", "scale=1..5")
    assert said.startswith("rows, row 2: winner is 7, which has no meaning where numbers go from 1 (the first answer)")
    assert "--columns scale=" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["share=degree", "scale=1-5"], "columns: scale='1-5': give the number that is wholly for the first answer"),
        (["share=degree", "scale=2..2"], "columns: scale='2..2'"),
        (["share=degree", "winner=degree"], "columns: share and winner were both given"),
        (["winner=degree", "scale=1..2", "winner_coding=1/2"], "columns: scale and winner_coding were both given"),
        (["winner=degree", "winner_coding=a=0.2/b=3"], "columns: winner_coding='a=0.2/b=3': 3 is no share"),
        (["winner=degree", "winner_coding=a=0.2/a=0.3"], "names 'a' twice"),
    ],
)
def test_a_scale_that_cannot_be_is_refused(words: list[str], message: str) -> None:
    assert message in refused(ConfigError, ["a", "b"], *words)


# --- words of strength ---------------------------------------------------------------------------------------------

STRENGTHS = ["Much better", "slightly better", "about the same", "slightly worse", "much worse"]


def test_words_of_strength_become_soft_labels_by_the_map() -> None:
    coding = "winner_coding=much better=0.9/slightly better=0.6/about the same=0.5/slightly worse=0.4/much worse=0.1"
    expected = [("yes", 0.1), ("yes", 0.4), ("yes", 0.5), ("no", 0.4), ("no", 0.1)]
    assert told(pairs(STRENGTHS, "winner=degree", coding)) == expected
    block = {"much better": 0.9, "slightly worse": 0.4}
    assert told(pairs(["much better", "slightly worse"], "winner=degree", winner_coding=block)) == [
        ("yes", 0.1),
        ("no", 0.4),
    ]


def test_words_of_strength_are_asked_for_with_a_coding_to_correct() -> None:
    said = refused(DataError, STRENGTHS, "winner=degree")
    assert "which can mean several things" in said
    proposed = "much better=0.95/slightly better=0.65/about the same=0.5/slightly worse=0.35/much worse=0.05"
    assert f"--columns 'winner_coding={proposed}'" in said
    signs = refused(DataError, ["A>>B", "A>B", "B>>A", "A=B"], "winner=degree")
    assert "a>>b=0.95/a>b=0.8/b>>a=0.05/a=b=0.5'" in signs


def test_the_old_coding_with_an_equals_sign_stays() -> None:
    assert told(pairs(["L", "="], "winner=degree", "winner_coding=L/R/=")) == [("yes", 0.0), ("yes", 0.5)]


def test_words_of_a_margin_are_numbers_by_the_map() -> None:
    rows = [{**BASE, "by": "much"}, {**BASE, "by": "A bit"}, {**BASE, "by": ""}]
    words = ["prompt=q", "chosen=x", "rejected=y", "margin=by"]
    coded = convert(read_rows(rows), columns_of([*words, "margin_coding=much=3/a bit=1"])).records
    assert [record.margin for record in coded if isinstance(record, Pair)] == [3.0, 1.0, None]
    with pytest.raises(DataError, match=r"row 1: margin is 'much', which is no number.*margin_coding=much=1"):
        convert(read_rows(rows), columns_of(words))
    with pytest.raises(DataError, match="row 2: margin is 'A bit', to which margin_coding='much=3' gives no number"):
        convert(read_rows(rows), columns_of([*words, "margin_coding=much=3"]))
    with pytest.raises(ConfigError, match="margin_coding='much': give each word and its number"):
        convert(read_rows(rows), columns_of([*words, "margin_coding=much"]))


def test_letters_for_sides_and_no_preference_are_proposed_for_what_they_are() -> None:
    words = ["much l", "l", "no preference", "r", "much r"]
    assert proposed_shares(words) == "much l=0.95/l=0.8/no preference=0.5/r=0.2/much r=0.05"


@pytest.mark.parametrize("missing", ["n/a", "#N/A", "<NA>", "nan", " "])
def test_a_verdict_that_a_spreadsheet_says_is_missing_is_missing(missing: str) -> None:
    rows = [{"prompt": "ask", "first": "yes", "second": "no", "winner": said} for said in ("a", missing)]
    found = convert(read_rows(rows))
    assert len(found.records) == 1 and found.unusable.counts() == {"no-judgement": 1}


def test_a_column_with_white_space_at_its_ends_is_named_in_quotes() -> None:
    with pytest.raises(DataError, match="did you mean 'question '"):
        convert(read_rows([{"question ": "a", "chosen": "b", "rejected": "c"}]), columns_of(["prompt=question"]))
