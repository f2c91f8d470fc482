"""How many tokens one micro-batch takes: from the model's size and the device's memory."""

from __future__ import annotations

import os
from typing import Any

import torch


def default_token_budget(model: Any, device: torch.device, *, checkpointing: bool = False) -> int:
    """Tokens of one micro-batch: a deterministic function of the model, its dtype and the device's total memory."""
    config = model.config.get_text_config()
    hidden = config.hidden_size * torch.finfo(model.dtype).bits // 8
    return default_budget(
        config.num_hidden_layers, hidden, total_memory(device), device.type, checkpointing=checkpointing
    )


def default_budget(layers: int, hidden: int, memory: int, device: str, *, checkpointing: bool = False) -> int:
    """A third of the memory for activations, at about 40 hidden states (of `hidden` bytes) a layer and token.

    With activation checkpointing 2 of them are kept and one layer's 40 are live. On a CPU at most 1024 tokens, beyond
    which rows only leave the cache.
    """
    fitting = memory // 3 // ((2 * layers + 40 if checkpointing else 40 * layers) * hidden)
    return int(max(1024, min(fitting, 1024 if device == "cpu" else 65536)))


def total_memory(device: torch.device) -> int:
    """Total memory of the device in bytes."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
