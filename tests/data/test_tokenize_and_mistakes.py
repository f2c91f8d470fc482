"""What tokenized rows say of themselves: which records they are, how much they count, why others are left out."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest

from likelier.data import prepare
from likelier.data.audit import tokens as audit_tokens
from likelier.data.groups import Group
from likelier.data.records import Labelled, Pair, Record, Source, TokenIds, answers_of
from likelier.data.tokenize import Tokenized, Truncation, tokenize_records
from likelier.scoring import collate
from likelier.utils.errors import DataError
from tests.helpers.support import chat_pairs, tiny_tokenizer

TOKENIZER = tiny_tokenizer()


def ids(seed: int, count: int) -> TokenIds:
    return TokenIds(tuple(random.Random(seed).choices(range(5, 300), k=count)))


def rows(*lengths: tuple[int, int, int]) -> list[Pair]:
    """Pairs of token ids, of so many each, all different."""
    return [
        Pair(*(ids(3 * number + side, length) for side, length in enumerate(own)), Source("ids.jsonl", number))  # type: ignore[arg-type]
        for number, own in enumerate(lengths, 1)
    ]


def tokenized(records: Sequence[Record], limit: int = 512, truncation: Truncation = "drop") -> Tokenized:
    return tokenize_records(records, TOKENIZER, max_length=limit, truncation=truncation)


def reasons(found: Tokenized) -> list[tuple[int, str]]:
    return [(row.source.number, row.reason) for row in found.unusable]


@pytest.mark.parametrize("limit", [12, 20, 60, 512])
def test_each_group_knows_its_record_and_the_others_their_reason(limit: int) -> None:
    records = [*chat_pairs(20), *rows((4, 3, 2), (4, 9, 2), (30, 3, 3))]
    found = tokenized(records, limit)
    assert [records[number].source for number in found.kept] == [group.source for group in found.groups]
    assert list(found.kept) == sorted(set(found.kept)) and len(found.kept) + len(found.unusable) == len(records)
    assert (limit < 60) == bool(found.unusable) and {reason for _, reason in reasons(found)} <= {"over-max-length"}


def test_a_row_fits_up_to_its_last_token() -> None:
    records = rows((4, 3, 5))
    assert len(tokenized(records, 9).groups) == 1 and reasons(tokenized(records, 8)) == [(1, "over-max-length")]
    (row,) = tokenized(records, 8).unusable
    assert row.detail == "9 tokens"
    with pytest.raises(DataError, match=r"ids\.jsonl:1: 9 tokens, the limit is 8"):
        tokenized(records, 8, "error")


def test_a_cut_takes_what_is_over_and_no_token_more() -> None:
    (record,) = records = rows((6, 3, 5))
    for limit in range(1, 12):
        by_prompt, by_answer = (
            tokenized(records, limit, how).groups for how in ("cut-prompt-left", "cut-answer-right")
        )
        assert len(by_prompt) == (limit > 5) and len(by_answer) == (limit > 6)
        for group in by_prompt:
            assert group.prompt.tolist() == list(record.prompt.ids[max(0, 11 - limit) :])  # type: ignore[union-attr]
            assert [len(answer) for answer in group.answers] == [3, 5]
        for group in by_answer:
            assert len(group.prompt) == 6
            cut = [answer.ids[: limit - 6] for answer in answers_of(record)]  # type: ignore[union-attr]
            assert [tuple(answer.tolist()) for answer in group.answers] == cut


def test_cuts_are_counted_by_row_and_by_answer_and_void_what_the_file_claims() -> None:
    records = [
        Pair(one.prompt, one.chosen, one.rejected, one.source, (-1.0, -2.0))
        for one in rows((6, 3, 5), (6, 9, 9), (2, 2, 2))
    ]
    by_prompt, by_answer = (tokenized(records, 10, how) for how in ("cut-prompt-left", "cut-answer-right"))
    assert (by_prompt.cut_prompts, by_prompt.cut_answers) == (2, 0)
    assert (by_answer.cut_prompts, by_answer.cut_answers) == (0, 3)
    for found in (by_prompt, by_answer):
        assert [group.given_ref_logps for group in found.groups] == [None, None, (-1.0, -2.0)]


@pytest.mark.parametrize("answers", [((), (8, 9)), ((8, 9), ()), ((), ())])
def test_a_row_without_answer_tokens_is_left_out_as_such(answers: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    """The audit counts it among rows without tokens, and a run says that rows have no answer."""
    empty = Pair(TokenIds((5, 6)), *map(TokenIds, answers), Source("ids.jsonl", 1))
    ((_, reason),) = reasons(tokenized([empty]))
    assert reason == "no-answer-tokens"
    assert reason in audit_tokens._EMPTY_OR_TWINS and reason in prepare._CUT_TO_NOTHING
    labelled = Labelled(TokenIds((5, 6)), TokenIds(()), True, Source("ids.jsonl", 2))
    assert reasons(tokenized([labelled])) == [(2, reason)]


@pytest.mark.parametrize("wrong", [-1, len(TOKENIZER)])
@pytest.mark.parametrize("right", [0, 1, len(TOKENIZER) - 1])
def test_of_token_ids_the_wrong_one_is_named(wrong: int, right: int) -> None:
    good = Pair(TokenIds((right,)), TokenIds((right, 7)), TokenIds((right, 8)), Source("ids.jsonl", 1))
    assert len(tokenized([good]).groups) == 1
    bad = Pair(good.prompt, good.chosen, TokenIds((right, wrong)), Source("ids.jsonl", 2))
    with pytest.raises(DataError, match=rf"ids\.jsonl:2: the token id {wrong} is not in"):
        tokenized([good, bad])


def test_a_row_that_says_nothing_of_its_weight_counts_once() -> None:
    prompt, chosen, rejected = (np.arange(3, 5 + side, dtype=np.int32) for side in range(3))
    bare = Group(prompt, (chosen, rejected), Source("made up", 1))
    weights = collate([bare, *tokenized(rows((3, 2, 4))).groups]).items.weights
    assert weights is not None and weights.tolist() == [1.0, 1.0]
