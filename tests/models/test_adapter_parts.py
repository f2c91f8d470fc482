"""Every part that an adapter can have: known as the adapter's, left out of the base, kept as it was, written again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM

from likelier.models.adapter_copies import adapter_has_effect
from likelier.models.policy import disable_dropout, load_policy
from likelier.scoring import attach_scorer
from likelier.scoring.reference import base_reference, start_reference
from likelier.scoring.reference.identity import identities
from likelier.utils.errors import ModelError
from tests.helpers.adapters_of_peft import KINDS, LORA, loaded, logits, some_ids, train_on, write_adapter
from tests.helpers.support import lora_policy, tiny_model

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


def _weights(model: Any, *, adapter: bool) -> str:
    return identities(model, adapter=adapter, precision="float32")["weights"]


def _attached(model: Any) -> Any:
    attach_scorer(model, scorer="plain")
    return model


@pytest.mark.slow
@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_of_any_kind_is_told_from_its_base(
    bases: dict[bool, Path], tmp_path: Path, kind: str, tie: bool
) -> None:
    ids, base = some_ids(), loaded(bases[tie]).model
    trained = write_adapter(bases[tie], tmp_path / "adapter", **KINDS[kind])
    policy = loaded(tmp_path / "adapter")
    model: Any = policy.model
    assert torch.equal(logits(model, ids), trained)
    assert adapter_has_effect(model)

    start = start_reference(model, precision="float32", keep_adapter=True)
    off = base_reference(model, precision="float32")
    assert "frozen copy of the adapter" in start.words and start.at_hand and off.at_hand
    assert off.weights == _weights(base, adapter=False) != start.weights
    train_on(model, ids)
    moved, flags = logits(model, ids), {name: weight.requires_grad for name, weight in model.named_parameters()}
    assert not torch.equal(moved, trained)
    with start.use() as asked:
        assert torch.equal(logits(asked, ids), trained)
    with off.use() as asked:
        assert torch.equal(logits(asked, ids), logits(base, ids))
    assert torch.equal(logits(model, ids), moved)
    assert flags == {name: weight.requires_grad for name, weight in model.named_parameters()}
    assert _weights(model, adapter=False) == off.weights
    assert _weights(model, adapter=True) != start.weights

    model.save_pretrained(tmp_path / "again")
    again = loaded(tmp_path / "again").model
    assert torch.equal(logits(again, ids), moved)
    assert _weights(again, adapter=True) == _weights(model, adapter=True)
    assert _weights(again, adapter=False) == off.weights


def _key_of_old(model: Any, adapter: bool) -> str:
    """The hash by which plain bases and plain LoRA adapters have been known from the first."""
    causal = model.get_base_model() if hasattr(model, "peft_config") else model
    volatile = {"transformers_version", "use_cache", "dtype", "torch_dtype", "architectures", "pad_token_id"}
    config = {key: value for key, value in causal.config.to_dict().items() if key not in volatile and key[0] != "_"}
    if adapter:
        lora = model.peft_config["default"]
        config["adapter"] = [lora.r, lora.lora_alpha, lora.use_rslora, lora.rank_pattern, lora.alpha_pattern]
    digest = hashlib.blake2b(json.dumps(config, sort_keys=True, default=str).encode(), digest_size=16)
    named = {name.replace(".base_layer", ""): weight for name, weight in causal.named_parameters()}
    for name in sorted(named):
        if adapter or ".lora_" not in name:
            values = named[name].detach()
            digest.update(f"{name}|{values.dtype}|{tuple(values.shape)}|".encode())
            digest.update(values.numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("changes", [{}, {"target_modules": "all-linear"}, {"use_rslora": True}, {"use_dora": True}])
def test_the_keys_of_plain_bases_and_adapters_are_as_they_were(changes: dict[str, Any]) -> None:
    plain = _attached(tiny_model(0, torch.float32))
    adapter = _attached(get_peft_model(tiny_model(0, torch.float32), LoraConfig(**(LORA | changes))))
    assert _weights(plain, adapter=False) == _key_of_old(plain, False) == _weights(adapter, adapter=False)
    assert _weights(adapter, adapter=True) == _key_of_old(adapter, True)


@pytest.mark.parametrize(
    "changes",
    [
        {"r": 2},
        {"lora_alpha": 9},
        {"use_rslora": True},
        {"use_dora": True},
        {"alpha_pattern": {"q_proj": 3}},
        {"rank_pattern": {"q_proj": 2}},
        {"trainable_token_indices": [4, 7]},
        {"trainable_token_indices": [4, 8]},
    ],
)
def test_whatever_shapes_an_adapter_is_in_its_identity(changes: dict[str, Any]) -> None:
    def hashed(**more: Any) -> str:
        torch.manual_seed(0)
        config = LoraConfig(**(LORA | {"trainable_token_indices": [4, 9]} | more))
        return _weights(_attached(get_peft_model(tiny_model(0, torch.float32), config)), adapter=True)

    assert hashed() == hashed() != hashed(**changes)


def test_rows_that_were_trained_are_in_the_identity() -> None:
    model = _attached(get_peft_model(tiny_model(0, torch.float32), LoraConfig(**LORA, trainable_token_indices=[4, 7])))
    before = _weights(model, adapter=True)
    rows = next(weight for name, weight in model.named_parameters() if "trainable_tokens_delta" in name)
    rows.data[1] += 1
    assert _weights(model, adapter=True) != before


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"init_lora_weights": "gaussian"},
        {"target_modules": ["embed_tokens", "v_proj"]},
        {"modules_to_save": ["norm"]},
        {"trainable_token_indices": [4, 7]},
        {"bias": "all"},
        {"lora_bias": True},
    ],
)
def test_a_fresh_adapter_is_without_effect_and_its_reference_the_base(
    bases: dict[bool, Path], tmp_path: Path, changes: dict[str, Any]
) -> None:
    write_adapter(bases[True], tmp_path / "fresh", steps=False, **changes)
    model = loaded(tmp_path / "fresh").model
    found = start_reference(model, precision="float32", keep_adapter=True)
    assert not adapter_has_effect(model) and "starts without effect" in found.words and found.equals_policy
    assert found.weights == _weights(loaded(bases[True]).model, adapter=False)


@pytest.mark.parametrize("part", ["lora_bias", "norm", "rows", "bias"])
def test_an_effect_beside_the_matrices_is_seen(part: str) -> None:
    changes = {"lora_bias": True, "modules_to_save": ["norm"], "trainable_token_indices": [4], "bias": "all"}
    names = {
        "lora_bias": ".lora_B.default.bias",
        "norm": "norm.modules_to_save",
        "rows": "tokens_delta",
        "bias": "q_proj.base_layer.bias",
    }
    model: Any = get_peft_model(tiny_model(0, torch.float32, attention_bias=True), LoraConfig(**(LORA | changes)))
    assert not adapter_has_effect(model)
    next(weight for name, weight in model.named_parameters() if names[part] in name).data.view(-1)[0] += 1
    assert adapter_has_effect(model)


@pytest.mark.slow
def test_the_base_of_an_adapter_made_in_python_keeps_the_biases_that_it_began_with() -> None:
    plain = _attached(tiny_model(0, torch.float32, attention_bias=True))
    model = _attached(get_peft_model(tiny_model(0, torch.float32, attention_bias=True), LoraConfig(**LORA, bias="all")))
    off = base_reference(model, precision="float32")
    train_on(model, some_ids())
    with off.use() as asked:
        assert torch.equal(logits(asked, some_ids()), logits(plain, some_ids()))


def test_dropout_is_the_adapters_own_and_not_the_models() -> None:
    """A module of the model that happens to bear peft's name for it is the model's."""
    model: Any = get_peft_model(
        tiny_model(0, torch.float32), LoraConfig(**LORA, lora_dropout=0.5, modules_to_save=["norm"])
    )
    causal = model.get_base_model()
    causal.model.lora_dropout = nn.Dropout(0.3)
    causal.model.norm.modules_to_save["default"].dropout = nn.Dropout(0.3)
    disable_dropout(model)
    rates = {name: module.p for name, module in model.named_modules() if isinstance(module, nn.Dropout)}
    assert {rate for name, rate in rates.items() if "_proj.lora_dropout" in name} == {0.5}
    assert {rate for name, rate in rates.items() if "_proj.lora_dropout" not in name} == {0.0} and len(rates) == 6


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "saved norm", "all biases", "token rows"])
def test_all_that_is_trained_stays_in_float32(bases: dict[bool, Path], tmp_path: Path, kind: str) -> None:
    write_adapter(bases[True], tmp_path / "adapter", **KINDS[kind])
    model = load_policy(tmp_path / "adapter", dtype="bfloat16").model
    assert {weight.dtype for weight in model.parameters() if weight.requires_grad} == {torch.float32}
    attach_scorer(model, scorer="plain", autocast=True)
    off = base_reference(model, precision="bfloat16-autocast")
    base = _attached(AutoModelForCausalLM.from_pretrained(bases[True], dtype=torch.bfloat16))
    assert off.weights == _weights(base, adapter=False)
    with torch.autocast("cpu", torch.bfloat16), off.use() as asked:
        assert torch.equal(logits(asked, some_ids()), logits(base, some_ids()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "holds an adapter of the kind IA3; only LoRA adapters are known here. Merge it"),
        ({"peft_type": "VERA"}, "holds an adapter of the kind VERA"),
        ({"peft_type": "TRAINABLE_TOKENS"}, "holds an adapter of the kind TRAINABLE_TOKENS"),
        ({"use_bdlora": {"nblocks": 2}}, "is a LoRA adapter with use_bdlora, which is not known here"),
        ({"arrow_config": {"top_k": 2}}, "with arrow_config"),
        ({"layer_replication": [[0, 2], [1, 2]]}, r"with layer_replication \(layers of its base that are used twice\)"),
        ({"init_lora_weights": "pissa_niter_4"}, "its base cannot be had again"),
        ({"init_lora_weights": "mica"}, "with init_lora_weights=mica"),
    ],
)
def test_a_kind_that_is_not_known_is_refused_by_its_name(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    lora_policy().model.save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": "base"} | change))
    with pytest.raises(ModelError, match=message):
        load_policy(tmp_path)
