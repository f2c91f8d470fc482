"""What decides whether the shared-prefix scorer gives the plain one's numbers: the key of a remembered trial."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from likelier.models.adapter_parts import has_adapter, shaping_settings
from likelier.models.layers import causal_model, config_text

TRIAL = "scorer-trial"
_VERSIONED = ("torch", "transformers", "peft", "likelier")  # packages whose versions are in every key
_BUILT_IN = ("sdpa", "eager")  # attention of those packages


def trial_key(model: nn.Module, made_up: int, longest: int) -> dict[str, Any] | None:
    """Architecture, adapter, precision, device and settings of torch; the length of the made-up group, and the power of
    two that the longest row lies below, since rotary tables change at such lengths. None for a model that runs other
    code than that of packages whose versions are known, or that is split between ranks: it is tried every time.

    The values of the weights are left out. Both scorers compute the same function of any weights or of none, and a
    trial that failed is not remembered: weights with which the prompt hardly counts are tried again.
    """
    causal = causal_model(model)
    attention = getattr(causal.config.get_text_config(), "_attn_implementation", None)
    modules, parameters = list(model.modules()), list(model.parameters())
    split = any(hasattr(parameter, "to_local") for parameter in parameters)
    if split or attention not in _BUILT_IN or any(_changed(module) for module in modules if module is not model):
        return None
    classes = sorted({f"{type(module).__module__}.{type(module).__qualname__}" for module in modules})
    if not all(name.split(".")[0] in _VERSIONED for name in classes):
        return None
    tensors = (*parameters, *model.buffers())
    return {
        "config": config_text(causal.config),
        "classes": classes,
        "attention": attention,
        "adapter": repr(shaping_settings(model)) if has_adapter(model) else None,
        "dtypes": sorted({str(tensor.dtype) for tensor in tensors}),
        "autocast": bool(getattr(model, "_likelier_autocast", False)),
        "device": _device_words(parameters[0].device),
        "settings": _settings(),
        "made_up": made_up,
        "longest_below": 0 if longest == 0 else 2 ** (longest - 1).bit_length(),
    }


def _changed(module: nn.Module) -> bool:
    """Whether somebody put a function of his own into it."""
    return "forward" in vars(module) or bool(module._forward_hooks) or bool(module._forward_pre_hooks)


def _device_words(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} {torch.cuda.get_device_capability(device)}"
    return f"{device.type} {torch.backends.cpu.get_cpu_capability()}"


def _settings() -> list[Any]:
    """Those that choose kernels."""
    cuda = torch.backends.cuda
    return [
        torch.get_float32_matmul_precision(),
        *(torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32),
        *(cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled()),
        torch.are_deterministic_algorithms_enabled(),
    ]
