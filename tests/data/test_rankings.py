"""Rankings, judgements over several answers, and conversation trees become pairs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from likelier.data.columns import columns_of
from likelier.data.formats import Converted, convert
from likelier.data.records import Message, Pair
from likelier.data.sources import read_rows
from likelier.utils.errors import DataError


def converted(*rows: dict[str, Any], **columns: Any) -> Converted:
    return convert(read_rows(list(rows)), columns_of(columns) if columns else None)


def pairs(*rows: dict[str, Any], **columns: Any) -> list[tuple[str, str]]:
    return texts(converted(*rows, **columns))


def texts(data: Converted) -> list[tuple[str, str]]:
    found = data.records
    return [(text(pair.chosen), text(pair.rejected)) for pair in found if isinstance(pair, Pair)]


def text(content: Any) -> str:
    return content if isinstance(content, str) else content[-1].content


SMALLEST = {"ranks_best": "smallest"}
RANKED = {"prompt": "ask", "answers": ["good", "bad", "fair", "poor"], "ranks": [1, 4, 2, 3]}


# --- rankings ------------------------------------------------------------------------------------------------------


def test_a_ranking_gives_every_pair_or_those_that_are_asked_for() -> None:
    every = [("good", "fair"), ("good", "poor"), ("good", "bad"), ("fair", "poor"), ("fair", "bad"), ("poor", "bad")]
    assert pairs(RANKED, **SMALLEST) == pairs(RANKED, pairs_from="all", **SMALLEST) == every
    assert pairs(RANKED, pairs_from="best", **SMALLEST) == every[:3]
    assert pairs(RANKED, pairs_from="adjacent", **SMALLEST) == [("good", "fair"), ("fair", "poor"), ("poor", "bad")]


def test_scores_rank_the_largest_first_and_are_kept() -> None:
    row = {"prompt": "ask", "answers": ["low", "high"], "scores": ["2", 8.5]}
    (pair,) = converted(row).records
    assert isinstance(pair, Pair) and (pair.chosen, pair.scores) == ("high", (8.5, 2.0))


def test_answers_of_equal_rank_are_no_pair() -> None:
    row = RANKED | {"ranks": [1, 2, 1, 2]}
    assert pairs(row, **SMALLEST) == [("good", "bad"), ("good", "poor"), ("fair", "bad"), ("fair", "poor")]
    assert pairs(row, pairs_from="adjacent", **SMALLEST) == [("fair", "bad")]
    with pytest.raises(DataError, match="read as 'ranked answers', none of the 1 rows prefers one answer to another"):
        converted(RANKED | {"ranks": [1, 1, 1, 1]})


def test_an_answer_without_a_rank_is_left_aside() -> None:
    assert pairs(RANKED | {"ranks": [1, None, 2, None]}, **SMALLEST) == [("good", "fair")]


def test_an_answer_that_cannot_be_used_spoils_its_own_pairs_only() -> None:
    found = converted(RANKED | {"answers": ["good", True, "fair", " "]}, **SMALLEST)
    assert found.unusable.counts() == {"empty-answer": 2, "not-text": 3}
    assert [(pair.chosen, pair.rejected) for pair in found.records] == [("good", "fair")]  # type: ignore[union-attr]


def test_pairs_of_a_ranking_share_their_prompt() -> None:
    first, *rest = converted(RANKED, **SMALLEST).records
    assert all(pair.prompt is first.prompt for pair in rest)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ranks": [1, 2]}, "ranks-not-one-an-answer"),
        ({"ranks": [1, 2, 3, "last"]}, "rank-not-a-number"),
        ({"ranks": [1, None, None, None]}, "fewer-than-two-ranked"),
        ({"answers": ["good"], "ranks": [1]}, "fewer-than-two-answers"),
        ({"answers": "good"}, "not-a-list"),
    ],
)
def test_rankings_that_cannot_be_used_are_counted(changes: dict[str, Any], reason: str) -> None:
    assert converted(RANKED, RANKED | changes, **SMALLEST).unusable.counts() == {reason: 1}


def test_answers_may_lie_in_columns_of_their_own_or_inside_objects() -> None:
    row = {"q": "ask", "a1": "one", "a2": "two", "s1": 1, "s2": 2}
    assert pairs(row, prompt="q", answers=["a1", "a2"], scores=["s1", "s2"]) == [("two", "one")]
    nested = {
        "q": "ask",
        "completions": [{"response": "one", "rating": {"all": 1}}, {"response": "two", "rating": {"all": 2}}],
    }
    columns = {"prompt": "q", "answers": "completions.response", "scores": "completions.rating.all"}
    assert pairs(nested, **columns) == [("two", "one")]
    assert converted(nested, **columns).unread_columns == []
    with pytest.raises(DataError, match="rows, row 1: completions has no 'text' inside"):
        converted(nested, prompt="q", answers="completions.text", scores="completions.rating.all")


@given(ranks=st.lists(st.integers(1, 6), min_size=2, max_size=6))
def test_a_better_rank_is_always_the_chosen_one(ranks: list[int]) -> None:
    row = {"prompt": "ask", "answers": [f"answer {place}" for place in range(len(ranks))], "ranks": ranks}
    if len(set(ranks)) == 1:
        return
    for pairs_from in ("all", "best", "adjacent"):
        for chosen, rejected in pairs(row, pairs_from=pairs_from, **SMALLEST):
            assert ranks[int(chosen[-1])] < ranks[int(rejected[-1])]
    unequal = sum(left != right for place, left in enumerate(ranks) for right in ranks[:place])
    assert len(pairs(row, **SMALLEST)) == unequal


# --- a judgement for each two --------------------------------------------------------------------------------------


def test_judgements_come_in_the_order_of_the_pairs() -> None:
    row = {"prompt": "ask", "answers": ["one", "two", "three", "four"], "judgements": [1, 2, 1, 2, 0, 1]}
    data = converted(row, winner_coding="1/2/0")
    found = data.records
    assert texts(data) == [
        ("one", "two"),
        ("three", "one"),
        ("one", "four"),
        ("three", "two"),
        ("two", "four"),
        ("three", "four"),
    ]
    assert [pair.votes for pair in found] == [None, None, None, None, (0, 0, 1), None]  # type: ignore[union-attr]


def test_judgements_that_cannot_be_used_are_counted() -> None:
    good = {"prompt": "ask", "answers": ["one", "two", "three"], "judgements": [1, 2, 0]}
    short = good | {"judgements": [1, 2]}
    missing = good | {"judgements": [1, 2, None]}
    found = converted(good, short, missing, winner_coding="1/2/0")
    assert found.unusable.counts() == {"judgements-not-of-all-pairs": 1, "no-judgement": 1}
    assert "2 for the 3 pairs of 3 answers" in str(found.unusable[0]) and len(found.records) == 5
    with pytest.raises(DataError, match=r"rows, row 1: judgements is 2, which has no meaning .*winner_coding"):
        converted(good, winner_coding="1/0")


# --- trees ---------------------------------------------------------------------------------------------------------


def node(name: str, parent: str | None, role: str, rank: int | None = None) -> dict[str, Any]:
    return {"message_id": name, "parent_id": parent, "role": role, "text": f"text {name}", "rank": rank, "lang": "en"}


MESSAGES = [
    node("b2", "a1", "assistant", 1),
    node("a1", None, "prompter"),
    node("b1", "a1", "assistant", 0),
    node("c1", "b1", "prompter", 0),
    node("c2", "b1", "prompter", 1),
    node("d1", "c2", "assistant", 0),
    node("d2", "c2", "assistant", 1),
    node("d3", "c2", "assistant", 2),
    node("z1", None, "prompter"),
    node("z2", "z1", "assistant"),
]
OF_TREE = [("text b1", "text b2"), ("text d1", "text d2"), ("text d1", "text d3"), ("text d2", "text d3")]


def test_a_tree_is_read_from_messages_in_any_order() -> None:
    found = converted(*MESSAGES)
    assert (found.format, found.unread_columns) == ("OpenAssistant messages", ["lang"])
    assert pairs(*MESSAGES) == pairs(*MESSAGES[::-1]) == OF_TREE
    assert pairs(*MESSAGES, pairs_from="best") == OF_TREE[:3]
    deep = found.records[1]
    assert deep.prompt == (Message("user", "text a1"), Message("assistant", "text b1"), Message("user", "text c2"))
    assert str(found.records[0].source) == "rows, row 2" and str(deep.source) == "rows, row 5"


def test_messages_under_other_names_and_with_scores() -> None:
    renamed = [
        {"i": m["message_id"], "p": m["parent_id"], "who": m["role"], "said": m["text"], "good": -(m["rank"] or 0)}
        for m in MESSAGES
    ]
    columns = {"id": "i", "parent": "p", "role": "who", "text": "said", "score": "good"}
    found = converted(*renamed, **columns)
    assert pairs(*renamed, **columns) == OF_TREE and found.format == "conversation tree, a message a row"
    assert found.records[0].scores == (0.0, -1.0)  # type: ignore[union-attr]


def test_a_tree_in_one_row_is_the_same() -> None:
    def nested(name: str) -> dict[str, Any]:
        own = next(dict(message) for message in MESSAGES if message["message_id"] == name)
        children = [message["message_id"] for message in MESSAGES if message["parent_id"] == name]
        return own | {"replies": [nested(child) for child in children]}

    found = converted({"message_tree_id": "a1", "prompt": nested("a1")})
    assert found.format == "OpenAssistant trees"
    assert sorted(pairs({"message_tree_id": "a1", "prompt": nested("a1")})) == sorted(OF_TREE)
    assert pairs({"conversation": nested("a1")}, tree="conversation", pairs_from="best", **SMALLEST)


def test_users_are_never_ranked() -> None:
    """OpenAssistant ranks what users say too; no model learns to write that."""
    assert not {"text c1", "text c2"} & {side for pair in pairs(*MESSAGES) for side in pair}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (node("a1", None, "prompter"), "rows, row 11: the id 'a1' comes a second time"),
        (node("x", "nobody", "assistant"), "rows, row 11: the parent 'nobody' is no message of the file; add it"),
        (node("x", "x", "assistant"), "rows, row 11: 1 messages, this one too, answer each other in a circle"),
    ],
)
def test_messages_that_make_no_tree_are_refused(message: dict[str, Any], expected: str) -> None:
    with pytest.raises(DataError) as caught:
        converted(*MESSAGES, message)
    assert str(caught.value).startswith(expected)


def test_a_tree_that_is_none_is_refused() -> None:
    tree = {"role": "user", "text": "ask", "replies": []}
    with pytest.raises(DataError, match="none of the 1 rows prefers one answer to another"):
        converted({"tree": tree})
    with pytest.raises(DataError, match="rows, row 2: tree is str; it must be a message with its replies"):
        converted({"tree": tree}, {"tree": "text"})
