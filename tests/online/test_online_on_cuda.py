"""Answers that are written on a CUDA device, made up, are those of a CPU: the same tokens, by either sampler."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from likelier.models.generation import Decoding, write_answers
from likelier.models.policy import Policy
from likelier.online.sampling import GeneratingSampler, LocalSampler, Sampling
from likelier.online.sampling.local import key_bytes
from likelier.scoring import attach_scorer, collate
from likelier.scoring.values import score_values_plain, score_values_shared, state_values_plain, state_values_shared
from tests.helpers.architectures import hard_pairs, random_tokens, tiny
from tests.helpers.pretend_cuda import Gpu, on_cuda, pretended_cuda
from tests.helpers.support import reward_policy, tiny_tokenizer

PROMPTS = [np.array(random_tokens(seed, size)) for seed, size in ((1, 7), (2, 19), (3, 1))]


def policy_of(model: Any) -> Policy:
    attach_scorer(model)
    return Policy(model, tiny_tokenizer(), "tiny", "a tiny model")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [LocalSampler, GeneratingSampler])
def test_the_same_answers_are_written_there(kind: Any) -> None:
    sampling = Sampling(max_new_tokens=12, seed=1, temperature=0.9)
    expected = kind(policy_of(tiny("llama, tied")), sampling).sample(PROMPTS, 3, ["a", "b", "c"])
    with pretended_cuda():
        found = kind(policy_of(on_cuda(tiny("llama, tied"))), sampling).sample(PROMPTS, 3, ["a", "b", "c"])
    for own, others in zip(found, expected, strict=True):
        assert [one.ids.tolist() for one in own] == [one.ids.tolist() for one in others]
        for one, other in zip(own, others, strict=True):
            np.testing.assert_allclose(one.logps, other.logps, atol=1e-4)


def test_as_many_answers_are_written_at_once_as_half_of_the_free_memory_holds() -> None:
    gpu = Gpu()
    with pretended_cuda(gpu):
        policy = policy_of(on_cuda(tiny("llama, tied")))
        each = 10 * key_bytes(policy.model.config, torch.float32)
        for free, rows in ((2 * 7 * each, 7), (2 * 7 * each - 1, 6), (1, 1), (2**40, 512)):
            gpu.free = free
            assert LocalSampler(policy, Sampling(max_new_tokens=10)).rows == rows


def test_greedy_answers_of_evaluations_are_those_of_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, decoding = [prompt.tolist() for prompt in PROMPTS], Decoding(max_new_tokens=8, temperature=0.0)
    forked: list[Any] = []
    fork = torch.random.fork_rng
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: forked.append(devices) or fork(devices=[]))
    expected = write_answers(tiny("llama, tied"), tiny_tokenizer(), prompts, decoding)
    with pretended_cuda() as device:
        found = write_answers(on_cuda(tiny("llama, tied")), tiny_tokenizer(), prompts, decoding)
    assert [one.ids for one in found] == [one.ids for one in expected]
    assert forked == [[], [device]]  # the GPU's random numbers are put back too


@pytest.mark.parametrize("score", [score_values_plain, score_values_shared, state_values_plain, state_values_shared])
def test_values_are_those_of_a_cpu(score: Any) -> None:
    here = reward_policy(dtype=torch.float32).model
    attach_scorer(here)
    with pretended_cuda() as device:
        there = on_cuda(reward_policy(dtype=torch.float32).model)
        attach_scorer(there)
        found = there(batch=collate(hard_pairs(), device=device), how=score)
    expected = here(batch=collate(hard_pairs()), how=score)
    assert found.logps.device == found.answer_of.device == device
    torch.testing.assert_close(found.token_logps.detach().cpu(), expected.token_logps.detach(), atol=1e-5, rtol=0)
