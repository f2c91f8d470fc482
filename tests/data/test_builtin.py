"""The built-in preferences: what the demo rests on."""

from __future__ import annotations

import json
from collections import Counter
from importlib.resources import files
from statistics import mean
from typing import Any

import pytest

from likelier.data.builtin import demo_data
from likelier.data.formats import check_answers
from likelier.data.records import Pair
from likelier.data.split import prompt_key

COLUMNS = {"prompt", "chosen", "rejected", "topic", "claim", "language", "split"}


def lines() -> list[dict[str, Any]]:
    text = files("likelier.data").joinpath("honest_answers.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


ROWS = lines()


def text(row: dict[str, Any], column: str) -> str:
    return row[column][0]["content"]


def rows_where(**values: str) -> list[dict[str, Any]]:
    return [row for row in ROWS if all(row[name] == value for name, value in values.items())]


def test_every_row_has_the_same_columns_and_one_turn_on_each_side() -> None:
    for row in ROWS:
        assert set(row) == COLUMNS
        for column, role in (("prompt", "user"), ("chosen", "assistant"), ("rejected", "assistant")):
            assert [(turn["role"], set(turn)) for turn in row[column]] == [(role, {"role", "content"})]


def test_as_many_rows_as_the_readme_says() -> None:
    assert (len(rows_where(split="train")), len(rows_where(split="test")), len(ROWS)) == (138, 46, 184)


def test_no_topic_is_both_trained_on_and_held_out() -> None:
    topics = {split: {row["topic"] for row in rows_where(split=split)} for split in ("train", "test")}
    assert not topics["train"] & topics["test"]
    assert all(topic.strip() for side in topics.values() for topic in side)


@pytest.mark.parametrize("split", ["train", "test"])
def test_both_sides_hold_both_languages_and_every_kind_of_claim(split: str) -> None:
    for language in ("en", "zh"):
        kinds = Counter(row["claim"] for row in rows_where(split=split, language=language))
        assert set(kinds) == {"false", "sweeping", "true"}
    assert {row["language"] for row in ROWS} == {"en", "zh"}


def test_the_language_is_the_one_that_is_named() -> None:
    def chinese(part: str) -> float:
        return sum("\u4e00" <= letter <= "\u9fff" for letter in part) / len(part)

    for row in ROWS:
        for column in ("prompt", "chosen", "rejected"):
            share = chinese(text(row, column))
            assert share > 0.5 if row["language"] == "zh" else share == 0, text(row, column)


def test_true_claims_are_there_so_that_disagreeing_is_no_shortcut() -> None:
    share = len(rows_where(claim="true")) / len(ROWS)
    assert 0.15 < share < 0.3


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_length_does_not_give_the_answer_away(language: str, split: str) -> None:
    lengths = [
        (len(text(row, "chosen")), len(text(row, "rejected"))) for row in rows_where(language=language, split=split)
    ]
    assert mean(chosen for chosen, _ in lengths) == pytest.approx(mean(other for _, other in lengths), rel=0.1)
    if language == "en":
        assert 0.4 < mean(chosen > other for chosen, other in lengths) < 0.6


def test_nothing_is_empty_or_has_stray_spaces() -> None:
    for row in ROWS:
        for column in ("prompt", "chosen", "rejected"):
            content = text(row, column)
            assert content and content == content.strip() and "\n" not in content and "  " not in content


@pytest.mark.parametrize("column", ["prompt", "chosen", "rejected"])
def test_nothing_stands_there_twice(column: str) -> None:
    assert max(Counter(text(row, column).casefold() for row in ROWS).values()) == 1


def test_no_answer_is_chosen_here_and_rejected_there() -> None:
    assert not {text(row, "chosen") for row in ROWS} & {text(row, "rejected") for row in ROWS}


def test_the_first_words_do_not_give_the_answer_away() -> None:
    """No opening of an answer is frequent on one side and absent from the other."""
    sides = {column: Counter(text(row, column).split()[0] for row in ROWS) for column in ("chosen", "rejected")}
    for column in sides:
        assert sides[column].most_common(1)[0][1] < len(ROWS) * 0.1


def test_the_demo_loads_all_of_it_by_the_files_own_split() -> None:
    data = demo_data()
    assert (len(data.train), len(data.test), len(data.unusable), data.kind) == (138, 46, 0, "pairs")
    assert not {prompt_key(record) for record in data.train} & {prompt_key(record) for record in data.test}
    for record in [*data.train, *data.test]:
        assert isinstance(record, Pair)
        check_answers(record)
