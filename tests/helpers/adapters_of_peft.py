"""Adapters of every kind that peft's LoRA has, trained a little with peft alone and saved as their users save them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from likelier.models.policy import Policy, load_policy
from likelier.scoring import attach_scorer
from tests.helpers.support import tiny_model, tiny_tokenizer

LORA: dict[str, Any] = {"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", "target_modules": ["q_proj", "v_proj"]}
VOCABULARY = 335  # of the tiny tokenizer
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rank-stabilized": {"use_rslora": True, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 1}},
    "DoRA": {"use_dora": True},
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "head": {"target_modules": ["lm_head"]},
    "saved norm": {"modules_to_save": ["norm"]},
    "saved embedding": {"modules_to_save": ["embed_tokens"]},
    "saved embedding and head": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "token rows": {"trainable_token_indices": [4, 7]},
    "token rows and DoRA": {"trainable_token_indices": {"embed_tokens": [4, 7]}, "use_dora": True},
    "all biases": {"bias": "all"},
    "biases of its layers": {"bias": "lora_only"},
    "PiSSA": {"init_lora_weights": "pissa"},
    "OLoRA": {"init_lora_weights": "olora"},
    "not zero": {"init_lora_weights": False},
    "parameters": {"target_modules": [], "target_parameters": ["mlp.gate_proj.weight", "mlp.up_proj.weight"]},
}
NEW = ("<|x|>", "<|y|>")


def write_base(folder: Path, *, tie: bool = True, vocabulary: int = VOCABULARY) -> Path:
    """A tiny Llama with biases, and its tokenizer."""
    model = tiny_model(0, torch.float32, tie_word_embeddings=tie, vocab_size=vocabulary, attention_bias=True)
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            weight.data.normal_(0, 0.1)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def loaded(folder: Path) -> Policy:
    """A model or adapter as likelier loads it, scored plainly."""
    policy = load_policy(folder)
    attach_scorer(policy.model, scorer="plain")
    return policy


def some_ids(below: int = VOCABULARY) -> torch.Tensor:
    """Three rows of token ids."""
    ids = torch.randint(5, below, (3, 12), generator=torch.Generator().manual_seed(0))
    ids[:, ::5] = 7
    return ids


def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """The model's own, without gradients."""
    with torch.no_grad():
        return model(input_ids=ids).logits


def train_on(model: Any, ids: torch.Tensor) -> None:
    """Two large steps, for the probabilities to move."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.5)
    for _ in range(2):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def write_adapter(
    base: Path, folder: Path, *, steps: bool = True, grown: bool = False, rows: int | None = None, **changes: Any
) -> torch.Tensor:
    """Save an adapter that peft trained on the base; returns what the trained model gives for `some_ids`.

    `grown` adds two tokens to the vocabulary; `rows` resizes the embedding.
    """
    model = AutoModelForCausalLM.from_pretrained(base)
    tokenizer = tiny_tokenizer()
    if grown:
        tokenizer.add_tokens(list(NEW), special_tokens=True)
        rows = len(tokenizer)
    if rows is not None:
        model.resize_token_embeddings(rows, mean_resizing=False)
    save_embedding_layers = changes.pop("save_embedding_layers", "auto")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(model, LoraConfig(**(LORA | changes)))
        ids = ids_with_new() if grown else some_ids()
        if steps:
            train_on(model, ids)
        model.save_pretrained(folder, save_embedding_layers=save_embedding_layers)
    tokenizer.save_pretrained(folder)
    return logits(model, ids)


def ids_with_new() -> torch.Tensor:
    """Token ids, the first of the two new ones among them."""
    ids = some_ids()
    ids[0, 3] = VOCABULARY
    return ids
