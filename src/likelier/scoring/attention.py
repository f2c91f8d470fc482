"""Attention over the shared-prefix layout, through transformers' attention interface: no model code is patched.

A function is registered beside each of transformers' own. Called with the layout's segments (the keyword
`shared_prefix`) it attends within them; with `attends` it hands over to that, which keeps keys while answers are
written; called without, it hands over to the original, so that every other use of the model stays as it was, and
activation checkpointing recomputes what was computed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import cache
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from likelier.models.layers import backbone_of
from likelier.scoring.layout import Segment, Segments
from likelier.utils.errors import ModelError

_PREFIX = "likelier_"
_ORIGINAL_NAMES: dict[str, str] = {}  # of the attention beside which each of ours was registered
_WITHOUT_EFFECT = {"is_causal", "position_ids", "cache_position", "use_cache", "output_attentions", "layer_idx"}


class UnknownAttentionError(ModelError):
    """The model asks for something of its attention that is not built for the shared-prefix layout."""


def install_attention(model: Any) -> None:
    """Let the model's attention layers know the shared-prefix layout; what they did before, they still do.

    Raises:
        UnknownAttentionError: the model does not use transformers' attention interface.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    config: Any = model.config.get_text_config()
    name = config._attn_implementation
    if name in _ORIGINAL_NAMES:
        return
    original = _eager_function(model) if name == "eager" else ALL_ATTENTION_FUNCTIONS.get(name)
    if original is None or name not in ALL_MASK_ATTENTION_FUNCTIONS:
        raise UnknownAttentionError(f"its attention {name!r} is not one of transformers' interface")
    ours = f"{_PREFIX}{name}" if name != "eager" else f"{_PREFIX}eager_{_module_of(model).rsplit('.')[-1]}"
    AttentionInterface.register(ours, _beside(original))
    AttentionMaskInterface.register(ours, ALL_MASK_ATTENTION_FUNCTIONS[name])
    _ORIGINAL_NAMES[ours] = name
    config._attn_implementation = ours


def restore_attention(model: Any) -> None:
    """Give the model its own attention back, where ours was installed."""
    config: Any = model.config.get_text_config()
    config._attn_implementation = _ORIGINAL_NAMES.get(config._attn_implementation, config._attn_implementation)


def _eager_function(model: nn.Module) -> Callable[..., Any] | None:
    """The eager attention of a model's own module (of its language part's); transformers registers none so named."""
    return getattr(sys.modules[_module_of(model)], "eager_attention_forward", None)


def _module_of(model: Any) -> str:
    return type(model if (backbone := backbone_of(model)) is None else backbone).__module__


def _beside(original: Callable[..., Any]) -> Callable[..., Any]:
    # Segments change with every batch: compiled layers break off here and go on behind it.
    attend: Any = torch.compiler.disable(shared_prefix_attention)

    def attention(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        *args: Any,
        shared_prefix: Segments | None = None,
        attends: Callable[..., Tensor] | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        if attends is not None:
            return attends(module, query, key, value, **kwargs), None
        if shared_prefix is None:
            return original(module, query, key, value, attention_mask, *args, **kwargs)
        return attend(query, key, value, shared_prefix, **kwargs), None

    return attention


def shared_prefix_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: Segments,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **others: Any,
) -> Tensor:
    """Attend within trunks and from branches to their trunks.

    Args:
        query: (1, heads, length, head_dim); key and value may have fewer heads, each shared by a group of query heads.
        segments: of the row.
        scaling: of the scores (default: head_dim ** -0.5).
        dropout: of the attention weights; must be 0.
        sliding_window: a query sees this many positions, its own included.
        softcap: scores become softcap * tanh(scores / softcap).
        s_aux: (heads,) attention sinks, a score each that takes its share of the softmax and gives nothing.
        others: what else a model passes; anything that could change the result is refused.

    Returns:
        (1, length, heads, head_dim).

    Raises:
        UnknownAttentionError: an option that is not built here.
    """
    require_known(dropout, others)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    plain = softcap is None and s_aux is None
    if plain and has_varlen_kernel(query):
        return _varlen(query, key, value, segments, scale, sliding_window)
    pieces = [tensor.split([s.length for s in segments.segments], dim=2) for tensor in (query, key, value)]
    trunks: dict[int, tuple[Tensor, Tensor]] = {}
    attended = []
    for segment, q, k, v in zip(segments.segments, *pieces, strict=True):
        if segment.trunk_length:
            trunk_k, trunk_v = trunks[segment.trunk_start]
            k, v = torch.cat([trunk_k, k], dim=2), torch.cat([trunk_v, v], dim=2)
        else:
            trunks[segment.start] = (k, v)
        # A window as long as the segment hides nothing, and without one a trunk needs no mask.
        window = sliding_window if sliding_window is not None and sliding_window < segment.keys else None
        if plain:
            attended.append(_attend(q, k, v, segments, segment, window, scale))
        else:
            attended.append(_attend_in_full(q, k, v, segments.mask(segment, window), scale, softcap, s_aux))
    return torch.cat(attended, dim=2).transpose(1, 2).contiguous()


def require_known(dropout: float, others: Mapping[str, Any]) -> None:
    """Raises `UnknownAttentionError` for what a model passes to its attention that could change the result."""
    unknown = [name for name, given in others.items() if given is not None and name not in _WITHOUT_EFFECT]
    if dropout:
        unknown.append("dropout")
    if unknown:
        raise UnknownAttentionError(f"its attention has options that are not built here: {', '.join(unknown)}")


def has_varlen_kernel(query: Tensor) -> bool:
    """Whether all segments can be attended to in one kernel call: FlashAttention's, which takes 16 bits and heads of at
    most 256 numbers, in steps of 8, on GPUs since Ampere (compute capability 8.0).
    """
    fits = query.dtype in (torch.bfloat16, torch.float16) and query.shape[-1] <= 256 and query.shape[-1] % 8 == 0
    if not (query.is_cuda and fits and _takes_our_call()):
        return False
    return torch.cuda.get_device_capability(query.device) >= (8, 0)


@cache
def _takes_our_call() -> bool:
    """Whether torch's `varlen_attn` knows the arguments that it is given here: that of 2.12 does, of 2.10 not."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    return {"scale", "window_size", "enable_gqa"} <= signature(varlen_attn).parameters.keys()


def _attend(
    q: Tensor, k: Tensor, v: Tensor, segments: Segments, segment: Segment, window: int | None, scale: float
) -> Tensor:
    # `is_causal` lines the first query up with the first key. A branch's queries are the last of its keys, behind the
    # trunk's, so it takes a mask that says so.
    causal = segment.trunk_length == 0 and window is None
    mask = None if causal else segments.mask(segment, window)
    grouped = q.shape[1] != k.shape[1]
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=grouped)


def _attend_in_full(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float, softcap: float | None, sinks: Tensor | None
) -> Tensor:
    """With the matrix of scores: for soft-capping (Gemma 2) and attention sinks (gpt-oss)."""
    k, v = (tensor.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for tensor in (k, v))
    sinks = None if sinks is None else sinks.view(1, -1, 1, 1)
    return attention_weights(q @ k.transpose(2, 3) * scale, mask, softcap, sinks).to(v.dtype) @ v


def attention_weights(scores: Tensor, mask: Tensor | None, softcap: float | None, sinks: Tensor | None) -> Tensor:
    """The softmax over the last dimension of scores (..., keys), in fp32 or above.

    `mask` says which keys are seen, and broadcasts, as does `sinks` (..., 1) with its one score.
    """
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    if sinks is None:
        return scores.softmax(-1)
    # One more key in the softmax, whose weight is then dropped: it has no value to give.
    return torch.cat([scores, sinks.to(scores).expand(*scores.shape[:-1], 1)], dim=-1).softmax(-1)[..., :-1]


def _varlen(query: Tensor, key: Tensor, value: Tensor, segments: Segments, scale: float, window: int | None) -> Tensor:
    """One kernel call: keys of a branch are gathered behind its trunk's, and causality is aligned bottom-right."""
    from torch.nn.attention.varlen import varlen_attn

    index = segments.varlen
    q, k, v = (tensor.squeeze(0).transpose(0, 1) for tensor in (query, key, value))
    attended = varlen_attn(
        q.contiguous(),
        k.index_select(0, index.keys),
        v.index_select(0, index.keys),
        index.cu_queries,
        index.cu_keys,
        index.longest_query,
        index.longest_keys,
        scale=scale,
        window_size=(-1 if window is None else window - 1, 0),  # how far to the left, not counting itself; and right
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(attended, Tensor)
    return attended[None]
