"""A thumb for each turn of a dialogue: every rated turn is an answer to all that was said before it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from likelier.data.columns import columns_of
from likelier.data.formats import Converted, convert
from likelier.data.records import Labelled, Message
from likelier.data.sources import read_rows
from likelier.utils.errors import ConfigError, DataError


def turn(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


TALK = [
    turn("user", "ask"),
    turn("assistant", "yes", thumb="up"),
    turn("user", "more"),
    turn("assistant", "unrated"),
    turn("user", "again"),
    turn("assistant", "no", thumb="down"),
]


def converted(row: dict[str, Any], *words: str) -> Converted:
    return convert(read_rows([row]), columns_of(words) if words else None)


@pytest.mark.parametrize("column", ["dialog", "messages"])
def test_every_rated_turn_is_a_row_with_its_context(column: str) -> None:
    words = [f"label={column}.thumb", *(["messages=dialog"] if column == "dialog" else [])]
    found = converted({column: TALK}, *words)
    one, two = found.records
    assert isinstance(one, Labelled) and isinstance(two, Labelled)
    assert (one.prompt, one.answer, one.desirable) == ((Message("user", "ask"),), (Message("assistant", "yes"),), True)
    assert isinstance(two.prompt, tuple)
    assert [message.content for message in two.prompt] == ["ask", "yes", "more", "unrated", "again"]
    assert two.answer == (Message("assistant", "no"),) and not two.desirable
    assert found.unread_columns == [] and one.source == two.source


def test_labels_may_be_a_list_beside_the_messages() -> None:
    talk = [turn("user", "ask"), turn("assistant", "yes"), turn("user", "more"), turn("assistant", "no")]
    for labels in ([True, False], [None, 1, None, 0]):
        found = converted({"messages": talk, "label": labels}).records
        assert [record.desirable for record in found if isinstance(record, Labelled)] == [True, False]
    refused = converted({"messages": talk, "label": [True, False]}).unusable
    assert not len(refused)
    with pytest.raises(DataError, match=r"labels-not-one-a-turn \(3 for 4 messages, 2 the assistant's\)"):
        converted({"messages": talk, "label": [True, False, True]})


def test_a_rating_scale_and_a_system_prompt_go_along() -> None:
    talk = [turn("user", "ask"), turn("assistant", "yes", stars=5), turn("user", "x"), turn("assistant", "no", stars=2)]
    found = converted({"messages": talk, "system": "be kind"}, "label=messages.stars", "threshold=4").records
    assert [record.desirable for record in found if isinstance(record, Labelled)] == [True, False]
    prompt = found[1].prompt
    assert isinstance(prompt, tuple) and prompt[0] == Message("system", "be kind")


def test_a_label_on_another_speakers_turn_is_counted() -> None:
    talk = [turn("user", "ask", thumb="up"), turn("assistant", "yes", thumb="up")]
    found = converted({"messages": talk}, "label=messages.thumb")
    assert len(found.records) == 1 and len(found.unusable) == 1


def test_a_dialogue_without_any_label_is_left_out() -> None:
    rows = [{"messages": TALK}, {"messages": [turn("user", "ask"), turn("assistant", "yes")]}]
    found = convert(read_rows(rows), columns_of(["label=messages.thumb"]))
    assert found.unusable.counts() == {"no-label": 1}


TICKET = [
    {"who": "customer", "said": "ask"},
    {"who": "bot", "said": "yes", "feedback": {"thumb": "up", "reason": None}},
    {"who": "notice", "said": "an agent joins"},
    {"who": "customer", "said": "again"},
    {"who": "agent", "said": "no", "feedback": {"thumb": "down"}},
]
NAMES = ["role=turns.who", "text=turns.said", "role_coding=customer/agent|bot/notice"]


@pytest.mark.parametrize("spelled", [False, True])
def test_messages_may_call_everything_otherwise(spelled: bool) -> None:
    row = {"turns": json.dumps(TICKET) if spelled else TICKET}
    found = converted(row, "messages=turns", "label=turns.feedback.thumb", *NAMES)
    one, two = found.records
    assert isinstance(one, Labelled) and isinstance(two, Labelled)
    assert (one.prompt, one.answer, one.desirable) == ((Message("user", "ask"),), (Message("assistant", "yes"),), True)
    said = [Message("system", "an agent joins"), Message("user", "again")]
    assert two.prompt == (*one.prompt, *one.answer, *said) and two.answer == (Message("assistant", "no"),)
    assert not two.desirable and found.unread_columns == []


def test_names_inside_hold_for_prompts_and_answers_too() -> None:
    row = {"turns": TICKET[:1], "good": [{"who": "bot", "said": "yes"}], "bad": "no"}
    found = converted(row, "prompt=turns", "chosen=good", "rejected=bad", *NAMES)
    assert found.records[0].prompt == (Message("user", "ask"),)
    plain = converted({"messages": [turn("customer", "ask"), turn("bot", "yes")], "label": True}, NAMES[2])
    assert plain.records[0].prompt == (Message("user", "ask"),)


def test_what_the_messages_call_things_is_asked_for() -> None:
    words = ["messages=turns", "label=turns.feedback.thumb"]
    with pytest.raises(DataError, match=r"no role among who, said[^$]*role=turns.who text=turns.said role_coding="):
        converted({"turns": TICKET}, *words)
    with pytest.raises(DataError, match=r"who speaks by 'customer'\.[^$]*role_coding=customer/agent"):
        converted({"turns": TICKET}, *words, *NAMES[:2])
    with pytest.raises(DataError, match="neither content nor value, but role, said"):
        converted({"turns": [{"role": "user", "said": "a"}, *TICKET[1:]]}, *words, NAMES[0], NAMES[2])
    with pytest.raises(ConfigError, match="role_coding has no effect"):
        converted({"prompt": "a", "chosen": "b", "rejected": "c"}, NAMES[2])
    with pytest.raises(ConfigError, match=r"mean user, assistant and .* system, tool"):
        converted({"turns": TICKET}, *words, *NAMES[:2], "role_coding=customer")
    with pytest.raises(DataError, match=r"no row has a label \(column messages.stars\)"):
        converted({"messages": TALK}, "label=messages.stars")
