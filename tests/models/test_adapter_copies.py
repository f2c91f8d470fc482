"""An adapter switched off and on again, whether it has an effect, and the copy of it that is kept."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model

from likelier.models.adapter_copies import adapter_has_effect, frozen_copy_of_adapter, without_adapter
from likelier.models.policy import load_policy
from likelier.utils.errors import WrongReferenceError
from tests.helpers.adapters_of_peft import (
    LORA,
    VOCABULARY,
    ids_with_new,
    logits,
    some_ids,
    train_on,
    write_adapter,
    write_base,
)
from tests.helpers.support import lora_policy, tiny_model

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


def adapted(dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    return get_peft_model(tiny_model(0, dtype), LoraConfig(**(LORA | changes)))


def weight_of(model: Any, name: str) -> torch.Tensor:
    return next(weight for known, weight in model.named_parameters() if name in known)


@pytest.mark.parametrize("fails", [True, False])
def test_switched_off_and_on_again_the_same_is_trained_and_the_same_computed(fails: bool) -> None:
    model: Any = lora_policy(dtype=torch.float32).model
    weight_of(model, "lora_B").data.fill_(0.1)
    plain, before = logits(tiny_model(0, torch.float32), some_ids()), logits(model, some_ids())
    weight_of(model, "lora_A").requires_grad_(False)
    trained = {name: weight.requires_grad for name, weight in model.named_parameters()}
    assert len(set(trained.values())) == 2
    try:
        with without_adapter(model) as base:
            assert torch.equal(logits(base, some_ids()), plain)
            if fails:
                raise RuntimeError
    except RuntimeError:
        assert fails
    assert {name: weight.requires_grad for name, weight in model.named_parameters()} == trained
    assert torch.equal(logits(model, some_ids()), before) and not torch.equal(before, plain)


def test_biases_that_are_put_back_are_no_reason_for_peft_to_warn() -> None:
    model = get_peft_model(tiny_model(0, torch.float32, attention_bias=True), LoraConfig(**LORA, bias="all"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with without_adapter(model):
            pass


@pytest.mark.slow
def test_a_copy_is_what_was_trained_at_that_time_and_takes_nothing_else() -> None:
    model: Any = lora_policy(dtype=torch.float32).model
    weight_of(model, "lora_B").data.fill_(0.1)
    before, kept = logits(model, some_ids()), frozen_copy_of_adapter(model)
    train_on(model, some_ids())
    moved = logits(model, some_ids())
    for _ in range(2):
        with kept() as asked:
            assert asked is model and torch.equal(logits(asked, some_ids()), before)
        assert torch.equal(logits(model, some_ids()), moved) and not torch.equal(moved, before)


@pytest.mark.slow
def test_tokens_that_the_base_lacks_are_told_from_the_first_on_and_only_while_it_is_asked(tmp_path: Path) -> None:
    write_adapter(write_base(tmp_path / "base"), tmp_path / "adapter", grown=True, save_embedding_layers=True)
    model: Any = load_policy(tmp_path / "adapter").model
    new = ids_with_new()
    assert int(new.max()) == VOCABULARY  # the first that is new
    grown = logits(model, new)
    for known in (some_ids(), torch.tensor([[5, VOCABULARY - 1]])):
        with without_adapter(model) as base:
            logits(base, known)
    for call in (lambda base: base(input_ids=new), lambda base: base(new)):
        told = pytest.raises(WrongReferenceError, match=f"no token {VOCABULARY}: its vocabulary has {VOCABULARY} rows")
        with told, without_adapter(model) as base:
            call(base)
    assert torch.equal(logits(model, new), grown)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"target_modules": ["embed_tokens"]}, "lora_embedding_A"),
        ({}, "lora_B"),
        ({"lora_bias": True}, "lora_B.default.bias"),
        ({"trainable_token_indices": [4]}, "tokens_delta"),
        ({"modules_to_save": ["norm"]}, "norm.modules_to_save"),
    ],
)
@pytest.mark.parametrize("value", [1.0, -1e-6])
def test_one_number_is_an_effect_and_without_it_there_is_none(changes: dict[str, Any], name: str, value: float) -> None:
    model = adapted(**changes)
    assert not adapter_has_effect(model)
    weight = weight_of(model, name)
    before = weight.detach().clone()
    weight.data.view(-1)[-1] += value
    assert adapter_has_effect(model)
    weight.data.copy_(before)
    assert not adapter_has_effect(model)


def test_an_effect_too_small_for_the_bases_numbers_is_one() -> None:
    """Rows in float32 beside a base in 16 bits."""
    model = adapted(torch.bfloat16, trainable_token_indices=[4])
    rows = weight_of(model, "tokens_delta")
    rows.data = rows.data.float()
    assert not adapter_has_effect(model)
    rows.data[0, 0] *= 1 + 1e-5
    assert adapter_has_effect(model)


def test_a_half_of_the_product_is_no_effect_and_what_cannot_be_told_is_one() -> None:
    model = adapted()
    for half in ("lora_A", "lora_B"):
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.data.fill_(float(half in name))
        assert not adapter_has_effect(model)
    assert adapter_has_effect(adapted(use_dora=True))
    kind: Any = IA3Config(target_modules=["k_proj"], feedforward_modules=[], task_type="CAUSAL_LM")
    assert adapter_has_effect(get_peft_model(tiny_model(0, torch.float32), kind))
