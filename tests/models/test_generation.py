"""Answers as they are written: how far the writing is, told token by token."""

from __future__ import annotations

from likelier.models.generation import Decoding, write_answers
from tests.helpers.support import tiny_policy


def test_each_token_is_reported_as_it_is_written() -> None:
    policy, told = tiny_policy(), []
    prompts = [[5, 6, 7], [8]]
    written = write_answers(policy.model, policy.tokenizer, prompts, Decoding(4), told.append)
    assert told == [2] * max(len(answer.ids) for answer in written)
    assert write_answers(policy.model, policy.tokenizer, prompts, Decoding(4)) == written
