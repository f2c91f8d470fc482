"""Tiny random models of many architectures, and groups that a scorer must get right."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn

from likelier.data.groups import Group
from likelier.data.records import Source
from likelier.scoring import SequenceScores

WINDOW = 8
VOCABULARY = 100
_GPT_SIZES = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_WITHOUT_HEAD_SIZE = {
    **_GPT_SIZES,
    "intermediate_size": 48,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_COMMON = {**_WITHOUT_HEAD_SIZE, "head_dim": 8}
_TWO_KINDS = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_CAPPED = {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 8}
_LINEAR_HEADS = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8}
_MAMBA = {"mamba_d_state": 4, "use_mamba_kernels": False, "num_experts": 2}
_EVERY_OTHER = {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1}

SHARING: dict[str, tuple[str, dict[str, Any]]] = {
    "llama, tied": ("Llama", {**_COMMON, "tie_word_embeddings": True}),
    "llama, untied": ("Llama", {**_COMMON, "tie_word_embeddings": False}),
    "qwen2": ("Qwen2", _COMMON),
    "qwen3": ("Qwen3", _COMMON),
    "mistral": ("Mistral", {**_COMMON, "sliding_window": WINDOW}),
    "gemma2": ("Gemma2", {**_COMMON, **_CAPPED, **_TWO_KINDS}),
    "gemma3": ("Gemma3Text", {**_COMMON, **_TWO_KINDS}),
    "phi3": ("Phi3", _WITHOUT_HEAD_SIZE),
    "olmo2": ("Olmo2", _COMMON),
    "gpt2": ("GPT2", {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}),
    "mixtral": ("Mixtral", {**_COMMON, "num_local_experts": 4}),
    "qwen3-moe": ("Qwen3Moe", {**_COMMON, **_EXPERTS}),
    "gpt-oss": ("GptOss", {**_COMMON, **_TWO_KINDS, "num_local_experts": 4}),
    "granite": ("Granite", {**_COMMON, "logits_scaling": 3.0}),
    "cohere2": ("Cohere2", {**_COMMON, **_TWO_KINDS}),
    "gpt-neox": ("GPTNeoX", {**_GPT_SIZES, "intermediate_size": 48, "max_position_embeddings": 256}),
    "opt": ("OPT", {**_GPT_SIZES, "ffn_dim": 48, "max_position_embeddings": 256, "word_embed_proj_dim": 32}),
}
NOT_IN_FLOAT64 = {"gemma2", "mixtral", "qwen3-moe", "gpt-oss"}  # their own code does not run there
IN_FLOAT64 = [name for name in SHARING if name not in NOT_IN_FLOAT64]
NOT_SHARING: dict[str, tuple[str, dict[str, Any]]] = {
    "falcon": ("Falcon", _GPT_SIZES),
    "bloom": ("Bloom", {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "mamba": ("Mamba", {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}),
    "lfm2": ("Lfm2", {**_WITHOUT_HEAD_SIZE, "layer_types": ["conv", "full_attention"]}),
    "jamba": ("Jamba", {**_WITHOUT_HEAD_SIZE, **_MAMBA, **_EVERY_OTHER}),
    "qwen3-next": (
        "Qwen3Next",
        {
            **_COMMON,
            **_EXPERTS,
            **_LINEAR_HEADS,
            "linear_value_head_dim": 8,
            "shared_expert_intermediate_size": 16,
            "layer_types": ["linear_attention", "full_attention"],
        },
    ),
    "llama4": (
        "Llama4Text",
        {**_COMMON, "attention_chunk_size": WINDOW, "num_local_experts": 2, "intermediate_size_mlp": 48},
    ),
}


def tiny(name: str, dtype: torch.dtype = torch.float32, **changes: object) -> Any:
    """A random model, without dropout; its weights are large enough that it looks at its context."""
    kind, settings = (SHARING | NOT_SHARING)[name]
    config = getattr(transformers, f"{kind}Config")(**{**settings, **changes})
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(4)
    return model.to(dtype).eval()


def group(prompt: Sequence[int], *answers: Sequence[int], desirable: bool | None = None) -> Group:
    """A group of token ids."""
    own, sides = np.array(prompt, dtype=np.int32), tuple(np.array(answer, dtype=np.int32) for answer in answers)
    return Group(own, sides, Source("made up", 1), desirable)


def random_tokens(seed: int, count: int) -> list[int]:
    """Token ids without special ones."""
    return np.random.default_rng(seed).integers(3, VOCABULARY, count).tolist()


@cache
def hard_pairs() -> tuple[Group, ...]:
    """Pairs in which whatever could go wrong has a chance to."""
    r, window = random_tokens, WINDOW
    prompt, answers = r(1, 12), [r(10 + number, length) for number, length in enumerate((5, 9, 3, 1, 6))]
    return (
        group(prompt, answers[0], answers[1]),  # five answers of one prompt, in pairs that share some
        group(prompt, answers[2], answers[3]),
        group(prompt, answers[0], answers[4]),
        group(r(2, 6), [7], [8]),  # answers of one token
        group([1], r(20, 7), r(21, 4)),  # a prompt of one token
        group(r(3, 5), [3, 4, 5, *r(22, 4)], [3, 4, 5, *r(23, 2)]),  # a common beginning
        group(r(4, 4), [9, 9, 9], [9, 9]),  # one answer is the other's beginning
        group(r(5, 3 * window), r(24, 3), r(25, 5)),  # a prompt longer than the window
        group(r(6, 4), r(26, 3 * window), r(27, window + 2)),  # answers longer than the window
        group(r(7, 2 * window), [*r(28, window), *r(29, window)], [*r(28, window), *r(30, 2)]),  # both, and common
    )


@cache
def hard_rows() -> tuple[Group, ...]:
    """Labelled answers, one to a prompt."""
    sizes = [(12, 5), (1, 1), (1, 9), (20, 1), (9, 20)]
    return tuple(group(random_tokens(40 + p, p), random_tokens(60 + a, a), desirable=True) for p, a in sizes)


def weighted_gradients(model: nn.Module, scores: SequenceScores) -> dict[str, Tensor]:
    """The gradients of a sum of the token log-probabilities with weights of either sign."""
    weights = torch.linspace(-1, 1, len(scores.token_logps), dtype=scores.token_logps.dtype).sin()
    model.zero_grad()
    (scores.token_logps * weights).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def gradient_gap(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest difference of one parameter's gradient, relative to the whole gradient's norm."""
    assert found.keys() == expected.keys()
    norm = torch.stack([gradient.norm() for gradient in expected.values()]).norm()
    return max(float((found[name] - gradient).norm() / norm) for name, gradient in expected.items())
