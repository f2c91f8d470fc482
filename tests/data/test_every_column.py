"""No recognised column is counted as read and then ignored: its value changes the records, or it is named as unused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from likelier.data.columns import Columns
from likelier.data.formats import FORMATS, convert
from likelier.data.formats.detect import Converted
from likelier.data.load import load_preferences
from likelier.data.records import Pair, Record, Source, answer_text
from likelier.data.sources import NamedRows
from likelier.utils.errors import ConfigError, DataError

U, V = ({"role": "user", "content": text} for text in ("ask", "ask more"))
A, B, C = ({"role": "assistant", "content": text} for text in ("yes", "no", "maybe"))
CALLS = [{"type": "function", "function": {"name": name, "parameters": {}}} for name in ("look", "go")]
HH = "\n\nHuman: ask\n\nAssistant: "
SHARE = [{"from": "human", "value": "ask"}]

Rows = list[dict[str, Any]]
NODES: Rows = [
    {"id": "1", "parent": None, "role": "user", "text": "ask"},
    {"id": "2", "parent": "1", "role": "assistant", "text": "yes", "rank": 0},
    {"id": "3", "parent": "1", "role": "assistant", "text": "no", "rank": 1},
]
SCORED: Rows = [{**{k: v for k, v in node.items() if k != "rank"}, "score": n} for n, node in enumerate(NODES)]
TREE = {
    "role": "user",
    "text": "ask",
    "replies": [{"role": "assistant", "text": t, "score": n} for n, t in enumerate("ab")],
}
ROWS: dict[str, Rows] = {
    "tokenized pairs": [{"prompt_ids": [1, 2], "chosen_ids": [3], "rejected_ids": [4]}],
    "ShareGPT pairs": [{"conversations": SHARE, "chosen": A, "rejected": B}],
    "prompt, chosen, rejected": [{"prompt": [U], "chosen": [A], "rejected": [B]}],
    "HH-RLHF dialogues": [{"chosen": HH + "yes", "rejected": HH + "no"}],
    "conversations with an implicit prompt": [{"chosen": [U, A], "rejected": [U, B]}],
    "two answers and a winner": [{"prompt": [U], "first": [A], "second": [B], "winner": "a"}],
    "two answers and their votes": [{"prompt": [U], "first": [A], "second": [B], "votes": [2, 1]}],
    "ranked answers": [{"prompt": [U], "answers": [[A], [B]], "ranks": [1, 2]}],
    "scored answers": [{"prompt": [U], "answers": [[A], [B]], "scores": [2, 1]}],
    "answers with a judgement for each two": [{"prompt": [U], "answers": [[A], [B]], "judgements": ["a"]}],
    "answers, each with a label": [{"prompt": [U], "answers": [[A], [B]], "label": [True, None]}],
    "prompt, completion, label": [{"prompt": [U], "completion": [A], "label": True}],
    "messages, label": [{"messages": [U, A], "label": True}],
    "ShareGPT conversations, label": [{"conversations": [*SHARE, {"from": "gpt", "value": "yes"}], "label": True}],
    "prompt, completion": [{"prompt": [U], "completion": [A]}],
    "a scored answer a row": [
        {"prompt": [U], "completion": [A], "score": 2},
        {"prompt": [U], "completion": [B], "score": 1},
    ],
    "messages": [{"messages": [U, A]}],
    "ShareGPT conversations": [{"conversations": [*SHARE, {"from": "gpt", "value": "yes"}]}],
    "instruction, output": [{"instruction": "ask", "output": "yes"}],
    "conversation tree, a message a row": NODES,
    "conversation tree, a tree a row": [{"tree": TREE}],
}
SETTINGS = {"ranks_best": "smallest"}
MORE: dict[str, list[Any]] = {  # two values of each column that may stand beside
    "weight": [2.0, 3.0],
    "tools": [CALLS[:1], CALLS],
    "system": ["be kind", "be short"],
    "margin": [1.0, 2.0],
    "acceptable": [[True, True], [False, True]],
    "votes": [[3, 1, 0], [3, 0, 0]],
    "flip_chance": [0.1, 0.2],
    "score_chosen": [5, 6],
    "score_rejected": [1, 2],
    "score_first": [5, 6],
    "score_second": [1, 2],
    "ref_chosen_logps": [-1.0, -2.0],
    "ref_rejected_logps": [-3.0, -4.0],
    "input": ["this", "that"],
    "prompt": ["ask", "something else"],
    "score": [1, 2],
    "rank": [3, 4],
}
COMPANIONS = {
    "score_chosen": {"score_rejected": 1},
    "score_rejected": {"score_chosen": 1},
    "score_first": {"score_second": 1},
    "score_second": {"score_first": 1},
    "ref_chosen_logps": {"ref_rejected_logps": -1.0},
    "ref_rejected_logps": {"ref_chosen_logps": -1.0},
}


def read(rows: Rows, **columns: Any) -> Converted:
    named = NamedRows("rows", [(Source("rows", number, "row"), row) for number, row in enumerate(rows, 1)])
    given = {} if "ranks_best" not in columns else {"ranks_best": columns.pop("ranks_best")}
    return convert(named, Columns(**given, **columns))


def settings_of(layout: str) -> dict[str, Any]:
    if layout == "a scored answer a row":
        return {"score": "score"}  # by a map only
    return SETTINGS if layout in ("ranked answers", "conversation tree, a message a row") else {}


def with_value(rows: Rows, column: str, value: Any) -> Rows:
    return [{**row, **COMPANIONS.get(column, {}), column: value} for row in rows]


def beside() -> Iterator[tuple[str, str]]:
    for layout in FORMATS:
        for column in sorted(MORE):
            if not any(column in row for row in ROWS[layout.name]):
                yield layout.name, column


def test_every_layout_has_an_example() -> None:
    assert ROWS.keys() == {layout.name for layout in FORMATS}
    assert {name for layout in FORMATS for name in layout.optional} <= MORE.keys()


@pytest.mark.parametrize("layout", ROWS)
def test_the_examples_are_of_their_layouts(layout: str) -> None:
    found = read(ROWS[layout], **settings_of(layout))
    assert found.format == layout and found.unread_columns == []


@pytest.mark.parametrize(("layout", "column"), list(beside()))
def test_a_column_beside_a_layout_changes_records_or_is_named_or_refused(layout: str, column: str) -> None:
    """Changing it from nothing to something and from that to something else."""
    tellings: list[tuple[list[Record], list[str]]] = []
    for rows in (ROWS[layout], *(with_value(ROWS[layout], column, value) for value in MORE[column])):
        try:
            found = read(rows, **settings_of(layout))
        except DataError as error:
            assert column in str(error)
            return
        if found.format != layout:
            return  # with this column it is another layout, whose own row this is
        tellings.append((found.records, found.unread_columns))
    (without, _), (one, unread), (other, _) = tellings
    if column in unread:
        assert one == other == without
    elif column == "prompt":
        assert one == without != other
    else:
        assert without != one != other


@pytest.mark.parametrize("layout", ROWS)
def test_every_column_of_a_layout_changes_its_records(layout: str) -> None:
    rows = ROWS[layout]
    before = read(rows, **settings_of(layout)).records
    for column in sorted({name for row in rows for name in row}):
        for number in range(len(rows)):
            changed = [dict(row) for row in rows]
            if column not in changed[number]:
                continue
            changed[number][column] = _other(column, changed[number][column])
            try:
                assert read(changed, **settings_of(layout)).records != before, (column, number)
            except DataError as error:  # refused aloud
                assert str(error)


OTHERS = {"a": "b", "ask": "other", "yes": "other", "no": "other", "user": "system", "assistant": "user", "1": "9"}


def _other(column: str, value: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(value, dict):
        return {name: _other(name, one) if name in ("content", "value", "text") else one for name, one in value.items()}
    if isinstance(value, list):
        return [_other(column, value[0]), *value[1:]] if not isinstance(value[0], int) else [value[0] + 7, *value[1:]]
    if isinstance(value, bool) or value is None:
        return not value if value is not None else "2"
    if isinstance(value, int):
        return 7 - 15 * value  # the other way round
    return value + " more" if value.startswith("\n") else OTHERS.get(value, "1")


# --- extras that are given by half ---------------------------------------------------------------------------------

PAIR = {"prompt": "ask", "chosen": "yes", "rejected": "no"}


def test_tools_beside_plain_text_are_named_as_unused() -> None:
    found = read([PAIR | {"tools": CALLS}])
    assert found.unread_columns == ["tools"]
    both = read([PAIR | {"tools": CALLS}, ROWS["prompt, chosen, rejected"][0] | {"tools": CALLS}])
    assert both.unread_columns == [] and "tools: of no use in 1 rows (text goes past the chat template)" in both.notes


def test_votes_that_are_no_counts_of_three_are_named_as_unused_or_refused() -> None:
    assert read([PAIR | {"votes": 12}, PAIR | {"votes": 3}]).unread_columns == ["votes"]
    both = read([PAIR | {"votes": 12}, PAIR | {"votes": [2, 1, 0]}])
    assert both.unread_columns == [] and "votes: of no use in 1 rows (no list of three counts)" in both.notes
    for votes in ([2, 1], ["a", "b", "c"], [0.5, 0, 0], [True, 0, 0], "[2, 1]"):
        found = read([PAIR, PAIR | {"votes": votes}])
        assert found.unusable.counts() == {"votes-not-three-counts": 1}
    (whole,) = read([PAIR | {"votes": [2.0, "1", 0]}]).records
    assert isinstance(whole, Pair) and whole.votes == (2, 1, 0)


@pytest.mark.parametrize("empty", [None, ""])
@pytest.mark.parametrize("column", ["weight", "tools", "margin", "votes", "flip_chance"])
def test_an_empty_cell_says_nothing(column: str, empty: Any) -> None:
    assert read([PAIR | {column: empty}]).records == read([PAIR]).records


@pytest.mark.parametrize("column", ["score_chosen", "score_rejected"])
def test_one_score_of_two_is_named(column: str) -> None:
    assert read([PAIR | {column: 3}]).unread_columns == [column]
    half = {"score_chosen": 3, "score_rejected": 1, column: None}
    (pair,) = read([PAIR | half]).records
    assert isinstance(pair, Pair) and pair.scores is not None and sum(score != score for score in pair.scores) == 1


def test_scores_of_winners_follow_the_winner_and_half_of_them_is_no_number() -> None:
    row = {"prompt": "ask", "first": "a", "second": "b", "winner": "b", "score_first": 1, "score_second": None}
    (pair,) = read([row]).records
    assert isinstance(pair, Pair) and pair.scores is not None and pair.scores[1] == 1 != pair.scores[0]
    assert read([{name: value for name, value in row.items() if name != "score_second"}]).unread_columns == [
        "score_first"
    ]


@pytest.mark.parametrize("column", ["votes", "flip_chance", "score_chosen"])
def test_columns_of_pairs_beside_winners_are_not_read(column: str) -> None:
    """Of votes for whom? They belong to a chosen answer, and here there are a first and a second."""
    row = {"prompt": "ask", "first": "a", "second": "b", "winner": "b"}
    found = read([row | {column: MORE[column][0]}])
    assert found.unread_columns == [column] and found.records == read([row]).records


def test_in_a_tree_with_ranks_and_scores_the_scores_are_named_as_unused() -> None:
    rows = [{**node, "score": 5} for node in NODES]
    assert read(rows, ranks_best="smallest").unread_columns == ["score"]
    assert read([{**row, "rank": None} for row in rows[:1]] + SCORED[1:]).unread_columns == ["rank"]


@pytest.mark.parametrize("value", [None, "", []])
def test_a_row_without_ranks_is_left_out(value: Any) -> None:
    rows = [ROWS["ranked answers"][0], ROWS["ranked answers"][0] | {"ranks": value}]
    assert read(rows, ranks_best="smallest").unusable.counts() == {"fewer-than-two-ranked": 1}


# --- a prompt beside whole conversations ---------------------------------------------------------------------------

TALKS = {"chosen": [U, A], "rejected": [U, B]}


def told(record: Record) -> list[tuple[str, str]]:
    assert isinstance(record.prompt, tuple)
    return [(one.role, one.content) for one in record.prompt]


@pytest.mark.parametrize("prompt", ["ask", " ask\n", "", "\n\nHuman: ask\n\nAssistant:"])
def test_a_prompt_that_the_conversations_say_adds_nothing(prompt: str) -> None:
    (pair,) = read([TALKS | {"prompt": prompt}]).records
    assert told(pair) == [("user", "ask")]


def test_a_prompt_that_is_any_turn_of_the_conversations_adds_nothing() -> None:
    talks = {"chosen": [U, C, V, A], "rejected": [U, C, V, B]}
    for prompt in ("ask", "ask more"):
        (pair,) = read([talks | {"prompt": prompt}]).records
        assert told(pair) == [("user", "ask"), ("assistant", "maybe"), ("user", "ask more")]


KINDS = {
    "pair": TALKS,
    "winner": {"first": [U, A], "second": [U, B], "winner": "a"},
    "scores": {"answers": [[U, A], [U, B]], "scores": [2, 1]},
    "judgements": {"answers": [[U, A], [U, B]], "judgements": ["a"]},
    "label": {"completion": [U, A], "label": True},
    "demonstration": {"completion": [U, A]},
}


@pytest.mark.parametrize("kind", KINDS)
def test_any_other_prompt_is_asked_about_with_one_row_by_each_reading(kind: str) -> None:
    with pytest.raises(DataError) as caught:
        read([KINDS[kind] | {"prompt": "Passage 1"}])
    message = str(caught.value)
    assert 'the prompt "Passage 1" stands beside whole conversations' in message
    assert 'reading 1 (prompt_is=system): row 1: system: "Passage 1" user: "ask" assistant: "yes"' in message
    assert 'reading 2 (prompt_is=context): row 1: user: "Passage 1 ask" assistant: "yes"' in message
    assert 'reading 3 (prompt_is=unused): row 1: user: "ask" assistant: "yes"' in message


READ_AS = {
    "system": [("system", "Passage 1"), ("user", "ask")],
    "context": [("user", "Passage 1\n\nask")],
    "unused": [("user", "ask")],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prompt_is", READ_AS)
def test_the_map_says_what_it_is(kind: str, prompt_is: str) -> None:
    (record,) = read([KINDS[kind] | {"prompt": "Passage 1"}], prompt_is=prompt_is).records
    assert told(record) == READ_AS[prompt_is]
    answer = record.chosen if isinstance(record, Pair) else record.answer
    assert answer_text(answer) == "yes"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prompt", [[U], [{"role": "system", "content": "be kind"}, U]])
def test_prompt_messages_in_front_of_the_conversations_are_the_prompt(kind: str, prompt: list[Any]) -> None:
    (record,) = read([KINDS[kind] | {"prompt": prompt}]).records
    assert told(record) == [(one["role"], one["content"]) for one in prompt]
    answers = (record.chosen, record.rejected) if isinstance(record, Pair) else (record.answer,)
    assert [answer_text(answer) for answer in answers] == ["yes", "no"][: len(answers)]
    whole = json.loads(
        json.dumps(KINDS[kind]).replace('[{"role": "user"', '[{"role": "system", "content": "S"}, {"role": "user"')
    )
    (record,) = read([whole | {"prompt": [U]}]).records
    assert told(record) == [("system", "S"), ("user", "ask")]


def test_a_system_message_as_the_prompt_goes_before_the_conversations() -> None:
    (pair,) = read([TALKS | {"prompt": [{"role": "system", "content": "be kind"}]}]).records
    assert told(pair) == [("system", "be kind"), ("user", "ask")]


def test_prompt_messages_that_the_conversations_do_not_repeat_leave_the_row_out() -> None:
    found = read([TALKS | {"prompt": [U]}, TALKS | {"prompt": [V]}])
    assert found.unusable.counts() == {"answer-not-the-assistants": 1}


def test_prompt_is_has_no_effect_where_there_are_no_conversations_to_stand_beside() -> None:
    with pytest.raises(Exception, match="prompt_is has no effect"):
        read([{"messages": [U, A]}], prompt_is="system")
    with pytest.raises(Exception, match="prompt_is='x' is not one of: system, context, unused"):
        read([TALKS], prompt_is="x")


# --- a system column -----------------------------------------------------------------------------------------------


def test_a_system_column_makes_every_row_of_texts_a_conversation() -> None:
    rows = [PAIR | {"system": "be kind"}, PAIR | {"system": ""}, PAIR | {"system": None}, PAIR]
    found = read(rows)
    assert [told(one) for one in found.records] == [[("system", "be kind"), ("user", "ask")]] + [[("user", "ask")]] * 3
    assert "system: the column makes every row a conversation, for the chat template" in found.notes


def test_rows_before_a_system_column_are_refused_with_both_places() -> None:
    with pytest.raises(
        DataError, match=r"some rows have a system prompt and others no column for it \(rows, row 1 and"
    ):
        read([PAIR, PAIR | {"system": "be kind"}])


def test_texts_that_are_to_stay_texts_have_no_system_prompt() -> None:
    found = read([PAIR | {"system": "be kind"}], chat=False)
    assert found.records[0].prompt == "ask" and found.unread_columns == ["system"]
    with pytest.raises(ConfigError, match="system makes conversations and chat=false keeps texts"):
        read([PAIR | {"s": "be kind"}], chat=False, system="s")


TALKING = [name for name in ROWS if "tree" not in name and name != "tokenized pairs"]


@pytest.mark.parametrize("layout", TALKING)
def test_a_system_column_goes_before_the_conversation(layout: str) -> None:
    rows = [row | {"system": "be kind"} for row in ROWS[layout]]
    (record,) = read(rows, **settings_of(layout)).records
    assert told(record) == [("system", "be kind"), ("user", "ask")]


@pytest.mark.parametrize("row", [
    {"prompt": "ask", "chosen": "yes", "rejected": "no"},
    {"prompt": "ask", "first": "yes", "second": "no", "winner": "a"},
    {"prompt": "ask", "answers": ["yes", "no"], "scores": [2, 1]},
    {"prompt": "ask", "completion": "yes", "label": True},
    {"prompt": "ask", "completion": "yes"},
])  # fmt: skip
def test_a_system_column_beside_texts(row: dict[str, Any]) -> None:
    (record,) = read([row | {"system": "be kind"}]).records
    assert told(record) == [("system", "be kind"), ("user", "ask")]


@pytest.mark.parametrize("layout", ["prompt, chosen, rejected", "messages", "conversations with an implicit prompt"])
def test_two_system_prompts_are_one_or_leave_the_row_out(layout: str) -> None:
    (row,) = ROWS[layout]
    text = json.dumps(row).replace('[{"role": "user"', '[{"role": "system", "content": "be kind"}, {"role": "user"')
    whole = json.loads(text)
    (record,) = read([whole | {"system": " be kind "}]).records
    assert told(record) == [("system", "be kind"), ("user", "ask")]
    found = read([whole, whole | {"system": "be short"}])
    assert found.unusable.counts() == {"two-system-prompts": 1} and "'be short'" in found.unusable[0].detail


@pytest.mark.parametrize("system", [3, ["a"], {"a": 1}, [{"role": "user", "content": "x"}]])
def test_a_system_prompt_that_is_no_text_leaves_the_row_out(system: Any) -> None:
    found = read([PAIR | {"system": "x"}, PAIR | {"system": system}])
    assert found.unusable.counts() == {"not-text": 1}


def test_a_system_message_in_the_column_is_its_text() -> None:
    (pair,) = read([PAIR | {"system": [{"role": "system", "content": "be kind"}]}]).records
    assert told(pair) == [("system", "be kind"), ("user", "ask")]


def test_the_account_names_what_the_column_does() -> None:
    assert "makes every row a conversation" in str(load_preferences([PAIR | {"system": "be kind"}]))
