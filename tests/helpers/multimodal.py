"""Tiny random checkpoints of models with several parts, as folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers as hf

from tests.helpers.support import tiny_tokenizer

_TEXT = {
    "vocab_size": 384,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_GEMMA = {**_TEXT, "head_dim": 8, "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 64}
_SEEN = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
}
_MROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
_QWEN_EYES = {"depth": 1, "hidden_size": 32, "out_hidden_size": 32, "num_heads": 4, "intermediate_size": 64}
_QWEN = {"image_token_id": 5, "video_token_id": 6, "vision_start_token_id": 7, "vision_end_token_id": 8}
_AUDIO = {"d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 4, "encoder_ffn_dim": 64, "num_mel_bins": 8}


def _config(kind: str) -> Any:
    if kind == "gemma3":
        return hf.Gemma3Config(text_config=_GEMMA, vision_config=_SEEN, mm_tokens_per_image=4, image_token_index=5)
    if kind == "gemma4":
        return hf.Gemma4Config(
            text_config={**_GEMMA, "vocab_size_per_layer_input": 384, "hidden_size_per_layer_input": 8},
            vision_config=_SEEN,
            audio_config=None,
        )
    if kind == "qwen2.5-vl":
        text = {**_TEXT, "rope_parameters": _MROPE}
        eyes = {**_QWEN_EYES, "fullatt_block_indexes": [0]}
        return hf.Qwen2_5_VLConfig(text_config=text, vision_config=eyes, **_QWEN)
    if kind == "qwen2-vl":
        eyes = {"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "mlp_ratio": 2}
        return hf.Qwen2VLConfig(text_config={**_TEXT, "rope_parameters": _MROPE}, vision_config=eyes, **_QWEN)
    if kind == "llava":
        eyes = hf.CLIPVisionConfig(**_SEEN)
        return hf.LlavaConfig(text_config=hf.LlamaConfig(**_TEXT), vision_config=eyes, image_token_index=5)
    if kind == "mistral3":
        eyes = hf.PixtralVisionConfig(**_SEEN, head_dim=8)
        return hf.Mistral3Config(text_config=hf.MistralConfig(**_TEXT), vision_config=eyes, image_token_index=5)
    if kind == "smolvlm":
        text = hf.LlamaConfig(**_TEXT)
        return hf.SmolVLMConfig(text_config=text, vision_config=_SEEN, image_token_id=5, scale_factor=2)
    assert kind == "qwen2-audio"
    ears = {**_AUDIO, "max_source_positions": 64}
    return hf.Qwen2AudioConfig(text_config=hf.Qwen2Config(**_TEXT), audio_config=ears, audio_token_index=5)


KINDS = ("gemma3", "gemma4", "qwen2-vl", "qwen2.5-vl", "llava", "mistral3", "smolvlm", "qwen2-audio")


def save_parted(folder: Path, kind: str = "gemma3") -> Path:
    """Save a checkpoint of this kind, with the tests' tokenizer."""
    torch.manual_seed(0)
    model = hf.AutoModelForMultimodalLM.from_config(_config(kind))
    for weight in model.parameters():
        if weight.dim() > 1:
            weight.data.mul_(4)  # so that it looks at its context
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
