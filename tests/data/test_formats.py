"""What rows mean: every known format, every row that cannot be used, every message about a column."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from likelier.data.columns import Columns
from likelier.data.formats import FORMATS, Converted, convert, hh_messages
from likelier.data.load import load_preferences
from likelier.data.records import Labelled, Message, Pair, TokenIds, Unusable, answers_of, to_labels
from likelier.data.sources import read_rows
from likelier.utils.errors import ConfigError, DataError
from tests.helpers.support import SHARED


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def system(text: str) -> dict[str, str]:
    return {"role": "system", "content": text}


def human(text: str) -> dict[str, str]:
    return {"from": "human", "value": text}


def gpt(text: str) -> dict[str, str]:
    return {"from": "gpt", "value": text}


ASK, YES, NO = (Message("user", "ask"),), (Message("assistant", "yes"),), (Message("assistant", "no"),)
GOOD = {"prompt": "ask", "chosen": "yes", "rejected": "no"}


def converted(*rows: dict[str, Any]) -> Converted:
    columns = Columns(ranks_best="smallest") if "ranks" in rows[0] else None  # asked for: see test_questions.py
    return convert(read_rows(list(rows)), columns)


def record_of(row: dict[str, Any]) -> Any:
    found = converted(row)
    assert len(found.records) == 1 and len(found.unusable) == 0
    return found.records[0]


def content_of(row: dict[str, Any]) -> tuple[Any, Any, Any]:
    record = record_of(row)
    if isinstance(record, Pair):
        return record.prompt, record.chosen, record.rejected
    return record.prompt, record.answer, getattr(record, "desirable", None)


def reason_of(bad: dict[str, Any], *good: dict[str, Any]) -> Unusable:
    """Why `bad` is left out, when it follows good rows."""
    found = converted(*(good or (GOOD,)), bad)
    assert len(found.unusable) == 1
    return found.unusable[0]


def message_of(*rows: dict[str, Any]) -> str:
    with pytest.raises(DataError) as caught:
        converted(*rows)
    return str(caught.value)


# --- every format, recognised from its columns ---------------------------------------------------------------------

RECOGNISED: list[tuple[str, dict[str, Any], tuple[Any, Any, Any]]] = [
    (
        "tokenized pairs",
        {"prompt_ids": [1, 2], "chosen_ids": [3], "rejected_ids": [4, 5]},
        (TokenIds((1, 2)), TokenIds((3,)), TokenIds((4, 5))),
    ),
    ("ShareGPT pairs", {"conversations": [human("ask")], "chosen": gpt("yes"), "rejected": gpt("no")}, (ASK, YES, NO)),
    ("prompt, chosen, rejected", GOOD, ("ask", "yes", "no")),
    (
        "prompt, chosen, rejected",
        {"prompt": [user("ask")], "chosen": [assistant("yes")], "rejected": [assistant("no")]},
        (ASK, YES, NO),
    ),
    ("prompt, chosen, rejected", {"prompt": [user("ask")], "chosen": "yes", "rejected": "no"}, (ASK, YES, NO)),
    (
        "prompt, chosen, rejected",
        {"prompt": "ask", "chosen": [assistant("yes")], "rejected": [assistant("no")]},
        (ASK, YES, NO),
    ),
    (
        "HH-RLHF dialogues",
        {"chosen": "\n\nHuman: ask\n\nAssistant: yes", "rejected": "\n\nHuman: ask\n\nAssistant: no"},
        (ASK, YES, NO),
    ),
    (
        "conversations with an implicit prompt",
        {"chosen": [user("ask"), assistant("yes")], "rejected": [user("ask"), assistant("no")]},
        (ASK, YES, NO),
    ),
    ("prompt, completion, label", {"prompt": "ask", "completion": "yes", "label": True}, ("ask", "yes", True)),
    (
        "prompt, completion, label",
        {"prompt": [user("ask")], "completion": [assistant("yes")], "label": False},
        (ASK, YES, False),
    ),
    ("messages, label", {"messages": [user("ask"), assistant("yes")], "label": True}, (ASK, YES, True)),
    (
        "ShareGPT conversations, label",
        {"conversations": [human("ask"), gpt("yes")], "label": False},
        (ASK, YES, False),
    ),
    (
        "two answers and a winner",
        {"prompt": "ask", "first": "no", "second": "yes", "winner": "b"},
        ("ask", "yes", "no"),
    ),
    (
        "two answers and their votes",
        {"prompt": "ask", "first": "no", "second": "yes", "votes": [1, 2]},
        ("ask", "yes", "no"),
    ),
    ("ranked answers", {"prompt": "ask", "answers": ["no", "yes"], "ranks": [2, 1]}, ("ask", "yes", "no")),
    ("scored answers", {"prompt": "ask", "answers": ["no", "yes"], "scores": [2, 8.5]}, ("ask", "yes", "no")),
    (
        "answers with a judgement for each two",
        {"prompt": "ask", "answers": ["no", "yes"], "judgements": ["b"]},
        ("ask", "yes", "no"),
    ),
    (
        "conversation tree, a tree a row",
        {
            "tree": {
                "role": "prompter",
                "text": "ask",
                "replies": [
                    {"role": "assistant", "text": "no", "score": 0},
                    {"role": "assistant", "text": "yes", "score": 1},
                ],
            }
        },
        (ASK, YES, NO),
    ),
    ("prompt, completion", {"prompt": "ask", "completion": "yes"}, ("ask", "yes", None)),
    ("messages", {"messages": [user("ask"), assistant("yes")]}, (ASK, YES, None)),
    ("ShareGPT conversations", {"conversations": [human("ask"), gpt("yes")]}, (ASK, YES, None)),
    ("instruction, output", {"instruction": "ask", "output": "yes"}, (ASK, YES, None)),
]


@pytest.mark.parametrize(
    ("name", "row", "content"), RECOGNISED, ids=[f"{n}-{i}" for i, (n, *_) in enumerate(RECOGNISED)]
)
def test_every_format_is_recognised_without_configuration(name: str, row: dict[str, Any], content: Any) -> None:
    assert converted(row).format == name
    assert content_of(row) == content
    assert content_of(json.loads(json.dumps(row)) | {"extra": 1}) == content


def test_the_list_above_holds_every_format() -> None:
    # see test_rankings.py, test_grouped_and_voted.py and test_acceptable.py
    of_whole_files = {"conversation tree, a message a row", "a scored answer a row", "answers, each with a label"}
    assert {name for name, *_ in RECOGNISED} | of_whole_files == {layout.name for layout in FORMATS}


def test_a_record_says_where_it_came_from(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n" + json.dumps(GOOD) + "\n", encoding="utf-8")
    assert str(convert(read_rows(path)).records[0].source) == f"{path}:2"


def test_ultrafeedback_rows_take_the_prompt_from_the_conversations() -> None:
    row = {
        "prompt": "ask",
        "prompt_id": "abc",
        "chosen": [user("ask"), assistant("yes")],
        "rejected": [user("ask"), assistant("no")],
        "score_chosen": 8.5,
    }
    assert content_of(row) == (ASK, YES, NO)
    assert converted(row).unread_columns == ["prompt_id", "score_chosen"]


def test_the_implicit_prompt_is_everything_before_the_last_turn() -> None:
    turns = [system("be kind"), user("one"), assistant("two"), user("three")]
    row = {"chosen": [*turns, assistant("yes")], "rejected": [*turns, assistant("no")]}
    prompt, chosen, rejected = content_of(row)
    assert [message.role for message in prompt] == ["system", "user", "assistant", "user"]
    assert (chosen, rejected) == (YES, NO)


def test_answers_that_begin_alike_are_kept_whole() -> None:
    row = {"chosen": [user("a"), assistant("blue")], "rejected": [user("a"), assistant("blue and vast")]}
    assert [side[0].content for side in content_of(row)[1:]] == ["blue", "blue and vast"]
    plain = {"prompt": "a ", "chosen": "yes", "rejected": "yesterday"}
    assert content_of(plain) == ("a ", "yes", "yesterday")


# --- ShareGPT ------------------------------------------------------------------------------------------------------


def test_sharegpt_roles_become_the_usual_ones() -> None:
    turns = [{"from": "system", "value": "s"}, human("h"), gpt("g"), {"from": "observation", "value": "o"}]
    prompt = content_of({"conversations": turns, "chosen": gpt("yes"), "rejected": gpt("no")})[0]
    assert [message.role for message in prompt] == ["system", "user", "assistant", "tool"]


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        ({"conversations": [human("ask")], "chosen": gpt("yes"), "rejected": gpt("no")}, YES),
        ({"conversations": [human("ask"), gpt("yes")], "label": True}, YES),
        ({"messages": [user("ask"), assistant("yes")], "label": True}, YES),
    ],
)
def test_a_system_column_becomes_the_first_message(row: dict[str, Any], answer: Any) -> None:
    prompt, found, _ = content_of(row | {"system": "be kind"})
    assert prompt == (Message("system", "be kind"), *ASK) and found == answer
    assert converted(row | {"system": "be kind"}).unread_columns == []
    assert content_of(row | {"system": ""})[0] == ASK
    assert content_of(row | {"system": None})[0] == ASK


def test_an_unknown_role_is_counted_with_the_role() -> None:
    bad = {"prompt": [{"role": "wizard", "content": "x"}], "chosen": "yes", "rejected": "no"}
    assert (reason_of(bad).reason, reason_of(bad).detail) == ("unknown-role", "'wizard'")


# --- HH dialogues --------------------------------------------------------------------------------------------------


def test_exactly_one_space_after_a_marker_is_stripped() -> None:
    text = "\n\nHuman:  two spaces \n\nAssistant:none\n\nHuman:\ttab\n\nAssistant: one\nline"
    assert [(message.role, message.content) for message in hh_messages(text)] == [
        ("user", " two spaces "),
        ("assistant", "none"),
        ("user", "\ttab"),
        ("assistant", "one\nline"),
    ]


turn_text = st.text(st.characters(exclude_categories=["Cs"])).filter(lambda text: "\n\n" not in text)


@given(st.lists(st.tuples(st.sampled_from(["Human", "Assistant"]), turn_text), min_size=1, max_size=5))
def test_a_dialogue_is_only_cut_at_its_markers(turns: list[tuple[str, str]]) -> None:
    messages = hh_messages("".join(f"\n\n{who}: {text}" for who, text in turns))
    roles = {"Human": "user", "Assistant": "assistant"}
    assert [(message.role, message.content) for message in messages] == [(roles[who], text) for who, text in turns]


def test_multi_turn_dialogues_keep_their_turns() -> None:
    start = "\n\nHuman: one\n\nAssistant: two\n\nHuman: three\n\nAssistant:"
    prompt, chosen, rejected = content_of({"chosen": f"{start} yes", "rejected": f"{start} no"})
    assert [message.content for message in prompt] == ["one", "two", "three"]
    assert (chosen, rejected) == (YES, NO)


HH = {"chosen": "\n\nHuman: ask\n\nAssistant: yes", "rejected": "\n\nHuman: ask\n\nAssistant: no"}


@pytest.mark.parametrize(
    ("rejected", "reason"),
    [
        ("\n\nHuman: other\n\nAssistant: no", "prompts-differ"),
        ("\n\nHuman: ask\n\nAssistant:", "empty-answer"),
        ("\n\nHuman: ask\n\nAssistant:  \n", "empty-answer"),
        ("\n\nHuman: ask\n\nAssistant: yes", "identical-answers"),
        ("\n\nHuman: ask", "answer-not-the-assistants"),
        ("no markers", "not-a-dialogue"),
        (None, "not-text"),
    ],
)
def test_dialogues_that_cannot_be_used_are_counted_by_reason(rejected: str | None, reason: str) -> None:
    bad = reason_of(HH | {"rejected": rejected}, HH)
    assert bad.reason == reason
    assert str(bad.source) == "rows, row 2"


def test_where_conversations_part_is_told() -> None:
    assert "part at message 1" in reason_of(HH | {"rejected": "\n\nHuman: other\n\nAssistant: no"}, HH).detail


# --- labels --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [True, 1, "1", "true", "True", " TRUE ", 1.0, "1.0", "yes", "Y", "good"])
def test_codings_of_a_desirable_label(value: Any) -> None:
    assert content_of({"prompt": "ask", "completion": "yes", "label": value})[2] is True


@pytest.mark.parametrize("value", [False, 0, "0", "false", "False", 0.0, "0.0", "NO", "n", "bad"])
def test_codings_of_an_undesirable_label(value: Any) -> None:
    assert content_of({"prompt": "ask", "completion": "yes", "label": value})[2] is False


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (2, "int"),
        (-1, "int"),
        (0.7, "float"),
        ("great", "str"),
        ([1], "list"),
    ],
)
def test_a_wrong_label_shows_line_value_and_type(tmp_path: Path, value: Any, kind: str) -> None:
    path = tmp_path / "labels.jsonl"
    good = {"prompt": "ask", "completion": "yes", "label": True}
    path.write_text(f"{json.dumps(good)}\n{json.dumps(good | {'label': value})}\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        convert(read_rows(path))
    assert str(caught.value).startswith(f"{path}:2: label is {value!r} ({kind}); a label must be true")


def test_labels_from_csv_are_read(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("prompt,completion,label\nask,yes,1\nask,no,False\n", encoding="utf-8")
    assert [record.desirable for record in convert(read_rows(path)).records] == [True, False]  # type: ignore[union-attr]


def test_pairs_become_one_row_of_each_label() -> None:
    pair = record_of(GOOD)
    expected = [Labelled("ask", "yes", True, pair.source), Labelled("ask", "no", False, pair.source)]
    assert to_labels([pair]) == expected


# --- tokenized rows ------------------------------------------------------------------------------------------------

IDS = {"prompt_ids": [1, 2], "chosen_ids": [3], "rejected_ids": [4]}


def test_reference_scores_in_the_file_are_kept() -> None:
    row = IDS | {"ref_chosen_logps": -1.5, "ref_rejected_logps": -2}
    assert record_of(row).ref_logps == (-1.5, -2.0)
    assert converted(row).unread_columns == []
    assert record_of(IDS | {"ref_chosen_logps": None, "ref_rejected_logps": None}).ref_logps is None


@pytest.mark.parametrize("value", [None, "x", float("nan"), float("-inf"), True])
def test_reference_scores_that_are_no_two_numbers_are_never_ignored(value: Any) -> None:
    bad = reason_of(IDS | {"ref_chosen_logps": -1.5, "ref_rejected_logps": value}, IDS)
    assert bad.reason == "ref-logps-not-two-numbers" and repr(value) in bad.detail


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"chosen_ids": []}, "empty-answer"),
        ({"chosen_ids": [4]}, "identical-answers"),
        ({"chosen_ids": ["a"]}, "not-token-ids"),
        ({"chosen_ids": "12"}, "not-token-ids"),
        ({"prompt_ids": [1.5]}, "not-token-ids"),
    ],
)
def test_token_rows_that_cannot_be_used_are_counted(changes: dict[str, Any], reason: str) -> None:
    assert reason_of(IDS | changes, IDS).reason == reason


# --- rows that cannot be used --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"chosen": ""}, "empty-answer"),
        ({"rejected": " \n\t"}, "empty-answer"),
        ({"rejected": "yes"}, "identical-answers"),
        ({"chosen": None}, "not-text"),
        ({"chosen": 3}, "not-text"),
        ({"prompt": None}, "not-text"),
        ({"prompt": []}, "no-prompt"),
        ({"chosen": "cut \ud83d"}, "not-unicode"),
        ({"prompt": "cut \udc00"}, "not-unicode"),
        ({"prompt": [user("a")], "chosen": [assistant("b"), user("c")]}, "answer-not-the-assistants"),
        ({"prompt": [user("a")], "chosen": [user("c"), assistant("d")]}, "answer-not-the-assistants"),
        ({"prompt": [user("a")], "chosen": [assistant("b"), user("c"), assistant(" ")]}, "empty-answer"),
        ({"prompt": [user("a")], "chosen": [user("b")]}, "answer-not-the-assistants"),
        ({"prompt": [user("a")], "chosen": []}, "answer-not-the-assistants"),
        ({"prompt": [user("a")], "chosen": [{"role": "assistant", "content": None}]}, "not-text"),
        ({"prompt": [user("a")], "chosen": ["b"]}, "not-a-message"),
        ({"prompt": [{"role": ["user"], "content": "a"}]}, "unknown-role"),
    ],
)
def test_rows_that_cannot_be_used_are_counted_by_reason(changes: dict[str, Any], reason: str) -> None:
    bad = reason_of(GOOD | changes)
    assert bad.reason == reason
    assert str(bad.source) == "rows, row 2"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "ask", "completion": " ", "label": True}, "empty-answer"),
        ({"prompt": [user("a")], "completion": [user("b")], "label": True}, "answer-not-the-assistants"),
    ],
)
def test_labelled_rows_that_cannot_be_used_are_counted(row: dict[str, Any], reason: str) -> None:
    assert reason_of(row, {"prompt": "ask", "completion": "yes", "label": True}).reason == reason


def test_the_account_names_reason_count_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    rows = [GOOD, GOOD | {"chosen": ""}, GOOD, GOOD | {"chosen": "no"}, GOOD | {"rejected": ""}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    data = load_preferences(path)
    assert data.unusable.counts() == {"empty-answer": 2, "identical-answers": 1}
    text = str(data)
    assert text.startswith("2 pairs (prompt, chosen, rejected); 3 rows cannot be used")
    assert f"2 x empty-answer: {path}:2; {path}:5" in text and f"1 x identical-answers: {path}:4" in text


def test_a_long_account_names_the_first_places_and_counts_the_rest() -> None:
    found = converted(GOOD, *[GOOD | {"chosen": ""}] * 7)
    assert found.unusable.summary().endswith("rows, row 5; rows, row 6 and 2 more")


def test_a_file_of_which_no_row_can_be_used_is_refused() -> None:
    message = message_of(*[GOOD | {"chosen": ""}] * 3)
    assert message.startswith("rows: none of the 3 rows can be used") and "3 x empty-answer" in message


def test_columns_that_are_not_read_are_reported() -> None:
    rows = [GOOD | {"score": 1, "topic": "kindness"}, GOOD | {"notes": ""}]
    assert converted(*rows).unread_columns == ["notes", "score", "topic"]
    assert "columns not used: notes, score, topic" in str(load_preferences(rows))


# --- columns that are missing --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "format_", "missing"),
    [
        ({"prompt": "a", "chosen": "b"}, "prompt, chosen, rejected", "rejected"),
        ({"prompt": "a", "rejected": "b"}, "prompt, chosen, rejected", "chosen"),
        ({"conversations": [human("a")], "chosen": gpt("b")}, "ShareGPT pairs", "rejected"),
        ({"prompt": "a", "label": 1}, "prompt, completion, label", "completion"),
        ({"prompt_ids": [1], "chosen_ids": [2]}, "tokenized pairs", "rejected_ids"),
    ],
)
def test_a_missing_column_is_named_for_the_nearest_format(row: dict[str, Any], format_: str, missing: str) -> None:
    message = message_of(row)
    assert f"the columns are {sorted(row)}; for '{format_}' the column {missing} is missing" in message


def test_a_missing_column_shows_the_row_and_every_known_format(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"prompt": "a short question", "chosen": "b" * 500}) + "\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        convert(read_rows(path))
    message = str(caught.value)
    assert message.startswith(f"{path}:1: the columns are ['chosen', 'prompt']")
    assert "a short question" in message and "b" * 100 not in message
    for layout in FORMATS:
        assert layout.name in message and layout.example in message


def test_columns_of_no_format_are_shown() -> None:
    assert "the columns are ['answer', 'question']: not a format known here" in message_of(
        {"question": "", "answer": ""}
    )


@pytest.mark.parametrize("chosen", ["a question. an answer", {"role": "assistant", "content": "b"}])
def test_a_prompt_is_never_guessed_inside_a_text(chosen: Any) -> None:
    message = message_of({"chosen": chosen, "rejected": chosen})
    assert "a prompt is never guessed inside a text. Add a prompt column" in message


def test_a_column_that_is_missing_later_is_an_error_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(f'{json.dumps(GOOD)}\n{{"prompt": "a", "chosen": "b"}}\n', encoding="utf-8")
    with pytest.raises(DataError) as caught:
        convert(read_rows(path))
    message = str(caught.value)
    assert message.startswith(f"{path}:2: the column rejected is missing; row 1 was read as 'prompt, chosen, rejected'")
    assert "['chosen', 'prompt']" in message


# --- load_preferences ----------------------------------------------------------------------------------------------


def test_eval_data_must_be_of_the_same_kind() -> None:
    with pytest.raises(DataError, match="use one kind"):
        load_preferences([GOOD], eval_data=[{"prompt": "a", "completion": "b", "label": 1}])


def test_eval_data_and_eval_fraction_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="keep one of them"):
        load_preferences([GOOD], eval_data=[GOOD], eval_fraction=0.5)


def test_rows_of_the_eval_data_are_accounted_for() -> None:
    data = load_preferences([GOOD], eval_data=[GOOD, GOOD | {"chosen": ""}])
    assert (len(data.train), len(data.test), len(data.unusable), data.kind) == (1, 1, 1, "pairs")


# --- real files ----------------------------------------------------------------------------------------------------

real_files = pytest.mark.skipif(not SHARED.exists(), reason=f"the real data files do not lie in {SHARED}")


@real_files
def test_hh_rlhf_is_read_whole_and_its_quirks_are_named() -> None:
    path = SHARED / "hh-rlhf" / "harmless-base_test.jsonl.gz"
    found = convert(read_rows(path))
    assert found.format == "HH-RLHF dialogues" and len(found.records) == 2308
    lines: dict[str, list[int]] = {}
    for row in found.unusable:
        assert row.source.file == str(path)
        lines.setdefault(row.reason, []).append(row.source.number)
    assert lines == {"empty-answer": [87, 517, 926, 1104]}
    early = [row.source.number for row in found.records if any(len(one) > 1 for one in answers_of(row))]  # type: ignore[arg-type]
    assert early == [1255, 1689, 1951, 1953, 2037]  # they part before the last turn
    for record in found.records:
        assert isinstance(record, Pair) and isinstance(record.prompt, tuple)
        assert record.prompt[-1].role == "user"


@real_files
@pytest.mark.parametrize("name", ["dpo_en_demo.json", "dpo_zh_demo.json"])
def test_llama_factory_pairs_are_read_whole(name: str) -> None:
    found = convert(read_rows(SHARED / "llama-factory" / name))
    assert (found.format, len(found.records), len(found.unusable)) == ("ShareGPT pairs", 300, 0)


@real_files
def test_llama_factory_labels_are_read_whole() -> None:
    found = convert(read_rows(SHARED / "llama-factory" / "kto_en_demo.json"))
    labels = [record.desirable for record in found.records if isinstance(record, Labelled)]
    assert (len(found.unusable), labels.count(True), labels.count(False)) == (0, 150, 150)
