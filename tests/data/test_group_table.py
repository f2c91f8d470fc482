"""Groups as numbers: what lists of the same groups would be, whatever the rows say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from likelier.data import token_cache, views
from likelier.data.group_table import GroupColumns
from likelier.data.groups import Group
from likelier.data.records import Labelled, Message, Pair, Record, Source, TokenIds, to_demonstrations, to_labels
from likelier.data.tokenize import Tokenized, tokenize_records
from likelier.data.views import Filed, Several, View, changed
from tests.helpers.support import chat_pairs, tiny_tokenizer


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIKELIER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(token_cache, "WORTH_CACHING", 1)
    monkeypatch.setattr(views, "BLOCK", 7)


def said(group: Group) -> str:
    """All that a group says, in a form that can be compared."""
    found = []
    for one in fields(group):
        value = getattr(group, one.name)
        arrays = [value] if one.name == "prompt" else value if one.name in ("answers", "masks") else None
        plain = value if arrays is None else [None if part is None else part.tolist() for part in arrays]
        found.append(repr(plain))
    return " ".join(found)


def both_ways(monkeypatch: pytest.MonkeyPatch, records: Sequence[Record], *more: Any, **how: Any) -> Tokenized:
    """The same as a list and as numbers, which must say the same; the latter is returned."""
    monkeypatch.setattr(views, "IN_MEMORY", len(records))
    listed = tokenize_records(records, *more, **how)
    assert isinstance(listed.groups, list)
    monkeypatch.setattr(views, "IN_MEMORY", 0)
    filed = tokenize_records(records, *more, **how)
    assert isinstance(filed.groups, Filed) and len(listed.groups) == len(filed.groups)
    assert list(map(said, listed.groups)) == list(map(said, filed.groups))
    assert list(listed.kept) == list(filed.kept) and listed.counts() == filed.counts()
    return filed


RECORDS: dict[str, list[Record]] = {
    "pairs": list(chat_pairs(30)),
    "labels": [one for pair in chat_pairs(15) for one in to_labels([pair])],
    "demonstrations": list(to_demonstrations(chat_pairs(20))),
    "what only some rows say": [
        replace(pair, weight=1.5, margin=0.25, flip_chance=0.125, ref_logps=(-3.0, float("nan")))
        if number in (4, 9, 10)
        else pair
        for number, pair in enumerate(chat_pairs(20))
    ],
    "ids": [
        Pair(TokenIds((5, 6)), TokenIds((7,)), TokenIds((8, n)), Source(f"{n % 2}.jsonl", n)) for n in range(9, 20)
    ],
    "two kinds": [*chat_pairs(9), Labelled("say", "yes", False, Source("b.jsonl", 3, "row", "b"), 2.0)],
}


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize(("max_length", "truncation"), [(512, "drop"), (40, "cut-prompt-left"), (60, "drop")])
def test_numbers_say_what_a_list_says(
    name: str, max_length: int, truncation: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = {"max_length": max_length, "truncation": truncation, "cached": True, "losses": "collect"}
    both_ways(monkeypatch, RECORDS[name], tiny_tokenizer(), **how)


def test_answers_of_several_turns_keep_their_masks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    talks = [
        (Message("assistant", f"what {n}?"), Message("user", "the \n other"), Message("assistant", "yes"))
        for n in range(9)
    ]
    ask, no = (Message("user", "a question"),), (Message("assistant", "no"),)
    several = [Pair(ask, talk, no, Source("talks.jsonl", number)) for number, talk in enumerate(talks)]
    records = [*several[:6], *chat_pairs(3), *several[6:]]
    for max_length in (512, 70):
        how = {"max_length": max_length, "cached": True, "truncation": "cut-answer-right"}
        filed = both_ways(monkeypatch, records, tiny_tokenizer(), **how)
        assert any(group.masks is not None for group in filed.groups)


def test_what_is_added_to_each_group_is_found_by_its_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    groups = both_ways(monkeypatch, chat_pairs(30), tiny_tokenizer(), max_length=512, cached=True).groups
    scores = Several(np.arange(60.0), [2] * 30)
    with_scores = changed(groups, lambda group, own: replace(group, ref_logps=own), scores)
    assert isinstance(with_scores, View) and [group.ref_logps for group in with_scores[28:]] == [(56, 57), (58, 59)]
    assert changed([1, 2, 3], lambda one, more: one * more, np.array([5, 6, 7])) == [5, 12, 21]


def test_as_many_numbers_as_there_are_for_each_row() -> None:
    uneven = Several(np.arange(6), [1, 0, 3, 2])
    assert uneven.take(np.array([2, 0, 1, 3])) == [(1, 2, 3), (0,), (), (4, 5)]
    assert Several(np.zeros(0), []).take(np.array([], dtype=int)) == []


def test_what_cannot_be_kept_as_numbers_is_refused() -> None:
    ids = np.arange(20, dtype=np.int32)
    columns = GroupColumns(ids)
    group = Group(ids[:3], (ids[3:5], ids[5:9]), Source("a.jsonl", 1))
    columns.append(group)
    for wrong in (replace(group, prompt=ids[:3].copy()), replace(group, answers=(ids[3:5].astype(np.int64),))):
        with pytest.raises(ValueError, match="no piece of the array"):
            columns.append(wrong)
    with pytest.raises(ValueError, match=r"a\.jsonl:1: a group with scores"):
        columns.append(replace(group, ref_logps=(-1.0, -2.0)))
    assert len(GroupColumns(ids).groups()) == 0 and list(GroupColumns(ids).groups()) == []
