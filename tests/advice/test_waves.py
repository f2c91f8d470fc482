"""What is planned to be held while answers are written is what the sampler holds."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from likelier.advice.memory import training_of
from likelier.advice.trace import Ledger, standing
from likelier.advice.waves import Wave, WaveTracer
from likelier.models.layers import causal_model
from likelier.models.options import LoraOptions
from likelier.models.policy import Policy
from likelier.online.sampling import LocalSampler, Sampling
from likelier.online.sampling.keys import AnswerKeys
from likelier.scoring import attach_scorer
from tests.helpers.support import lora_policy, tiny_model, tiny_policy


class _Kept(AnswerKeys):
    made: ClassVar[list["_Kept"]] = []

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        _Kept.made.append(self)


def endless(policy: Policy, tokens: int) -> LocalSampler:
    """A sampler none of whose answers ends before it is as long as it may be."""
    attach_scorer(policy.model)
    sampler = LocalSampler(policy, Sampling(tokens))
    sampler.writer.ends = frozenset()
    return sampler


def written(sampler: LocalSampler, prompts: Sequence[int], answers: int) -> None:
    rng = np.random.default_rng(0)
    ids = [rng.integers(5, 60, length) for length in prompts]
    found = sampler.sample(ids, answers, [str(number) for number in range(len(ids))])
    assert all(len(answer.ids) == sampler.sampling.max_new_tokens for own in found for answer in own)


def tracer_of(policy: Policy) -> WaveTracer:
    lora = LoraOptions(lora_r=4 if policy.adapter_settings else None)
    return WaveTracer(causal_model(policy.model).config, training_of(lora, "float32", "cpu", False))


@pytest.mark.parametrize("tokens", [1, 2, 40, 65, 66, 130])
def test_planned_keys_and_values_are_those_that_are_held(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("likelier.online.sampling.local.AnswerKeys", _Kept)
    _Kept.made.clear()
    policy = tiny_policy(dtype=torch.float32, num_key_value_heads=1)
    written(endless(policy, tokens), (5, 9, 3), 4)
    [keys] = _Kept.made
    wave = Wave((5, 9, 3), 4, tokens)
    assert keys.nbytes == tracer_of(policy).key_bytes * wave.held


@pytest.mark.slow
@pytest.mark.parametrize("make", [tiny_policy, lora_policy])
@pytest.mark.parametrize(("prompts", "answers", "tokens"), [((9,) * 6, 4, 20), ((70, 30), 3, 5), ((4, 5), 8, 70)])
def test_a_traced_wave_holds_what_a_real_one_holds(
    make: Any, prompts: tuple[int, ...], answers: int, tokens: int
) -> None:
    policy = make(dtype=torch.float32)
    sampler = endless(policy, tokens)
    ledger = Ledger(standing(policy.model, False))
    with ledger:
        written(sampler, prompts, answers)
    real = sum(ledger.fullest["forward"].values())
    tracer = tracer_of(policy)
    assert tracer.trace(Wave(prompts, answers, tokens)).total == pytest.approx(real, rel=0.05)
    assert tracer.formula_because is None


def test_depth_is_drawn_on() -> None:
    """What twelve layers hold follows from two and four."""
    wave, training = Wave((8, 8), 4, 60), training_of(LoraOptions(), "float32", "cpu", False)
    few, whole = (WaveTracer(tiny_model(num_hidden_layers=depth).config, training).trace(wave) for depth in (4, 12))
    assert whole.keys == 3 * few.keys
    assert whole.total > few.total and whole.head == few.head
