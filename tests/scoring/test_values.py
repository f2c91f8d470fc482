"""Values of answer tokens: those of the classifier in transformers, whatever lies beside them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    Qwen2Config,
    Qwen2ForSequenceClassification,
)

from likelier.data.groups import Group
from likelier.data.records import Source
from likelier.scoring import attach_scorer, collate
from likelier.scoring.values import (
    score_values_plain,
    score_values_shared,
    state_values_plain,
    state_values_shared,
)

SIZES = {"vocab_size": 97, "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "num_labels": 1}


def classifier(kind: str, pad: int | None = 0) -> Any:
    torch.manual_seed(3)
    if kind == "gpt2":
        config = GPT2Config(vocab_size=97, n_embd=32, n_head=4, n_layer=2, num_labels=1, pad_token_id=pad)
        model: Any = GPT2ForSequenceClassification(config)
    elif kind == "qwen2":
        model = Qwen2ForSequenceClassification(
            Qwen2Config(**SIZES, num_key_value_heads=2, intermediate_size=64, pad_token_id=pad)
        )
    else:
        model = LlamaForSequenceClassification(LlamaConfig(**SIZES, intermediate_size=64, pad_token_id=pad))
    return model.double().eval()


def groups() -> list[Group]:
    rng = np.random.default_rng(0)

    def ids(count: int) -> np.ndarray:
        return rng.integers(1, 97, count).astype(np.int32)

    first = ids(9)
    answers = [ids(5), ids(7)]
    begins_alike = np.concatenate([answers[0][:3], ids(4)])
    return [
        Group(first, (answers[0], begins_alike), Source("made up", 1)),
        Group(ids(4), (answers[1], answers[1][:2]), Source("made up", 2)),  # one is the other's beginning
        Group(ids(6), (ids(1), ids(3)), Source("made up", 3)),
    ]


def alone(model: Any, ids: np.ndarray) -> float:
    """What transformers says of one row without padding."""
    padding, model.config.pad_token_id = model.config.pad_token_id, None
    with torch.no_grad():
        found = model(input_ids=torch.from_numpy(ids.astype(np.int64))[None]).logits
    model.config.pad_token_id = padding
    return float(found[0, 0])


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize("pad", [0, 5])
def test_the_last_token_of_an_answer_has_its_score(kind: str, pad: int) -> None:
    model = classifier(kind, pad)
    choice = attach_scorer(model, groups=groups())
    assert choice.name == "shared-prefix"
    batch = collate(groups())
    expected = [alone(model, np.concatenate([group.prompt, answer])) for group in groups() for answer in group.answers]
    with torch.no_grad():
        found = [model(batch=batch, how=how) for how in (score_values_plain, score_values_shared)]
        found.append(model(batch=batch))
    for scores in found:
        numbers = [number for pair in batch.items.pairs.tolist() for number in pair]
        assert scores.logps[numbers].tolist() == pytest.approx(expected, abs=1e-9)
        ends = scores.lengths.cumsum(0) - 1
        assert torch.equal(scores.logps, scores.token_logps[ends])
    torch.testing.assert_close(found[0].token_logps, found[1].token_logps, rtol=0, atol=1e-9)


def test_gradients_of_both_ways_are_equal() -> None:
    gradients = []
    for how in (score_values_plain, score_values_shared):
        model = classifier("gpt2")  # whose norms stay in fp64
        attach_scorer(model)
        model(batch=collate(groups()), how=how).logps.square().sum().backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize("how", [state_values_plain, state_values_shared])
def test_a_states_value_is_that_of_the_token_before(kind: str, how: Any) -> None:
    model = classifier(kind)
    attach_scorer(model)
    batch = collate(groups())
    with torch.no_grad():
        states, tokens = model(batch=batch, how=how), model(batch=batch)
    sizes = states.lengths.tolist()
    pairs = zip(states.token_logps.split(sizes), tokens.token_logps.split(sizes), batch.prompt_of, strict=True)
    for before, at, prompt in pairs:
        torch.testing.assert_close(before[1:], at[:-1], rtol=0, atol=1e-9)
        assert float(before[0]) == pytest.approx(alone(model, batch.prompts[prompt].numpy()), abs=1e-9)


def test_both_ways_to_a_states_value_have_one_gradient() -> None:
    model, batch = classifier("gpt2"), collate(groups())  # whose norms are computed in double precision throughout
    attach_scorer(model)
    weights = torch.randn(int(batch.lengths.sum()), generator=torch.Generator().manual_seed(0), dtype=torch.double)
    found = []
    for how in (state_values_plain, state_values_shared):
        model.zero_grad()
        (model(batch=batch, how=how).token_logps * weights).sum().backward()
        found.append({name: weight.grad.clone() for name, weight in model.named_parameters()})
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], rtol=0, atol=1e-9)
