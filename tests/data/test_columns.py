"""Column maps: which column is what, and what coded values mean; what is ambiguous is asked for, never guessed."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from likelier import Columns, DataSet, load_preferences
from likelier.data.columns import columns_of
from likelier.data.formats import Converted, convert
from likelier.data.formats.codings import key_of
from likelier.data.records import Labelled, Message, Pair
from likelier.data.sources import read_rows
from likelier.training.config import data_sets, parse
from likelier.utils.errors import ConfigError, DataError


def converted(rows: list[dict[str, Any]], **columns: Any) -> Converted:
    return convert(read_rows(rows), columns_of(columns) if columns else None)


def pair_of(row: dict[str, Any], **columns: Any) -> Pair:
    found = converted([row], **columns).records
    assert len(found) == 1 and isinstance(found[0], Pair)
    return found[0]


def refused(rows: list[dict[str, Any]], kind: type[Exception] = DataError, **columns: Any) -> str:
    with pytest.raises(kind) as caught:
        converted(rows, **columns)
    return str(caught.value)


# --- what a map may say --------------------------------------------------------------------------------------------


def test_a_map_is_the_same_from_yaml_and_from_flags() -> None:
    block = {"prompt": ["task", "input"], "chosen": "good", "rejected": "bad", "threshold": "4", "chat": True}
    words = ["prompt=task, input", "chosen=good", "rejected=bad", "threshold=4", "chat=true"]
    assert columns_of(block) == columns_of(words)
    expected = Columns(prompt=("task", "input"), chosen="good", rejected="bad", threshold=4.0, chat=True)
    assert columns_of(block) == columns_of(expected) == expected
    assert columns_of(["prompt={a}, {b}\\n{c}"]) == Columns(prompt="{a}, {b}\n{c}")
    assert columns_of({"pairs-from": "best"}) == Columns(pairs_from="best")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"promt": "a"}, "columns: unknown role 'promt'; did you mean prompt?; known: prompt, system"),
        (["prompt"], "columns: 'prompt' is not ROLE=COLUMN, such as prompt=question"),
        (["prompt="], "columns: 'prompt=' is not ROLE=COLUMN"),
        (["prompt=a", "prompt=b"], "columns: prompt was given twice; keep one"),
        ("prompt", "columns: must be a block of roles and column names, found str"),
        ({"prompt": 3}, "columns: prompt=3; give a column's name or a list of them"),
        ({"prompt": []}, "columns: prompt=[]; give a column's name or a list of them"),
        ({"chosen": ["a", "b"]}, "columns: chosen=['a', 'b']; give a column's name"),
        ({"threshold": "high"}, "columns: threshold='high' is not a number"),
        ({"chat": "perhaps"}, "columns: chat='perhaps' is neither true nor false"),
        ({"pairs_from": "some"}, "columns: pairs_from='some' is not one of: all, best, adjacent"),
        ({"threshold": 4, "label_coding": "a/b"}, "columns: threshold and label_coding were both given; keep one"),
    ],
)
def test_a_map_that_cannot_be_is_refused(value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        columns_of(value)
    assert str(caught.value).startswith(message)


def test_the_run_file_takes_a_map_for_all_data_or_for_one_of_them() -> None:
    base = {"model": "m", "output": "o"}
    shared = parse({**base, "data": "d", "columns": ["prompt=question"]}).run
    assert shared.columns == Columns(prompt="question")
    (one,) = data_sets("data", {"path": "a.jsonl", "columns": {"prompt": "question"}})
    assert one == DataSet("a.jsonl", columns=Columns(prompt="question"))
    with pytest.raises(ConfigError, match="unknown role 'promt'; did you mean prompt"):
        parse({**base, "data": [{"path": "a", "columns": {"promt": "b"}}]})


def test_a_map_serves_the_sets_that_have_none_of_their_own(tmp_path: Path) -> None:
    rows = [{"q": "ask", "good": "yes", "bad": "no"}]
    files = []
    for name in ("a", "b"):
        files.append(tmp_path / f"{name}.json")
        files[-1].write_text(json.dumps([{("x" if name == "b" else "q"): "ask", "good": "yes", "bad": "no"}]))
    own = DataSet(str(files[1]), columns={"prompt": "x", "chosen": "good", "rejected": "bad"})  # type: ignore[arg-type]
    shared = {"prompt": "q", "chosen": "good", "rejected": "bad"}
    data = load_preferences([DataSet(str(files[0])), own], columns=shared)
    assert [record.prompt for record in data.train] == ["ask", "ask"]
    assert len(load_preferences(rows, eval_data=rows, columns=shared).test) == 1
    with pytest.raises(ConfigError, match="columns has no effect: every data set has columns of its own"):
        load_preferences(own, columns=shared)


# --- columns of other names ----------------------------------------------------------------------------------------


def test_columns_of_other_names_are_read_and_the_rest_is_told() -> None:
    row = {"question": "ask", "good": "yes", "bad": "no", "notes": "x"}
    found = converted([row], prompt="question", chosen="good", rejected="bad")
    assert found.records == [Pair("ask", "yes", "no", found.records[0].source)]
    assert (found.format, found.unread_columns) == ("prompt, chosen, rejected", ["notes"])


def test_what_is_not_named_is_looked_for_under_its_own_name() -> None:
    pair = pair_of({"question": "ask", "chosen": "yes", "rejected": "no"}, prompt="question")
    assert (pair.prompt, pair.chosen) == ("ask", "yes")


def test_a_column_may_change_places_with_another() -> None:
    pair = pair_of({"prompt": "ask", "chosen": "no", "rejected": "yes"}, chosen="rejected", rejected="chosen")
    assert (pair.chosen, pair.rejected) == ("yes", "no")


def test_a_missing_column_is_named_with_the_nearest() -> None:
    message = refused([{"question": "ask", "chosen": "yes", "rejected": "no"}], prompt="qestion")
    assert message.startswith("rows, row 1: no column 'qestion', which the column map names; did you mean question?")
    rows = [{"q": "a", "chosen": "b", "rejected": "c"}, {"chosen": "b", "rejected": "c"}]
    assert refused(rows, prompt="q").startswith("rows, row 2: no column 'q'")


def test_a_map_that_makes_no_layout_shows_itself() -> None:
    message = refused([{"a": "x", "b": "y"}], prompt="a", chosen="b")
    assert "With the column map {'prompt': 'a', 'chosen': 'b'} they make no known layout" in message


def test_a_part_of_the_map_without_effect_is_refused() -> None:
    row = {"prompt": "ask", "chosen": "yes", "rejected": "no"}
    assert "pairs_from has no effect on 'prompt, chosen, rejected'" in refused([row], ConfigError, pairs_from="best")
    assert "With the column map" in refused([row | {"more": 1}], completion="more")


@pytest.mark.parametrize(
    ("prompt", "row", "expected"),
    [
        (["task", "input"], {"task": "do", "input": "this"}, "do\nthis"),
        (["task", "input"], {"task": "do", "input": ""}, "do"),
        (["task", "input"], {"task": "do", "input": None}, "do"),
        ("{task}\n\nInput: {input}\nAnswer:", {"task": "do", "input": "this"}, "do\n\nInput: this\nAnswer:"),
        ("{task}\nInput: {input}\nAnswer:", {"task": "do", "input": ""}, "do\nAnswer:"),
        ("{task} ({number})", {"task": "do", "number": 3}, "do (3)"),
        ("{parts}", {"parts": [["a", "b."], ["c"]]}, "a b.\n\nc"),
        ("{a.b}", {"a": {"b": "deep"}}, "deep"),
        ("text", {"text": "  kept \n"}, "  kept \n"),
    ],
)
def test_a_prompt_is_made_of_columns(prompt: Any, row: dict[str, Any], expected: str) -> None:
    assert pair_of(row | {"chosen": "yes", "rejected": "no"}, prompt=prompt).prompt == expected


def test_a_prompt_of_empty_columns_is_no_prompt() -> None:
    rows = [{"task": "do", "chosen": "yes", "rejected": "no"}, {"task": " ", "chosen": "yes", "rejected": "no"}]
    found = converted(rows, prompt="{task}")
    assert found.unusable.counts() == {"no-prompt": 1} and len(found.records) == 1
    assert converted(rows[::-1], prompt="{task}").unusable.counts() == {"no-prompt": 1}


def test_text_becomes_a_conversation_where_that_is_asked_for() -> None:
    row = {"prompt": "ask", "chosen": "yes", "rejected": "no", "instructions": "be kind"}
    asked, good = Message("user", "ask"), (Message("assistant", "yes"),)
    assert (pair_of(row, chat=True).prompt, pair_of(row, chat=True).chosen) == ((asked,), good)
    assert pair_of(row, system="instructions").prompt == (Message("system", "be kind"), asked)
    assert pair_of(row | {"instructions": None}, system="instructions", chat=True).prompt == (asked,)
    messages = row | {"prompt": [{"role": "user", "content": "ask"}]}
    assert pair_of(messages, system="instructions").prompt == (Message("system", "be kind"), asked)


def test_a_single_answer_and_a_conversation_under_other_names() -> None:
    (one,) = converted([{"q": "ask", "a": "yes", "ok": "up"}], prompt="q", completion="a", label="ok").records
    assert one == Labelled("ask", "yes", True, one.source)
    talk = [{"from": "human", "value": "ask"}, {"from": "gpt", "value": "yes"}]
    (other,) = converted([{"talk": talk, "ok": "bad"}], messages="talk", label="ok").records
    assert isinstance(other, Labelled) and not other.desirable and other.prompt == (Message("user", "ask"),)


# --- who won -------------------------------------------------------------------------------------------------------

TWO = {"prompt": "ask", "first": "one", "second": "two"}


def winners(*values: Any, **columns: Any) -> list[str]:
    """The chosen answer of each row, `tie` for an undecided one."""
    found = converted([TWO | {"winner": value} for value in values], **columns).records
    return [str(pair.chosen) if pair.is_decided else "tie" for pair in found]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["a", "B", " tie "], ["one", "two", "tie"]),
        (["model_a", "model_b", "tie (bothbad)"], ["one", "two", "tie"]),
        (["first", "second", "neither"], ["one", "two", "tie"]),
        (["Response 1", "Response 2"], ["one", "two"]),
        (["output_1", "output_2"], ["one", "two"]),
    ],
)
def test_a_winner_is_understood_from_the_values_of_the_column(values: list[Any], expected: list[str]) -> None:
    assert winners(*values) == expected


@pytest.mark.parametrize(
    ("coding", "values", "expected"),
    [
        ("1/0", [1, 0], ["one", "two"]),
        ("0/1", [1, 0], ["two", "one"]),
        ("0/1/2", [0, 1, 2], ["one", "two", "tie"]),
        ("1/2", [1, 2, 1], ["one", "two", "one"]),
        ("1/2", ["1", "2", "2.0"], ["one", "two", "two"]),
        ("1/2/0", [0, 1, 2], ["tie", "one", "two"]),
        ("share", [1, 0, 0.5], ["one", "two", "tie"]),
        ("share", ["0.25", "1"], ["two", "one"]),
        ("share-second", [0.9, 0.2, 0.5], ["two", "one", "tie"]),
        ("positive-first", [3, -1, 0], ["one", "two", "tie"]),
        ("negative-first", ["3", "-1", "0"], ["two", "one", "tie"]),
        ("left/right/same|unsure", ["left", "Right", "same", "unsure"], ["one", "two", "tie", "tie"]),
        ("true/false", [True, False, "TRUE"], ["one", "two", "one"]),
    ],
)
def test_a_winners_coding_can_be_said(coding: str, values: list[Any], expected: list[str]) -> None:
    assert winners(*values, winner_coding=coding) == expected


@pytest.mark.parametrize(
    "values",
    [
        *([0, 1], [1, 1], [True, False], [-1, 1], [0, 3], ["x", "y"], ["a", 1], [1.5]),
        *([0, 1, 2], ["1", "2"], [1.0, 2.0], [2, 2], [0.9, 0.2, 0.5], ["0.25", "1"], [-1, 0, 1], [1, 2, 3, 4, 5]),
    ],
)
def test_what_can_mean_several_things_is_shown_and_asked_for(values: list[Any]) -> None:
    message = refused([TWO | {"winner": value} for value in values])
    assert message.startswith("rows: the winner is ") and "can mean several things" in message
    assert "--columns winner_coding=1/0" in message
    assert repr(key_of(values[-1])) in message


def test_a_value_that_a_coding_does_not_know_is_shown_with_its_line() -> None:
    rows = [TWO | {"winner": value} for value in (1, 2, 7)]
    message = refused(rows, winner_coding="1/2")
    assert message.startswith("rows, row 3: winner is 7, which has no meaning where 1 means the first answer")
    assert "--columns winner_coding=" in message


@pytest.mark.parametrize("coding", ["1", "1/2/3/4", "1/1", "a/", "signed"])
def test_a_coding_that_cannot_be_is_refused(coding: str) -> None:
    assert "winner_coding" in refused([TWO | {"winner": 1}], ConfigError, winner_coding=coding)


def test_several_annotators_are_votes() -> None:
    row = {**TWO, "ann": 2, "bob": 2, "eve": 1}
    columns = {"winner": ["ann", "bob", "eve"], "winner_coding": "1/2/0"}
    pair = pair_of(row, **columns)
    assert (pair.chosen, pair.votes) == ("two", (2, 1, 0))
    assert pair_of(row | {"bob": 0}, **columns).votes == (1, 1, 1)
    assert not pair_of(row | {"bob": 0}, **columns).is_decided
    assert pair_of(row | {"ann": 0, "bob": None}, **columns).votes == (1, 0, 1)
    assert pair_of({**TWO, "winner": ["b", "b", "a", "tie"]}).votes == (2, 1, 1)


def test_one_clear_winner_needs_no_votes_and_a_tie_does() -> None:
    assert pair_of({**TWO, "winner": "a"}).votes is None
    assert pair_of({**TWO, "winner": "tie"}).votes == (0, 0, 1)


def test_a_share_is_kept_as_the_chance_of_the_other_side() -> None:
    pair = pair_of({**TWO, "winner": 0.25}, winner_coding="share")
    assert (pair.chosen, pair.flip_chance, pair.votes) == ("two", 0.25, None)
    both = pair_of({**TWO, "winner": [0.9, 0.6]}, winner_coding="share")
    assert (both.chosen, both.flip_chance) == ("one", pytest.approx(0.25))


def test_a_row_without_a_winner_is_counted() -> None:
    rows = [TWO | {"winner": value} for value in ("a", None, "", float("nan"))]
    assert converted(rows).unusable.counts() == {"no-judgement": 3}


def test_scores_and_margins_go_with_their_answers() -> None:
    row = {**TWO, "winner": "b", "score_first": 1, "score_second": "4.5"}
    assert pair_of(row).scores == (4.5, 1.0)
    assert pair_of({**TWO, "side": -2}, winner="side", margin="side", winner_coding="negative-first").margin == 2.0


def test_conversations_of_two_models_are_compared() -> None:
    def talk(answer: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": "ask"}, {"role": "assistant", "content": answer}]

    found = converted([{"conversation_a": talk("one"), "conversation_b": talk("two"), "winner": "model_b", "turn": 1}])
    pair = found.records[0]
    assert isinstance(pair, Pair) and pair.chosen == (Message("assistant", "two"),)
    assert (found.format, found.unread_columns) == ("arena conversations", ["turn"])


# --- whether an answer is good -------------------------------------------------------------------------------------


def thumbs(*values: Any, **columns: Any) -> list[bool]:
    rows = [{"prompt": f"ask {number}", "completion": "yes", "label": value} for number, value in enumerate(values)]
    return [record.desirable for record in converted(rows, **columns).records]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "values", [(True, False), (1, 0), ("1", "0"), ("yes", "No"), ("up", "down"), ("good", "bad"), (1, -1), ("👍", "👎")]
)
def test_a_label_is_understood_from_the_values_of_the_column(values: tuple[Any, Any]) -> None:
    assert thumbs(*values) == [True, False]


def test_ratings_need_a_threshold_or_a_coding() -> None:
    ratings = [1, 2, 3, 4, "5"]
    assert thumbs(*ratings, threshold=4) == [False, False, False, True, True]
    rows = [{"prompt": "ask", "completion": str(value), "ok": value} for value in ratings]
    found = converted(rows, label="ok", label_coding="4|5/1|2/3")
    assert found.unusable.counts() == {"no-label": 1} and len(found.records) == 4
    message = refused(rows, label="ok")
    assert "the label (column ok) is 1 (1 times), 2 (1 times)" in message and "--columns threshold=4" in message


def test_a_column_that_is_called_label_can_have_a_coding_too() -> None:
    rows = [
        {"prompt": "ask", "completion": "yes", "label": "fine"},
        {"prompt": "b", "completion": "no", "label": "poor"},
    ]
    assert "label_coding=good/bad" in refused(rows)
    found = converted(rows, label_coding="fine/poor").records
    assert [record.desirable for record in found] == [True, False]  # type: ignore[union-attr]


# --- workbooks -----------------------------------------------------------------------------------------------------


def workbook(path: Path, **sheets: list[list[Any]]) -> Path:
    from openpyxl import Workbook

    book = Workbook()
    book.remove(book.active)  # type: ignore[arg-type]
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


SHEET = [["question", "good", "bad", None], ["ask 你好", "yes", "no", "note"], [None] * 4, ["more", 3, "no", None]]


def test_a_workbook_is_read_by_its_first_row(tmp_path: Path) -> None:
    path = workbook(tmp_path / "pairs.xlsx", sheet=SHEET)
    columns = {"prompt": "question", "chosen": "good", "rejected": "bad"}
    data = load_preferences(path, columns=columns)
    pairs = [(pair.prompt, pair.chosen) for pair in data.train]  # type: ignore[union-attr]
    assert pairs == [("ask 你好", "yes"), ("more", "3")]
    assert [str(row) for row in data.unusable] == [f"{path}, row 3: blank-row"]


def test_cells_of_a_workbook_are_the_text_that_they_are_as_csv(tmp_path: Path) -> None:
    cells = [[7, 9.0], [0.5, 1e-7], [True, False], [date(2024, 5, 1), "x"]]
    path = workbook(
        tmp_path / "cells.xlsx", sheet=[["prompt", "chosen", "rejected"], *(["ask", *row] for row in cells)]
    )
    read = [(pair.chosen, pair.rejected) for pair in load_preferences(path).train]  # type: ignore[union-attr]
    assert read[:3] == [("7", "9"), ("0.5", "1e-07"), ("TRUE", "FALSE")]
    assert str(read[3][0]).startswith("2024-05-01")


def test_a_workbook_of_several_sheets_is_asked_which(tmp_path: Path) -> None:
    path = str(workbook(tmp_path / "pairs.xlsx", one=SHEET, two=[["prompt", "chosen", "rejected"], ["a", "b", "c"]]))
    assert len(load_preferences(DataSet(path, subset="two")).train) == 1
    with pytest.raises(DataError, match=r"has several sheets: \['one', 'two'\]; name one with records"):
        load_preferences(path)
    with pytest.raises(DataError, match="has no sheet 'three'"):
        load_preferences(DataSet(path, subset="three"))


def test_a_workbook_that_cannot_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken.xlsx"
    broken.write_text("no workbook")
    with pytest.raises(DataError, match=r"not a readable \.xlsx workbook"):
        load_preferences(broken)
    with pytest.raises(DataError, match="two columns are called 'a'; rename one"):
        load_preferences(workbook(tmp_path / "twice.xlsx", sheet=[["a", "a"], ["x", "y"]]))
    monkeypatch.setitem(__import__("sys").modules, "openpyxl", None)
    with pytest.raises(ConfigError, match=r"needs openpyxl: pip install 'likelier\[xlsx\]'"):
        load_preferences(broken)


# --- tools ---------------------------------------------------------------------------------------------------------

TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
TAKES_TOOLS = "{% if tools %}tools: {{ tools[0]['function']['name'] }}\n{% endif %}"


def test_tools_reach_a_template_that_takes_them() -> None:
    from likelier.data.tokenize import tokenize_records
    from tests.helpers.support import CHATML, tiny_tokenizer

    talk = [{"role": "user", "content": "ask"}]
    row = {"prompt": talk, "chosen": "yes", "rejected": "no", "functions": TOOLS}
    pair = pair_of(row, tools="functions")
    assert (
        json.loads(pair.tools)
        == TOOLS
        == json.loads(pair_of(row | {"functions": json.dumps(TOOLS)}, tools="functions").tools)
    )
    tokenizer = tiny_tokenizer()
    assert [one.name for one in tokenize_records([pair], tokenizer, max_length=99).unprinted] == ["tools"]
    tokenizer.chat_template = TAKES_TOOLS + CHATML
    (group,) = tokenize_records([pair], tokenizer, max_length=99).groups
    assert tokenizer.decode(group.prompt).startswith("tools: look\n<|im_start|>user")


def test_tool_calls_are_part_of_a_turn() -> None:
    calls = [{"type": "function", "function": {"name": "look", "arguments": {"at": "it"}}}]
    answer = [{"role": "assistant", "content": None, "tool_calls": calls}]
    pair = pair_of({"prompt": [{"role": "user", "content": "ask"}], "chosen": answer, "rejected": "no"})
    assert pair.chosen == (Message("assistant", "", json.dumps(calls)),)
