"""Models that hold some of their weights together: copies, and folders of their own on one base."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from likelier.models.adapter_parts import parts_of
from likelier.models.layers import causal_model


def value_copy(model: nn.Module, shares: Callable[[nn.Parameter], bool]) -> Any:
    """A copy of a causal language model, of its adapter and of what it was taught, whose head gives one number a token
    instead of words. It holds the weights that `shares` selects together with the model; the new head is 0 everywhere.
    """
    causal = causal_model(model)
    words = causal.get_output_embeddings()
    memo: dict[int, Any] = {id(one): one for one in model.parameters() if shares(one)}
    memo[id(words)] = nn.Identity()
    copy: Any = deepcopy(model, memo)
    like = next(causal.parameters())
    width = causal.config.get_text_config().hidden_size
    head = nn.Linear(width, 1, bias=False, device=like.device, dtype=_head_dtype(like))
    nn.init.zeros_(head.weight)
    causal_model(copy).score = head
    return copy


def _head_dtype(like: Tensor) -> torch.dtype:
    """Trained weights are kept in full precision beside frozen ones in 16 bits."""
    return like.dtype if like.dtype in (torch.float32, torch.float64) else torch.float32


def share_frozen(model: nn.Module, others: list[nn.Module]) -> int:
    """Let a model hold its frozen weights together with others that have the same: how many bytes that freed.

    A weight is shared with one of its plain name, shape, precision and value that is frozen there as well.
    """
    known: dict[str, list[nn.Parameter]] = {}
    for other in others:
        for part in parts_of(other):
            if isinstance(part.tensor, nn.Parameter) and not part.tensor.requires_grad:
                known.setdefault(part.plain, []).append(part.tensor)
    plain = {id(part.tensor): part.plain for part in parts_of(model)}
    freed = 0
    for module in model.modules():
        for key, weight in list(module._parameters.items()):
            if weight is None or weight.requires_grad or id(weight) not in plain:
                continue
            same = next((one for one in known.get(plain[id(weight)], []) if _same(one, weight)), None)
            if same is not None and same is not weight:
                module._parameters[key] = same
                freed += weight.nbytes
    return freed


def _same(one: Tensor, other: Tensor) -> bool:
    alike = one.shape == other.shape and one.dtype == other.dtype and one.device == other.device
    return alike and (one is other or torch.equal(one, other))
