"""Answers as they are written: how far the writing is, told token by token."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from likelier.data.groups import Group
from likelier.data.records import Source
from likelier.models.generation import Decoding, write_answers
from tests.helpers.support import naive_logp, tiny_policy


def test_each_token_is_reported_as_it_is_written() -> None:
    policy, told = tiny_policy(), []
    prompts = [[5, 6, 7], [8]]
    written = write_answers(policy.model, policy.tokenizer, prompts, Decoding(4), told.append)
    assert told == [2] * max(len(answer.ids) for answer in written)
    assert write_answers(policy.model, policy.tokenizer, prompts, Decoding(4)) == written


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_an_answers_log_probability_is_that_of_a_plain_pass_whatever_it_was_drawn_at(temperature: float) -> None:
    policy = tiny_policy(dtype=torch.float32)
    prompts = [[5, 6, 7, 9, 11], [8], [12, 4]]  # padded to one length
    for prompt, answer in zip(
        prompts, write_answers(policy.model, policy.tokenizer, prompts, Decoding(6, temperature, seed=3)), strict=True
    ):
        ids, written = np.array(prompt, dtype=np.int32), np.array(answer.ids, dtype=np.int32)
        expected = naive_logp(policy.model, Group(ids, (written,), Source("x", 1)), 0)
        assert answer.logp == pytest.approx(expected, abs=1e-4)
