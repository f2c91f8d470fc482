"""Rows of several scored answers: from a file's rankings to one group a row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from likelier.data.groups import Group
from likelier.data.lists import answers_in, pairs_by_row
from likelier.data.load import load_preferences
from likelier.data.mismatched import data_hash
from likelier.data.options import DataSet
from likelier.data.prepare import prepare_groups
from likelier.data.preview import preview_group
from likelier.data.tokenize import Tokenized
from likelier.data.weighting import Signals
from likelier.objectives.scored import NO_ANSWER
from likelier.scoring.batch import collate
from likelier.utils.errors import DataError
from tests.helpers.small_runs import write_rows
from tests.helpers.support import tiny_tokenizer

ROWS = [
    {"prompt": "say ", "answers": ["one", "two", "three", "four"], "scores": [2, 9, 7, 7]},
    {"prompt": "ask ", "answers": ["why", "how"], "scores": [1.5, 4]},
    {"prompt": "say ", "answers": ["one", "five", "six"], "scores": [1, 3, 2]},
]


def prepared(rows: Any, **more: Any) -> Tokenized:
    settings: dict[str, Any] = {"partners": False, "max_length": 64, "truncation": "drop", **more}
    return prepare_groups(load_preferences(rows).train, TOKENIZER, method="infonca", wants="scores", **settings)


TOKENIZER = tiny_tokenizer(chat=False)


def texts(group: Group) -> list[str]:
    return [TOKENIZER.decode(answer, skip_special_tokens=True).strip() for answer in group.answers]


def test_each_row_is_one_group_the_best_answer_first() -> None:
    found = prepared(ROWS)
    assert [texts(group) for group in found.groups] == [
        *(["two", "three", "four", "one"], ["how", "why"], ["five", "six", "one"])
    ]
    assert [group.scores for group in found.groups] == [(9, 7, 7, 2), (4, 1.5), (3, 2, 1)]
    assert [group.source.number for group in found.groups] == [1, 2, 3]
    assert found.kept == [0, 5, 6] and found.counts()["groups"] == 3
    assert len(found.answer_lengths()) == 9 and found.groups[0].tokens > found.groups[1].tokens


def test_pairs_with_scores_are_rows_of_two_and_the_smallest_may_be_the_best() -> None:
    pairs = [{"prompt": "say ", "chosen": "b", "rejected": "a", "score_chosen": 4, "score_rejected": 1}]
    assert [(texts(one), one.scores) for one in prepared(pairs).groups] == [(["b", "a"], (4, 1))]
    faults = load_preferences(ROWS, columns={"scores_best": "smallest"}).train
    settings: dict[str, Any] = {"partners": False, "max_length": 64, "truncation": "drop", "method": "infonca"}
    found = prepare_groups(faults, TOKENIZER, wants="scores", **settings).groups
    assert texts(found[0])[0] == "one" and found[0].scores == (-2, -7, -7, -9)


def test_an_answer_that_is_too_long_leaves_alone_and_ties_have_nothing_to_say() -> None:
    rows = [
        {"prompt": "say ", "answers": ["one", "two " * 60, "three"], "scores": [2, 9, 7]},
        {"prompt": "say ", "answers": ["one", "two", "three"], "scores": [2, 2, 2]},
        {"prompt": "say ", "answers": ["one", "two", "three"], "scores": [2, None, 3]},
    ]
    found = prepared(rows)
    assert [texts(group) for group in found.groups] == [["three", "one"], ["three", "one"]]
    assert found.unusable.counts() == {"over-max-length": 2}


def test_an_answer_that_stands_twice_in_a_row_has_the_mean_of_its_scores() -> None:
    (group,) = prepared([{"prompt": "say ", "answers": ["one", "two", "one"], "scores": [1, 5, 3]}]).groups
    assert texts(group) == ["two", "one"] and group.scores == (5, 2)


def test_a_data_set_of_weight_2_has_each_row_twice(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", ROWS)
    found = prepared([DataSet(str(file), name="it", weight=2)])
    assert sorted(texts(group) for group in found.groups) == sorted(2 * [texts(one) for one in prepared(ROWS).groups])
    rows = pairs_by_row(load_preferences([DataSet(str(file), name="it", weight=2)]).train)
    assert sorted(map(answers_in, rows)) == [2, 2, 3, 3, 4, 4]


def test_weights_are_the_rows_own_or_the_prompts() -> None:
    rows = [{**row, "weight": weight} for row, weight in zip(ROWS, (3, 1, 2), strict=True)]
    found = prepared(rows, signals=Signals(weights="column"))
    assert [group.weight for group in found.groups] == pytest.approx([1.5, 0.5, 1.0])
    even = prepared(ROWS, signals=Signals(weights="prompt"))
    weights = [group.weight for group in even.groups]
    assert weights[0] + weights[2] == pytest.approx(weights[1])


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"chosen": "b", "rejected": "a"}, "infonca learns from answers with scores, and this row has none; give the"),
        ({"answers": ["a", "b"], "ranks": [2, 1]}, "infonca learns from answers with scores, and this row has none"),
        (
            {"chosen": "b", "rejected": "a", "score_chosen": "good", "score_rejected": 1},
            "infonca learns from scores, and nan and 1 are not two numbers; mend the row",
        ),
    ],
    ids=["pairs", "ranks", "words"],
)
def test_rows_without_scores_are_refused_with_their_place(row: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=f"rows, row 1: {words}"):
        columns = {"ranks_best": "smallest"} if "ranks" in row else None
        records = load_preferences([{"prompt": "say ", **row}], columns=columns).train
        settings: dict[str, Any] = {"partners": False, "max_length": 64, "truncation": "drop"}
        prepare_groups(records, TOKENIZER, method="infonca", wants="scores", **settings)


def test_scores_are_in_the_hash_of_the_data_and_answers_are_shown_with_them() -> None:
    groups = prepared(ROWS).groups
    moved = [replace(groups[0], scores=(9, 8, 7, 2)), *groups[1:]]
    plain = [replace(group, scores=None) for group in groups]
    assert len({data_hash(groups), data_hash(moved), data_hash(plain)}) == 3
    names = [answer.name for answer in preview_group(groups[0], TOKENIZER).answers]
    assert names == ["answer 1, score 9", "answer 2, score 7", "answer 3, score 7", "answer 4, score 2"]


def test_a_batch_has_lists_and_as_pairs_the_best_and_the_worst() -> None:
    batch = collate(prepared(ROWS).groups)
    lists, scores, pairs = batch.items.lists, batch.items.scores, batch.items.pairs
    assert lists is not None and scores is not None and pairs is not None
    assert lists.tolist() == [[0, 1, 2, 3], [4, 5, NO_ANSWER, NO_ANSWER], [6, 7, 3, NO_ANSWER]]  # "one" once
    assert scores.tolist() == [[9, 7, 7, 2], [4, 1.5, 0, 0], [3, 2, 1, 0]]
    assert pairs.tolist() == [[0, 3], [4, 5], [6, 3]]
    assert batch.answers_of_groups() == [[0, 1, 2, 3], [4, 5], [6, 7, 3]]
