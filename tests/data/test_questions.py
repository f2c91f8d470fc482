"""A value that can mean several things is asked for, with one row by each reading; what is understood is said first."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from likelier import load_preferences
from likelier.cli import main as cli
from likelier.data.load import PreferenceData
from likelier.data.records import Labelled, Pair
from likelier.utils.errors import DataError

TWO = {"prompt": "ask", "first": "one", "second": "two"}
ONE = {"prompt": "ask", "completion": "yes"}


def loaded(rows: list[dict[str, Any]], **columns: Any) -> PreferenceData:
    return load_preferences(rows, columns=columns or None)


def asked(rows: list[dict[str, Any]], **columns: Any) -> dict[str, str]:
    """The readings that the question shows: what each setting makes of the example."""
    with pytest.raises(DataError) as caught:
        loaded(rows, **columns)
    found = re.findall(r"^  reading \d+ \('?(.+?)'?\): (.+)$", str(caught.value), re.MULTILINE)
    assert len(found) > 1, caught.value
    return dict(found)


def winners(*values: Any) -> list[dict[str, Any]]:
    return [TWO | {"winner": value} for value in values]


def labels(*values: Any) -> list[dict[str, Any]]:
    return [ONE | {"prompt": f"ask {at}", "label": value} for at, value in enumerate(values)]


def outcomes(data: PreferenceData) -> list[Any]:
    return [one.desirable if isinstance(one, Labelled) else getattr(one, "chosen", None) for one in data.train]


FIRST = '`first` is preferred: "one" over "two"'
SECOND = '`second` is preferred: "two" over "one"'
NEITHER = 'neither is preferred: `first` "one" and `second` "two"'

# --- winners -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [(0, 1, 2), ("0", "1", "2"), (0.0, 1.0, 2.0), ("2", 1.0, 0)])
def test_0_1_2_may_be_a_tie_first_second_or_first_second_tie(values: tuple[Any, ...]) -> None:
    found = asked(winners(*values))
    assert list(found) == ["winner_coding=1/2/0", "winner_coding=0/1/2"]
    assert len(set(found.values())) == 2


@pytest.mark.parametrize(
    ("values", "readings"),
    [
        ((0,), {"1/0": SECOND, "0/1": FIRST, "1/2/0": NEITHER}),
        ((1, 2), {"1/2/0": FIRST, "0/1/2": SECOND}),
        ((1, 0), {"1/0": FIRST, "0/1": SECOND}),
        ((1, 0, 1), {"1/0": FIRST, "0/1": SECOND}),
        ((-1, 1), {"positive-first": SECOND, "negative-first": FIRST}),
        ((-1, 0, 1), {"positive-first": SECOND, "negative-first": FIRST, "0/1/-1": NEITHER}),
        ((-3, 2), {"positive-first": SECOND, "negative-first": FIRST}),
        ((5, 1, 3), {"1|2/4|5/3": SECOND, "4|5/1|2/3": FIRST}),
        ((True, False), {"true/false": FIRST, "false/true": SECOND}),
        (("yes", "yes"), {"yes/no": FIRST, "no/yes": SECOND}),
        (("x", "y", "tie"), {"x/y/tie": FIRST, "y/x/tie": SECOND}),
        (("response_1", "tie"), {"response_1/response_2/tie": FIRST, "response_0/response_1/tie": SECOND}),
    ],
)
def test_a_question_shows_one_row_by_each_reading(values: tuple[Any, ...], readings: dict[str, str]) -> None:
    found = asked(winners(*values))
    for coding, words in readings.items():
        told = found[f"winner_coding={coding}"]
        assert told.endswith(words) or len(set(values)) == 2, (coding, told)
        data = loaded(winners(*values), winner_coding=coding)
        place, _, said = told.partition(": ")
        example = next((one for one in data.train if str(one.source).endswith(place)), None)
        if example is not None and "neither" not in said:
            assert said.startswith("`first`" if example.chosen == "one" else "`second`")  # type: ignore[union-attr]


def test_the_issue_as_it_came(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """0 meant the first answer, 1 the second, 2 a tie; it was read as a tie, the first, the second."""
    path = tmp_path / "prefs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in winners(0, 1, 2)))
    for words in (["audit", str(path)], ["convert", str(path), str(tmp_path / "out.jsonl")]):
        assert cli.main(words) == 2
        said = capsys.readouterr().err
        assert f"reading 2 (winner_coding=0/1/2): line 1: {FIRST}" in said and "Traceback" not in said
    assert not (tmp_path / "out.jsonl").exists()
    words = ["convert", str(path), str(tmp_path / "out.jsonl"), "--columns", "winner_coding=0/1/2"]
    assert cli.main(words) == 0
    assert capsys.readouterr().err.startswith(f"data: line 1: {FIRST}\ndata: 3 pairs")
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert [json.loads(line)["chosen"] for line in lines] == ["one", "two"]


@pytest.mark.parametrize("values", [(0.9, 0.2), ("0.25", "1"), (0.5, 0.75)])
def test_a_share_may_be_that_of_either_answer(values: tuple[Any, ...]) -> None:
    found = asked(winners(*values))
    assert list(found) == ["winner_coding=share", "winner_coding=share-second"]
    assert {words.partition(": ")[2][:7] for words in found.values()} == {"`first`", "`second"}
    first, second = (loaded(winners(*values), winner_coding=name).train for name in ("share", "share-second"))
    for one, other in zip(first, second, strict=True):
        assert isinstance(one, Pair) and isinstance(other, Pair)
        assert one.chosen != other.chosen or not one.is_decided


def test_several_annotators_are_asked_about_together() -> None:
    rows = [TWO | {"ann": 1, "bob": 2, "eve": 2}, TWO | {"ann": 0, "bob": 0, "eve": 1}]
    found = asked(rows, winner=["ann", "bob", "eve"])
    assert list(found) == ["winner_coding=1/2/0", "winner_coding=0/1/2"]


@pytest.mark.parametrize(
    "values",
    [("a", "b"), ("model_a", "model_b", "tie"), ("left", "right", "both"), ("Response 1", "response 2"), ("a",)],
)
def test_words_that_name_a_side_are_understood_and_said_first(
    values: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert outcomes(loaded(winners(*values)))[:2] == ["one", "two"][: len(values)]
    assert capsys.readouterr().err.startswith(f"data: row 1: {FIRST}\ndata: {len(values)} pairs")


def test_a_word_that_contradicts_the_columns_names_is_asked_for() -> None:
    rows = [{"prompt": "ask", "model_a": "one", "model_b": "two", "winner": word} for word in ("a", "b")]
    found = asked(rows, first="model_b", second="model_a")
    assert found == {
        "winner_coding=a/b": 'row 1: `model_b` is preferred: "two" over "one"',
        "winner_coding=b/a": 'row 1: `model_a` is preferred: "one" over "two"',
    }
    named = [row | {"winner": f"model_{row['winner']}"} for row in rows]
    assert outcomes(loaded(named, first="model_b", second="model_a")) == ["one", "two"]


def test_words_without_a_reading_show_what_they_stand_beside() -> None:
    with pytest.raises(DataError) as caught:
        loaded(winners("x", "y", "z"))
    assert 'In row 1 it is \'x\' for `first` "one" and `second` "two".' in str(caught.value)


def test_long_answers_are_shortened_and_shown_from_where_they_part() -> None:
    rows = [
        TWO | {"first": "same " * 50 + "end one", "second": "same " * 50 + "end two", "winner": at} for at in (0, 1)
    ]
    (told, *_) = asked(rows).values()
    assert "end two" in told and "end one" in told and len(told) < 200


# --- rankings ------------------------------------------------------------------------------------------------------

RANKED = {"prompt": "ask", "answers": ["x", "y", "z"]}


def test_ranks_may_be_from_either_end_or_an_order() -> None:
    found = asked([RANKED | {"ranks": [2, 3, 1]}])
    assert found == {
        "ranks_best=smallest": 'row 1: answer 3 is preferred: "z" over "x"',
        "ranks_best=largest": 'row 1: answer 2 is preferred: "y" over "x"',
        "ranks_best=order": 'row 1: answer 2 is preferred: "y" over "z"',
    }
    for setting, words in found.items():
        pair = loaded([RANKED | {"ranks": [2, 3, 1]}], ranks_best=setting.partition("=")[2]).train[0]
        assert isinstance(pair, Pair) and words.endswith(f'"{pair.chosen}" over "{pair.rejected}"')


def test_an_order_counts_from_0_or_1_and_names_each_answer_once() -> None:
    from_0, from_1 = (loaded([RANKED | {"ranks": order}], ranks_best="order") for order in ([1, 2, 0], [2, 3, 1]))
    assert outcomes(from_0) == outcomes(from_1) == ["y", "y", "z"]
    data = loaded([RANKED | {"ranks": [1, 2, 0]}, RANKED | {"ranks": [1, 1, 0]}], ranks_best="order")
    assert data.unusable.counts() == {"not-an-order": 1}


@pytest.mark.parametrize("ranks", [[1, 1, 2], [0, 5, 9], [1.5, 2, 3]])
def test_what_is_no_order_is_not_read_as_one(ranks: list[float]) -> None:
    assert list(asked([RANKED | {"ranks": ranks}])) == ["ranks_best=smallest", "ranks_best=largest"]


def test_a_ranking_that_says_the_same_either_way_needs_no_question() -> None:
    rows = [RANKED | {"ranks": [1, 1, 1]}, RANKED | {"ranks": [1, None, None]}]
    with pytest.raises(DataError, match="none of the 2 rows can be used"):
        loaded(rows)


def test_ranks_of_a_tree_are_asked_for_and_a_known_sets_are_not(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"id": "1", "parent": None, "role": "user", "text": "ask"},
        {"id": "2", "parent": "1", "role": "assistant", "text": "yes", "rank": 0},
        {"id": "3", "parent": "1", "role": "assistant", "text": "no", "rank": 1},
    ]
    assert asked(rows)["ranks_best=largest"] == 'row 1: answer 2 is preferred: "no" over "yes"'
    known = [{"message_id": row["id"], "parent_id": row["parent"], "rank": None, **row} for row in rows]
    known = [{name: value for name, value in row.items() if name not in ("id", "parent")} for row in known]
    loaded(known)
    assert capsys.readouterr().err.startswith('data: row 1: answer 1 is preferred: "yes" over "no"\n')


def test_the_largest_score_is_the_best_and_that_is_said_first(capsys: pytest.CaptureFixture[str]) -> None:
    data = loaded([RANKED | {"scores": [0.5, 3, 1]}])
    assert capsys.readouterr().err.startswith('data: row 1: answer 2 is preferred: "y" over "z"\ndata: 3 pairs')
    assert "scores: the largest score is the best" in data.notes


@pytest.mark.parametrize("name", ["loss", "mean_nll", "toxicity.score", "perplexity"])
def test_a_score_that_counts_faults_is_asked_for(name: str) -> None:
    row = RANKED | {name: [3, 1, 2]} if "." not in name else RANKED | {"toxicity": [{"score": at} for at in (3, 1, 2)]}
    found = asked([row], scores=name)
    assert found == {
        "scores_best=largest": 'row 1: answer 1 is preferred: "x" over "z"',
        "scores_best=smallest": 'row 1: answer 2 is preferred: "y" over "z"',
    }
    (pair, *_) = loaded([row], scores=name, scores_best="smallest").train
    assert isinstance(pair, Pair) and pair.scores == (-1.0, -2.0)  # still: the larger, the better


def test_judgements_are_asked_about_with_the_answers_that_they_compare() -> None:
    found = asked([RANKED | {"judgements": [0, 1, 2]}])
    assert found["winner_coding=0/1/2"] == 'row 1: answer 1 is preferred: "x" over "y"'
    assert found["winner_coding=1/2/0"] == 'row 1: neither is preferred: answer 1 "x" and answer 2 "y"'


# --- labels --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        *((True, False), (1, 0), (1.0, 0.0), ("1.0", "0.0"), ("yes", "no"), ("Yes", "NO"), ("y", "n"), (1, -1)),
        *(("TRUE", "f"), ("good", "bad"), (True, 0), ("1", "no"), (" yes ", "0")),
    ],
)
def test_a_plain_label_is_understood_and_said_first(
    values: tuple[Any, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert outcomes(loaded(labels(*values))) == [True, False]
    assert capsys.readouterr().err.startswith('data: row 1: the answer is good: "yes"\ndata: 2 labels')


@pytest.mark.parametrize("missing", [None, "", math.nan, "nan", "  "])
def test_a_missing_label_is_an_unusable_row(missing: Any) -> None:
    data = loaded(labels(1.0, missing, 0.0))
    assert outcomes(data) == [True, False] and data.unusable.counts() == {"no-label": 1}


def test_labels_out_of_pandas_are_read_the_same_from_csv_and_parquet(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = labels(1.0, math.nan, 0.0)
    table = pyarrow.table({name: [row[name] for row in rows] for name in rows[0]})
    pyarrow.parquet.write_table(table, tmp_path / "labels.parquet")
    with (tmp_path / "labels.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows({**row, "label": "" if math.isnan(row["label"]) else row["label"]} for row in rows)
    for name in ("labels.parquet", "labels.csv"):
        data = load_preferences(tmp_path / name)
        assert outcomes(data) == [True, False] and data.unusable.counts() == {"no-label": 1}


@pytest.mark.parametrize(
    ("values", "readings"),
    [
        ((1, 2), ["label_coding=2/1", "label_coding=1/2"]),
        ((1, 2, 3, 4, 5), ["threshold=4", "label_coding=1|2/3|4|5"]),
        (("1.0", "5.0", "3.0"), ["threshold=5", "label_coding=1/3|5"]),
        ((0.2, 0.9), ["threshold=0.9", "label_coding=0.2/0.9"]),
        ((0, 1, -1), ["label_coding=1/-1/0", "label_coding=-1/1/0", "label_coding=1/0/-1"]),
        (("A", "B"), ["label_coding=a/b", "label_coding=b/a"]),
    ],
)
def test_other_labels_are_asked_for(values: tuple[Any, ...], readings: list[str]) -> None:
    found = asked(labels(*values))
    assert list(found) == readings and len(set(found.values())) == len(readings)
    for reading in readings:
        name, _, value = reading.partition("=")
        loaded(labels(*values), **{name: value})


@pytest.mark.parametrize("values", [(True, False), (1, 0), ("yes", "no"), (1, -1)])
def test_truth_in_a_column_of_another_name_is_asked_for(values: tuple[Any, Any]) -> None:
    """`is_toxic: true` is no thumb up."""
    rows = [ONE | {"is_toxic": value} for value in values]
    found = asked(rows, label="is_toxic")
    said = {words.partition(": ")[2] for words in list(found.values())[:2]}
    assert said == {'the answer is good: "yes"', 'the answer is bad: "yes"'}
    good = [ONE | {"is_liked": value} for value in values]
    assert outcomes(loaded(good, label="is_liked")) == [True, False]


# --- known data sets -----------------------------------------------------------------------------------------------

BAR = {"input": "ask", "output_1": "one", "output_2": "two"}


@pytest.mark.parametrize("values", [(0, 1), (0, 1, 2), (1, 1), (1, 2, 3)])
def test_a_known_sets_coding_is_believed_of_its_own_values_only(values: tuple[int, ...]) -> None:
    rows = [BAR | {"label": value} for value in values]
    assert len(set(asked(rows).values())) > 1
    own = [pair.chosen[0].content for pair in loaded([BAR | {"label": value} for value in (2, 1)]).train]  # type: ignore[union-attr]
    assert own == ["two", "one"]


def test_a_known_sets_coding_is_of_its_own_columns_in_their_order() -> None:
    panda = {"instruction": "ask", "input": "", "response1": "one", "response2": "two", "annotator1": 1, "mine": 2}
    assert "winner_coding=0/1/2" in asked([panda], winner="mine")
    swapped = asked([panda], first="response2", second="response1")
    assert swapped["winner_coding=0/1"] == 'row 1: `response1` is preferred: "one" over "two"'
    (pair,) = loaded([panda], winner="annotator1").train
    assert isinstance(pair, Pair) and pair.chosen[0].content == "one"  # type: ignore[union-attr]


def test_what_a_known_sets_first_row_prefers_is_said_first(capsys: pytest.CaptureFixture[str]) -> None:
    loaded([{"question": "ask", "response_j": "yes", "response_k": "no"}])
    assert capsys.readouterr().err.startswith('data: row 1: `response_j` is preferred: "yes" over "no"\ndata: 1 pairs')


# --- elsewhere -----------------------------------------------------------------------------------------------------


def test_a_plan_takes_the_answer_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "prefs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in winners(0, 1, 2)))
    assert cli.main(["estimate", "--model", "demo", "--columns", "winner_coding=0/1/2"]) == 2
    assert "columns has no effect without --data" in capsys.readouterr().err
    assert cli.main(["estimate", "--model", "demo", "--data", str(path)]) == 2
    assert "reading 2 (winner_coding=0/1/2)" in capsys.readouterr().err


def test_held_out_rows_and_several_sets_say_theirs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, word in (("a", "a"), ("b", "b"), ("held", "b")):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(TWO | {"winner": word}) + "\n")
    load_preferences([tmp_path / "a.jsonl", tmp_path / "b.jsonl"], eval_data=tmp_path / "held.jsonl")
    said = capsys.readouterr().err.splitlines()
    assert said[:3] == [
        f"data: a, line 1: {FIRST}",
        f"data: b, line 1: {SECOND}",
        f"data: held out, line 1: {SECOND}",
    ]


def test_names_that_say_it_need_no_words(capsys: pytest.CaptureFixture[str]) -> None:
    loaded([{"prompt": "ask", "chosen": "yes", "rejected": "no"}])
    assert capsys.readouterr().err.startswith("data: 1 pairs")


@pytest.mark.parametrize("value", [10**400, -(10**400), 1e308])
def test_numbers_beyond_all_bounds_are_values_like_others(value: Any) -> None:
    for rows in (winners(1, value), labels(1, value), [RANKED | {"ranks": [1, value, 2]}]):
        with pytest.raises(DataError):
            loaded(rows)
