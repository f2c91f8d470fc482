"""Column maps that say text of their own: the same for every row, or made of several columns."""

from __future__ import annotations

from typing import Any

import pytest

from likelier.data.columns import columns_of
from likelier.data.formats import Converted, convert
from likelier.data.records import Demonstration, Labelled, Message, Pair
from likelier.data.sources import read_rows
from likelier.utils.errors import DataError

BETTER = {"headline": "Rain", "good": "It rains.", "bad": "Sun."}


def converted(rows: list[dict[str, Any]], *words: str) -> Converted:
    return convert(read_rows(rows), columns_of(words))


def pair(row: dict[str, Any], *words: str) -> Pair:
    (found,) = converted([row], *words).records
    assert isinstance(found, Pair)
    return found


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("prompt=Write a review.", "Write a review."),
        ("prompt=Write a review, please.", "Write a review, please."),
        ('prompt="Write a review, please"', "Write a review, please"),
        ('prompt="Review"', "Review"),
        ("prompt=Write a review.\\nBe brief.", "Write a review.\nBe brief."),
        ('prompt="as {headline} says"', "as {headline} says"),
    ],
)
def test_one_prompt_may_serve_every_row(word: str, expected: str) -> None:
    found = converted([BETTER, BETTER], word, "chosen=good", "rejected=bad")
    assert [record.prompt for record in found.records] == [expected] * 2
    assert found.notes[0].startswith('prompt: the same in every row, "') and found.unread_columns == ["headline"]


def test_what_is_nearly_a_column_is_no_text() -> None:
    with pytest.raises(DataError, match=r"no column 'head line', .*; did you mean headline"):
        converted([BETTER], "prompt=head line", "chosen=good", "rejected=bad")
    with pytest.raises(DataError, match="""a text for every row stands in quotation marks: prompt='"Review"'"""):
        converted([BETTER], "prompt=Review", "chosen=good", "rejected=bad")


def test_a_column_whose_name_has_blanks_stays_a_column() -> None:
    rows = [{"the question": "ask", "chosen": "yes", "rejected": "no"}, {"chosen": "yes", "rejected": "no"}]
    assert converted(rows[:1], "prompt=the question").records[0].prompt == "ask"
    with pytest.raises(DataError, match="row 2: no column 'the question'"):
        converted(rows, "prompt=the question")


def test_every_text_may_be_a_template() -> None:
    row = {"title": "Rain", "body": "Drops.", "a": "Wet", "b": "Dry", "why": "clouds"}
    found = pair(row, "prompt={title}\\n\\n{body}", "chosen={a}: {why}", "rejected={b}", "system=Judge {title}.")
    assert found.prompt == (Message("system", "Judge Rain."), Message("user", "Rain\n\nDrops."))
    assert found.chosen == (Message("assistant", "Wet: clouds"),)
    assert found.rejected == (Message("assistant", "Dry"),)
    answers = converted([row], "prompt=title", "completion={a} ({why})").records
    assert isinstance(answers[0], Demonstration) and answers[0].answer == "Wet (clouds)"


def test_a_list_of_answers_may_hold_templates_and_constants() -> None:
    columns = columns_of({"prompt": "q", "answers": ["{a}!", '"No."'], "scores": ["x", "y"]})
    (found,) = convert(read_rows([{"q": "ask", "a": "Yes", "x": 2, "y": 1}]), columns).records
    assert isinstance(found, Pair) and (found.chosen, found.rejected) == ("Yes!", "No.")


def test_any_role_may_be_the_same_for_every_row() -> None:
    (found,) = converted([{"q": "ask", "a": "Yes"}], "prompt=q", "completion=a", 'label="good"', 'weight="2"').records
    assert found == Labelled("ask", "Yes", True, found.source, weight=2.0)


def test_answers_without_any_prompt_are_told_of_a_constant() -> None:
    with pytest.raises(DataError, match=r'--columns prompt="Write a review\."'):
        convert(read_rows([{"chosen": "yes", "rejected": "no"}]))
