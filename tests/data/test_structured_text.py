"""Text that spells a structure is read as that structure, by one rule for every field; what is prose stays prose."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from likelier.data.formats import convert
from likelier.data.formats.spelled import NotSpelled, parse_spelled
from likelier.data.load import load_preferences
from likelier.data.records import Message, Record, Source
from likelier.data.sources import NamedRows, read_rows
from likelier.utils.errors import DataError

U = {"role": "user", "content": 'What does "it" like?\n\nSay it\'s \\n.'}
A = {"role": "assistant", "content": "The cat's place, [1] of {them}."}
B = {"role": "assistant", "content": "No idea: \u732b"}
CALL = {"type": "function", "function": {"name": "look", "arguments": {"at": ["a", None], "deep": True}}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}


def as_json(value: Any) -> str:
    return json.dumps(value)


def as_numpy(value: Any) -> str:
    """What pandas' to_csv writes of lists that came from Parquet."""
    return str(_arrays(value))


def _arrays(value: Any) -> Any:
    if isinstance(value, list):
        found = np.empty(len(value), dtype=object)
        found[:] = [_arrays(one) for one in value]
        return found
    return {name: _arrays(one) for name, one in value.items()} if isinstance(value, dict) else value


def as_twice(value: Any) -> str:
    return json.dumps(json.dumps(value))


WRITERS: dict[str, Callable[[Any], str]] = {"json": as_json, "repr": repr, "numpy": as_numpy, "twice": as_twice}
TWO_TURNS = [U, A, {"role": "user", "content": "And then?"}]
LAYOUTS: dict[str, dict[str, Any]] = {
    "pair": {"prompt": TWO_TURNS, "chosen": [A], "rejected": [CALLING]},
    "implicit": {"chosen": [U, A], "rejected": [U, B]},
    "sharegpt": {
        "conversations": [{"from": "human", "value": "a"}],
        "chosen": {"from": "gpt", "value": "b"},
        "rejected": {"from": "gpt", "value": "c"},
    },
    "winner": {"prompt": [U], "first": [A], "second": [B], "winner": ["a", "b", "a"]},
    "ranks": {"prompt": [U], "answers": [[A], [B]], "scores": [1, 2.5]},
    "texts": {"prompt": "x", "answers": ["it's", "b\nc"], "scores": [2, 1]},
    "judged": {"prompt": "x", "answers": ["a", "b", "c"], "judgements": ["a", "b", "tie"]},
    "label": {"prompt": [U], "completion": [A], "label": True},
    "messages": {"messages": [U, A], "label": False, "tools": [CALL]},
    "ids": {"prompt_ids": [1, 2], "chosen_ids": [3], "rejected_ids": [4]},
    "votes": {"prompt": "a", "chosen": "b", "rejected": "c", "votes": [2, 1, 0]},
    "tree": {"tree": {"role": "user", "text": "q", "replies": [
        {"role": "assistant", "text": "a", "score": 1}, {"role": "assistant", "text": "b", "score": 2}
    ]}},
}  # fmt: skip


def records_of(*rows: dict[str, Any]) -> list[Record]:
    named = NamedRows("rows", [(Source("rows", number, "row"), row) for number, row in enumerate(rows, 1)])
    return convert(named).records


def spelled(row: dict[str, Any], write: Callable[[Any], str]) -> dict[str, Any]:
    return {name: write(value) if isinstance(value, (list, dict)) else value for name, value in row.items()}


def reason_of(row: dict[str, Any], good: dict[str, Any]) -> Any:
    named = NamedRows("rows", [(Source("rows", 1, "row"), good), (Source("rows", 2, "row"), row)])
    (bad,) = convert(named).unusable
    return bad


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_row_says_the_same_as_objects_and_as_text(layout: str, kind: str) -> None:
    row = LAYOUTS[layout]
    assert records_of(spelled(row, WRITERS[kind])) == records_of(row)


@pytest.mark.parametrize("kind", WRITERS)
def test_csv_files_of_pandas_say_what_their_rows_say(tmp_path: Path, kind: str) -> None:
    rows = [LAYOUTS["pair"], {**LAYOUTS["pair"], "chosen": [B]}]
    pd.DataFrame([spelled(row, WRITERS[kind]) for row in rows]).to_csv(tmp_path / "a.csv", index=False)
    found = load_preferences(tmp_path / "a.csv").train
    assert [(one.prompt, one.chosen) for one in found] == [(one.prompt, one.chosen) for one in records_of(*rows)]  # type: ignore[union-attr]


# --- what stays text -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "[1] is a footnote",
        "[x] done",
        "{not json",
        '{"answer": 42, "why": ["a", "b"]}',
        '{"role": "CTO", "content": "strategy"}',
        '{"from": "2020-01-01", "value": 3}',
        "['a', 'b']",
        "[1, 2, 3]",
        '[{"from": "Rome", "value": 1}, {"from": "Oslo", "value": 2}]',
        '[{"role": "user", "content": "x"}] is what I sent. What is wrong?',
        '"To be" said he',
        "array([1, 2]) raises",
        "(see below)",
        "[note: the role: and the content: differ]",
        '{"content": "cut',
        "[{ note } role]",
        "[" * 5000,
        "{'a': __import__('os')}",
    ],
)
def test_prose_and_answers_in_json_stay_text(text: str) -> None:
    (pair,) = records_of({"prompt": text, "chosen": text + " ", "rejected": "no"})
    assert (pair.prompt, pair.chosen) == (text, text + " ")  # type: ignore[union-attr]


def test_an_answer_in_json_to_messages_stays_text() -> None:
    (pair,) = records_of({"prompt": as_json([U]), "chosen": '{"a": 1}', "rejected": "[1, 2]"})
    assert pair.chosen == (Message("assistant", '{"a": 1}'),)  # type: ignore[union-attr]


# --- what cannot be read -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('[{"role": "user", "content": "cut of', "broken JSON at column 30"),
        ("[{'role': 'user', 'content': 'cut of", "cut off or broken"),
        ("[{'content': 'a', 'role': 'user'}\n ...\n {'content': 'b', 'role': 'user'}]", "left out its middle"),
        ('[{"role": "user", "role": "user", "content": "x"}]', "stands twice"),
        ("[{'role': 'user', 'content': str(1)}]", "is no value"),
        ('{"role": "user", "content": "x"}\n{"role": "assistant", "content": "y"}', "broken JSON"),
        ('[{"role": "user", "content": ' + "[" * 3000 + "]" * 3000 + "}]", "nested too deeply"),
        ("[{'content': '" + "x" * 9000, "cut off or broken"),
        ("[{'name': 'Ann', 'content': '" + "x" * 9000 + "', 'role': 'us", "cut off or broken"),
        ('[{""role"": ""user"", ""content"": ""x""}]', "broken JSON"),
        ('[{\\"role\\": \\"user\\", \\"content\\": \\"x\\"}]', "cut off or broken"),
        ("[{\u201crole\u201d: \u201cuser\u201d, \u201ccontent\u201d: \u201cx\u201d}]", "cut off or broken"),
        ("[{role: 'user', content: 'x'}]", "is no value"),
        ("[Message(role='user', content='x')]", "is no value"),
    ],
)
def test_what_looks_like_messages_and_cannot_be_read_is_left_out_and_named(text: str, why: str) -> None:
    good = spelled(LAYOUTS["pair"], as_json)
    bad = reason_of({**good, "prompt": text}, good)
    assert bad.reason == "broken-structure" and why in bad.detail and bad.detail.startswith("prompt begins")
    with pytest.raises(DataError, match="none of the 1 rows can be used"):
        records_of({**good, "prompt": text})  # as the first row it shows its layout all the same


@pytest.mark.parametrize("column", ["chosen", "rejected"])
def test_one_answer_that_spells_messages_beside_plain_text_is_refused(column: str) -> None:
    good = spelled(LAYOUTS["pair"], as_json)
    bad = reason_of({**good, column: "plain"}, good)
    assert bad.reason == "half-structured" and "plain text" in bad.detail
    assert reason_of({**good, column: "[1] plain"}, good).reason == "half-structured"


def test_answers_of_which_one_spells_messages_are_refused() -> None:
    good = {"prompt": "x", "answers": [as_json([A]), as_json([B])], "scores": [1, 2]}
    assert reason_of({**good, "answers": [as_json([A]), "plain"]}, good).reason == "half-structured"


@pytest.mark.parametrize("layout", ["pair", "winner", "label", "ranks"])
def test_a_file_of_which_some_cells_spell_messages_and_others_are_prose_is_refused(layout: str) -> None:
    good = spelled(LAYOUTS[layout], as_json)
    text = {
        "pair": {"prompt": "x", "chosen": "y", "rejected": "z"},
        "winner": {"prompt": "x", "first": "y", "second": "z", "winner": "a"},
        "label": {"prompt": "x", "completion": "y", "label": True},
        "ranks": {"prompt": "x", "answers": ["y", "z"], "scores": "[1, 2]"},
    }[layout]
    for rows in ((good, text), (text, good)):
        with pytest.raises(DataError, match=r"some cells spell messages and others are plain text \(rows, row"):
            records_of(*rows)


def test_text_and_spelled_prompts_of_one_file_are_one_kind_where_the_answers_are_messages() -> None:
    answers = spelled({"chosen": [A], "rejected": [B]}, as_json)
    found = records_of({"prompt": "x", **answers}, {"prompt": as_json([U]), **answers})
    assert [one.prompt[-1].role for one in found] == ["user", "user"]  # type: ignore[union-attr]


@pytest.mark.parametrize("text", [as_json([U, A]), '[{"role": "user", "content": "cut'])
def test_a_map_keeps_texts_as_they_are(text: str) -> None:
    row = {"prompt": "Write a chat.", "chosen": text, "rejected": "no"}
    (pair,) = load_preferences([row], columns={"chat": False}).train
    assert (pair.prompt, pair.chosen) == ("Write a chat.", text)  # type: ignore[union-attr]


def test_fields_that_are_text_in_every_layout_do_not_take_messages() -> None:
    good = {"instruction": "do", "output": '{"a": 1}'}
    bad = reason_of({**good, "output": as_json([A])}, good)
    assert bad.reason == "not-text" and "output spells messages" in bad.detail
    with pytest.raises(DataError, match="none of the 1 rows can be used"):
        records_of({**good, "instruction": as_json([U])})


def test_rows_of_texts_beside_rows_of_messages_are_named() -> None:
    data = load_preferences([{"prompt": "x", "chosen": "y", "rejected": "z"}, LAYOUTS["pair"]])
    assert "some prompts are text, which goes past the chat template, and some are messages" in str(data)


# --- tools, parts, lists of columns --------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [as_json, repr, as_numpy, lambda value: [json.dumps(one) for one in value]])
def test_tools_and_calls_that_are_text_are_the_same_tools(write: Callable[[Any], Any]) -> None:
    row = {"prompt": [U], "chosen": [CALLING], "rejected": [A], "tools": [CALL]}
    texts = {**row, "chosen": [{**CALLING, "tool_calls": write([CALL])}], "tools": write([CALL])}
    assert records_of(texts) == records_of(row)


PARTS = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]


@pytest.mark.parametrize(
    "content",
    [
        PARTS,
        [{**part, "image_url": None} for part in PARTS],
        ["one ", {"text": "two"}],
        [{"type": "input_text", "text": "one "}, {"type": "output_text", "text": "two", "annotations": []}],
        {"type": ["text", "text"], "text": ["one ", "two"]},
        as_json(PARTS),
        repr(PARTS),
        as_numpy(PARTS),
        np.array(PARTS, dtype=object),
    ],
)
def test_text_parts_are_their_text(content: Any) -> None:
    (pair,) = records_of({"prompt": [{"role": "user", "content": content}], "chosen": [A], "rejected": [B]})
    assert pair.prompt == (Message("user", "one two"),)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ([{"type": "image_url", "image_url": {"url": "x"}}], "'image_url'"),
        ([{"type": "text", "text": "a"}, {"type": "image"}], "'image'"),
        ([{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}], "cache_control"),
        ([3], "int"),
        ('[{"type": "text", "text": "cut', "begins"),
    ],
)
def test_parts_that_are_no_text_are_named(content: Any, why: str) -> None:
    row = {"prompt": [{"role": "user", "content": content}], "chosen": [A], "rejected": [B]}
    bad = reason_of(row, LAYOUTS["pair"])
    assert bad.reason in ("not-text", "broken-structure") and why in bad.detail


def test_a_message_that_is_a_list_of_other_objects_is_text() -> None:
    text = '[{"type": "text", "text": "a", "size": 3}, {"type": "box"}]'
    (pair,) = records_of({"prompt": [{"role": "user", "content": text}], "chosen": [A], "rejected": [B]})
    assert pair.prompt == (Message("user", text),)


def listed(messages: list[dict[str, Any]]) -> dict[str, list[Any]]:
    names = {name: None for message in messages for name in message}
    return {name: [message.get(name) for message in messages] for name in names}


@pytest.mark.parametrize("layout", ["pair", "implicit", "messages", "winner", "label"])
def test_messages_as_an_object_of_lists_are_the_same_messages(layout: str) -> None:
    row = LAYOUTS[layout]
    lists = {
        name: listed(value) if isinstance(value, list) and isinstance(value[0], dict) and name != "tools" else value
        for name, value in row.items()
    }
    assert records_of(lists) == records_of(row)
    assert records_of(spelled(lists, as_json)) == records_of(row)


def test_sequences_of_datasets_are_read(tmp_path: Path) -> None:
    turns = datasets.Sequence({"role": datasets.Value("string"), "content": datasets.Value("string")})
    rows = [{"chosen": [U, A], "rejected": [U, B]}, {"chosen": [U, B], "rejected": [U, A]}]
    features = datasets.Features({"chosen": turns, "rejected": turns})
    stored = [{name: listed(turns) for name, turns in row.items()} for row in rows]
    datasets.Dataset.from_list(stored, features=features).save_to_disk(tmp_path / "saved")
    found = convert(read_rows(tmp_path / "saved")).records
    assert [one.chosen for one in found] == [one.chosen for one in records_of(*rows)]  # type: ignore[union-attr]


def test_rows_of_pandas_in_memory_are_read() -> None:
    row = {name: _arrays(value) for name, value in LAYOUTS["pair"].items()}
    assert records_of(row) == records_of(LAYOUTS["pair"])


def test_a_dotted_name_looks_into_objects_that_are_text() -> None:
    rows = [{"q": "x", "c": [{"text": "a", "score": {"all": 1}}, {"text": "b", "score": {"all": 2}}]}]
    columns = {"prompt": "q", "answers": "c.text", "scores": "c.score.all"}
    written = [[{name: write(value) if name == "c" else value for name, value in row.items()} for row in rows]
               for write in (as_json, repr, as_numpy)]  # fmt: skip
    for texts in written:
        assert load_preferences(texts, columns=columns).train == load_preferences(rows, columns=columns).train


# --- the parser ----------------------------------------------------------------------------------------------------

LEAVES = st.one_of(st.none(), st.booleans(), st.integers(-(2**60), 2**60), st.floats(-1e9, 1e9), st.text(max_size=20))
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=12,
).filter(lambda value: isinstance(value, (list, dict)))


@given(VALUES)
def test_what_python_and_json_write_is_read_as_it_was(value: Any) -> None:
    assert parse_spelled(repr(value)) == value
    assert parse_spelled(json.dumps(value)) == value


@given(VALUES)
def test_what_numpy_writes_is_read_as_it_was(value: Any) -> None:
    with np.printoptions(threshold=10**6):
        assert parse_spelled(as_numpy(value)) == value


@given(st.text(alphabet="[]{}()'\",:\\ \nabrynoeNT0123.-=", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse_spelled(text)
    except NotSpelled as error:
        assert str(error)
