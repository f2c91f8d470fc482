"""Configurations of models that are too large for tests to load, from their public values: plans need no more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import LlamaConfig

from tests.helpers.support import tiny_tokenizer


def llama(**changes: Any) -> LlamaConfig:
    """Llama 3.1 8B, or what `changes` make of it."""
    values: dict[str, Any] = {
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128_256,
        "max_position_embeddings": 131_072,
        "tie_word_embeddings": False,
    }
    return LlamaConfig(architectures=["LlamaForCausalLM"], **(values | changes))


def llama_70b() -> LlamaConfig:
    """Llama 3.1 70B."""
    return llama(hidden_size=8192, intermediate_size=28_672, num_hidden_layers=80, num_attention_heads=64)


def save_shape(config: LlamaConfig, folder: Path) -> Path:
    """A folder with a configuration and a tokenizer, and no weights."""
    config.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
