"""A thumb for each turn of a dialogue: every rated turn is an answer to all that was said before it."""

from __future__ import annotations

from typing import Any

import pytest

from likelier.data.columns import columns_of
from likelier.data.formats import Converted, convert
from likelier.data.records import Labelled, Message
from likelier.data.sources import read_rows
from likelier.utils.errors import DataError


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
