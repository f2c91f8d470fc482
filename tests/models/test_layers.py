"""What lies beneath wrappers, and the mode that a model is in while it is only asked."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from likelier.models.layers import backbone_of, causal_model, checkpoint_activations, decoder_layers, frozen
from tests.helpers.architectures import SHARING, tiny
from tests.helpers.support import lora_policy, tiny_model


class Wrapped(nn.Module):
    """As DDP has it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


class Sharded(nn.Dropout):
    """As FSDP2 has it: its weights can be let go."""

    let_go = 0

    def reshard(self) -> None:
        self.let_go += 1


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_a_frozen_model_has_no_dropout_and_no_gradients_and_is_then_as_before(training: bool, fails: bool) -> None:
    model = Sharded(0.5).train(training)
    values = torch.ones(100, requires_grad=True)
    try:
        with frozen(model):
            asked = model(values)
            assert torch.equal(asked, values) and not (2 * values).requires_grad and not model.let_go
            if fails:
                raise RuntimeError
    except RuntimeError:
        assert fails
    assert model.training is training and model.let_go == 1
    assert (2 * values).requires_grad and torch.equal(model(values), values) is not training


def test_a_model_without_shards_needs_not_let_go() -> None:
    with frozen(nn.Linear(2, 2)) as nothing:
        assert nothing is None


def test_beneath_wrappers_and_adapters_lies_the_causal_model() -> None:
    plain, adapter = tiny_model(), lora_policy().model
    base = adapter.get_base_model()  # type: ignore[operator]
    for model, causal in ((plain, plain), (adapter, base)):
        for wrapped in (model, Wrapped(model), Wrapped(Wrapped(model))):
            assert causal_model(wrapped) is causal
    assert [type(layer).__name__ for layer in decoder_layers(Wrapped(adapter))] == ["LlamaDecoderLayer"] * 2


@pytest.mark.parametrize("name", SHARING)
def test_the_backbone_gives_the_hidden_states_that_the_head_projects(name: str) -> None:
    causal, ids = tiny(name), torch.tensor([[5, 6, 7, 8]])
    backbone, seen = backbone_of(causal), list[Any]()
    causal.get_output_embeddings().register_forward_pre_hook(lambda head, args: seen.append(args[0]))
    with torch.no_grad():
        causal(input_ids=ids, use_cache=False)
        assert torch.equal(backbone(input_ids=ids, use_cache=False).last_hidden_state, seen[0])


def test_recomputed_activations_change_no_gradient() -> None:
    ids, found = torch.tensor([[5, 6, 7, 8, 9]]), []
    for again in (False, True):
        model, calls = tiny_model().train(), list[int]()
        if again:
            checkpoint_activations(Wrapped(model))
        decoder_layers(model)[0].mlp.register_forward_pre_hook(lambda *given, calls=calls: calls.append(1))  # type: ignore[operator, union-attr]
        model(input_ids=ids, labels=ids).loss.backward()
        found.append([weight.grad for weight in model.parameters()])
        assert len(calls) == 1 + again  # computed again in backward
    for plain, recomputed in zip(*found, strict=True):
        torch.testing.assert_close(plain, recomputed, rtol=1e-10, atol=1e-12)
