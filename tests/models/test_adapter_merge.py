"""Adapters of every kind are merged into what they were, tied embeddings and grown vocabularies among them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from likelier.training import merge
from likelier.utils.errors import ModelError
from tests.helpers.adapters_of_peft import (
    KINDS,
    NEW,
    VOCABULARY,
    ids_with_new,
    logits,
    some_ids,
    write_adapter,
    write_base,
)

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")]
_TWO_WEIGHTS = {"head", "embedding", "saved embedding", "saved embedding and head"}


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_merged_is_the_adapters_model(bases: dict[bool, Path], tmp_path: Path, kind: str, tie: bool) -> None:
    trained = write_adapter(bases[tie], tmp_path / "adapter", **KINDS[kind])
    said = merge.merge_run(str(tmp_path / "adapter"), str(tmp_path / "merged"))
    assert "where the adapter moves them by" in said
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert torch.allclose(logits(merged, some_ids()), trained, atol=2e-4)
    settings = json.loads((tmp_path / "merged" / "config.json").read_text(encoding="utf-8"))
    assert settings["tie_word_embeddings"] == (tie and kind not in _TWO_WEIGHTS)


@pytest.mark.parametrize("kind", ["plain", "saved embedding and head", "token rows"])
def test_a_merged_model_has_the_adapters_vocabulary(bases: dict[bool, Path], tmp_path: Path, kind: str) -> None:
    changes = KINDS[kind] | ({"trainable_token_indices": [4, VOCABULARY]} if kind == "token rows" else {})
    trained = write_adapter(bases[True], tmp_path / "adapter", grown=True, **changes)
    merge.merge_run(str(tmp_path / "adapter"), str(tmp_path / "merged"))
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert torch.allclose(logits(merged, ids_with_new()), trained, atol=2e-4)
    assert merged.config.vocab_size == VOCABULARY + len(NEW)
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").convert_tokens_to_ids(NEW[0]) == VOCABULARY


def test_what_peft_cannot_merge_is_said_in_its_words(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    write_adapter(base, tmp_path / "adapter", lora_bias=True, target_modules=["up_proj"])
    with pytest.raises(ModelError, match=r"cannot be merged: .*the base layer has no bias"):
        merge.merge_run(str(tmp_path / "adapter"), str(tmp_path / "merged"))
    assert not (tmp_path / "merged").exists()
