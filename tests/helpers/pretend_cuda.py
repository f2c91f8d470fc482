"""A CUDA device that is made up, on a torch without one: its tensors say they lie there, compute on the CPU, and refuse
what CUDA refuses.

A whole model runs forward and backward on it with real numbers. Held are: where each operand lies (an operation on
tensors of two devices fails, but for what CUDA itself lets pass), the branches that ask for the device or the dtype,
and what is handed to the kernels that a CPU lacks, which are computed here in plain steps. Not held are the kernels:
their rounding, speed, memory and limits; nor is autocast within a model, which goes by the device beneath.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map, tree_map_only

CUDA, _UNDER = torch.device("cuda", 0), torch.device("meta")  # what is said, and what torch's own code is told
aten = torch.ops.aten
_FROM_NUMBERS = (torch.tensor, torch.as_tensor, torch.asarray)
_COPIES = {"aten::_to_copy", "aten::copy_", "aten::_copy_from"}
_INDEXED = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_unsafe_index", "aten::_index_put_impl_"}


class OnCuda(Tensor):
    """A tensor that says it lies on CUDA; its numbers lie in `numbers`, on the CPU."""

    numbers: Tensor

    @staticmethod
    def __new__(cls, real: Tensor, requires_grad: bool = False) -> OnCuda:
        tensor: Any = Tensor  # torch describes the next one nowhere
        made = tensor._make_wrapper_subclass(
            cls,
            real.shape,
            strides=real.stride(),
            storage_offset=real.storage_offset(),
            dtype=real.dtype,
            device=_UNDER,
            requires_grad=requires_grad,
        )
        made.numbers = real
        return made

    def tolist(self) -> Any:
        return self.detach().cpu().tolist()

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"OnCuda({self.numbers})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


_says: Any = OnCuda  # what torch calls attributes are made properties
_says.device, _says.is_cuda, _says.is_meta = (property(lambda self, said=said: said) for said in (CUDA, True, False))


def _computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = func._schema.name
    leaves = tree_flatten((args, kwargs))[0]
    ours = any(isinstance(leaf, OnCuda) for leaf in leaves)
    asked = kwargs.get("device")
    if ours and name not in _COPIES:
        _require_one_device(name, args, kwargs)
    how = tree_map_only(OnCuda, lambda one: one.numbers, kwargs)
    if asked is not None:
        how["device"] = torch.device("cpu")
    real = tree_map_only(OnCuda, lambda one: one.numbers, args)
    compute = _product if func is aten.mm.dtype else _KERNELS.get(name, func)
    found = compute(*real, **how)
    if name in ("aten::copy_", "aten::_copy_from"):
        return args[0]
    there = ours if asked is None else torch.device(asked).type in ("meta", "cuda")
    if not there:
        return found
    return return_and_correct_aliasing(func, args, kwargs, tree_map(_put, found))


def _put(one: Any) -> Any:
    return OnCuda(one) if isinstance(one, Tensor) and not isinstance(one, OnCuda) else one


def _require_one_device(name: str, args: Any, kwargs: Any) -> None:
    """What CUDA's own kernels ask: all operands there, but for numbers without dimension and indices."""
    everything = tree_flatten((args, kwargs))[0]
    lost = [one for one in everything if isinstance(one, Tensor) and not isinstance(one, OnCuda) and one.is_meta]
    assert not lost, f"{name}: torch made a tensor on the device beneath, past what stands here for CUDA"
    if name in _INDEXED:
        args = (args[0], *args[2:])
    for leaf in tree_flatten((args, kwargs))[0]:
        if isinstance(leaf, Tensor) and not isinstance(leaf, OnCuda) and leaf.dim():
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found two devices, cuda:0 and cpu! ({name})"
            )


def _index(one: Any) -> Any:
    """A list of places as the tensor that it becomes; torch would make it on what stands for the device, empty."""
    return torch.tensor(one) if isinstance(one, list) else one


class _Device(TorchFunctionMode):
    """Calls that name CUDA go to what stands for it; torch would look for a driver before it did anything."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def meant(one: Any) -> Any:
            is_cuda = str(one) in ("cuda", "cuda:0") if isinstance(one, str | torch.device) else False
            return _UNDER if is_cuda else one

        kwargs = dict(kwargs or {})
        if func in _FROM_NUMBERS and meant(kwargs.get("device")) == _UNDER:  # these would leave the numbers behind
            return OnCuda(func(*args, **kwargs | {"device": "cpu"}))
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            where = tuple(map(_index, args[1])) if isinstance(args[1], tuple) else _index(args[1])
            args = (args[0], where, *args[2:])
        if "device" in kwargs:
            kwargs["device"] = meant(kwargs["device"])
        if func in (Tensor.to, Tensor.new_zeros):
            args = tuple(meant(one) if isinstance(one, str | torch.device) else one for one in args)
        return func(*args, **kwargs)


class _Made(TorchDispatchMode):
    """Sees what is made from no tensor of ours: `torch.zeros(3, device="cuda")` and copies to the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


def _attended(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_queries: Tensor,
    cu_keys: Tensor,
    longest_query: int,
    longest_keys: int,
    is_causal: bool,
    scale: float,
    window: list[int],
    *_: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """torch's kernel for segments of any length, as it is documented: causal and windows aligned bottom-right."""
    assert query.dtype in (torch.bfloat16, torch.float16) and query.dtype == key.dtype == value.dtype
    assert query.shape[-1] % 8 == 0 and query.shape[-1] <= 256, "no kernel has heads of this size"
    assert all(one.stride(-1) == 1 for one in (query, key, value)) and key.stride() == value.stride()
    assert cu_queries.dtype == cu_keys.dtype == torch.int32 and len(cu_queries) == len(cu_keys)
    assert (int(cu_queries.diff().max()), int(cu_keys.diff().max())) == (longest_query, longest_keys)
    assert (int(cu_queries[-1]), int(cu_keys[-1])) == (len(query), len(key))
    nothing = query.new_empty(query.shape[1], len(query), dtype=torch.float)
    found = attended_by_segments(query, key, value, cu_queries, cu_keys, scale, window)
    return found.to(query.dtype), nothing, torch.zeros(2, dtype=torch.uint64)


def attended_by_segments(
    query: Tensor, key: Tensor, value: Tensor, cu_queries: Tensor, cu_keys: Tensor, scale: float, window: Sequence[int]
) -> Tensor:
    """What the kernel is documented to do: causal, aligned bottom-right, a `window` of keys to the left and right."""
    found = _segments(query, key, value, cu_queries, cu_keys, scale, window)
    return torch.cat([torch.einsum("hqk,khd->qhd", weights, v) for _, _, weights, _, _, v in found])


def _attended_backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, *more: Any
) -> tuple[Tensor, ...]:
    cu_queries, cu_keys, _, _, _, _, scale, window = more
    found = [torch.zeros_like(one, dtype=torch.float) for one in (query, key, value)]
    for queries, keys, weights, q, k, v in _segments(query, key, value, cu_queries, cu_keys, scale, window):
        own = gradient[queries].float()
        of_weights = torch.einsum("qhd,khd->hqk", own, v)
        of_scores = weights * (of_weights - (of_weights * weights).sum(2, keepdim=True)) * scale
        found[0][queries] = torch.einsum("hqk,khd->qhd", of_scores, k)
        for total, of_heads in zip(found[1:], ((of_scores, q), (weights, own)), strict=True):
            total[keys] += torch.einsum("hqk,qhd->khd", *of_heads).unflatten(1, (key.shape[1], -1)).sum(2)
    return tuple(one.to(query.dtype) for one in found)


def _segments(
    query: Tensor, key: Tensor, value: Tensor, cu_queries: Tensor, cu_keys: Tensor, scale: float, window: Sequence[int]
) -> Iterator[tuple[slice, slice, Tensor, Tensor, Tensor, Tensor]]:
    """Where each segment's queries and keys stand, its weights (heads, queries, keys), all at least in float32."""
    for start, end, first, last in zip(cu_queries, cu_queries[1:], cu_keys, cu_keys[1:], strict=False):
        queries, keys = slice(int(start), int(end)), slice(int(first), int(last))
        dtype = torch.promote_types(query.dtype, torch.float)
        q, k, v = query[queries].to(dtype), key[keys].to(dtype), value[keys].to(dtype)
        k, v = (one.repeat_interleave(q.shape[1] // k.shape[1], 1) for one in (k, v))
        ahead = torch.arange(len(k)) - torch.arange(len(q))[:, None] - (len(k) - len(q))  # of the query's own place
        seen = ((ahead <= window[1]) | (window[1] < 0)) & ((-ahead <= window[0]) | (window[0] < 0))
        scores = torch.einsum("qhd,khd->hqk", q, k) * scale
        yield queries, keys, scores.masked_fill(~seen, float("-inf")).softmax(2), q, k, v


def _product(left: Tensor, right: Tensor, out_dtype: torch.dtype) -> Tensor:
    """Factors in 16 bits, the sum in 32: exactly what a product of their float32 copies is."""
    assert left.dtype == right.dtype and left.itemsize == 2 and out_dtype == torch.float32
    return left.to(out_dtype) @ right.to(out_dtype)


# What a CPU lacks.
_KERNELS: dict[str, Any] = {
    "torch_attn::_varlen_attn": _attended,
    "torch_attn::_varlen_attn_backward": _attended_backward,
    "aten::histc": lambda values, *bins: aten.histc(values.float(), *bins).to(values.dtype),
}


class Gpu:
    """What `torch.cuda` says of the device: one that has `memory` bytes, of them `free`, and `capability`. `called` is
    what it was asked to do.
    """

    def __init__(self, capability: tuple[int, int] = (9, 0), memory: int = 80 * 2**30) -> None:
        self.capability, self.memory, self.free = capability, memory, memory // 2
        self.called: list[str] = []
        self.random_state = torch.arange(16, dtype=torch.uint8)

    def functions(self) -> dict[str, Any]:
        """Those of `torch.cuda` that are called, by name."""
        words = SimpleNamespace(name="a made-up GPU", total_memory=self.memory, major=self.capability[0])
        return {
            "is_available": lambda: True,
            "device_count": lambda: 1,
            "current_device": lambda: 0,
            "get_device_name": lambda device=None: words.name,
            "get_device_properties": lambda device=None: words,
            "get_device_capability": lambda device=None: self.capability,
            "mem_get_info": lambda device=None: (self.free, self.memory),
            "max_memory_allocated": lambda device=None: 3 * 2**30,
            "is_bf16_supported": lambda including_emulation=True: including_emulation or self.capability >= (8, 0),
            "empty_cache": lambda: self.called.append("empty_cache"),
            "get_rng_state": lambda device=None: self.random_state.clone(),
            "set_rng_state": self._set_random_state,
        }

    def _set_random_state(self, state: Tensor, device: torch.device) -> None:
        assert device == CUDA
        self.random_state = state.clone()


@contextmanager
def pretended_cuda(gpu: Gpu | None = None) -> Iterator[torch.device]:
    """Within, the device `cuda` can be named, and tensors made there."""
    with patch.multiple(torch.cuda, **(gpu or Gpu()).functions()), _Device(), _Made():
        yield CUDA


def on_cuda(model: nn.Module) -> nn.Module:
    """The model with its weights and buffers there, changed in place; weights that are one stay one."""
    known: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                if id(weight) not in known:
                    known[id(weight)] = nn.Parameter(OnCuda(weight.detach()), weight.requires_grad)
                module._parameters[name] = known[id(weight)]
        for name, values in module._buffers.items():
            if values is not None:
                module._buffers[name] = OnCuda(values)
    return model
