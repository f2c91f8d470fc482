"""What the reference is: a model, said in words and known by a hash of its weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from likelier.models.adapter_copies import adapter_has_effect, frozen_copy_of_adapter, without_adapter
from likelier.models.adapter_parts import has_adapter, once, own_base, parts_of, shaping_settings
from likelier.models.layers import causal_model
from likelier.models.sharding import whole
from likelier.scoring import scorer_of
from likelier.utils.errors import WrongReferenceError
from likelier.utils.terminal import counting

BASE_WORDS = "the base model, adapter switched off"
SCORED_FIRST = ", scored before the first step"
_VOLATILE = {"transformers_version", "use_cache", "dtype", "torch_dtype", "architectures", "pad_token_id"}


@dataclass(frozen=True)
class Reference:
    """A reference model, said in words.

    `use` is a context in which the yielded module scores as the reference. `equals_policy` claims that the policy
    starts as this reference; the step-0 check holds it to that. `weights` is a hash of what it is, `identity` of that
    and of how it is computed: what its stored scores are keyed by. `at_hand` says that it takes no memory beside the
    policy's (an adapter switched off, or a small copy), so that it can be asked at any time.
    """

    words: str
    weights: str
    identity: str
    equals_policy: bool
    use: Callable[[], Any]
    at_hand: bool = False


def identities(model: nn.Module, *, adapter: bool, precision: str) -> dict[str, str]:
    """`weights`: a hash of the weights in memory (with the adapter's, or the base's alone) and the config that shapes
    the computation. `identity`: of that, the precision and the scorer's version.
    """
    weights = weights_hash(model, adapter=adapter)
    whole = f"{weights}|{precision}|{scorer_of(model).version}"
    return {"weights": weights, "identity": hashlib.blake2b(whole.encode(), digest_size=16).hexdigest()}


_hashed: WeakKeyDictionary[nn.Module, dict[bool, str]] = WeakKeyDictionary()


@contextmanager
def hashed_once(model: nn.Module) -> Iterator[None]:
    """While nothing changes the model's weights: each hash of them is computed once."""
    _hashed[model] = {}
    try:
        yield
    finally:
        del _hashed[model]


def weights_hash(model: nn.Module, *, adapter: bool) -> str:
    """A hash of the weights in memory, with the adapter's or the base's alone, and of the config that shapes them."""
    known = _hashed.get(model, {})
    if adapter not in known:
        known[adapter] = _weights_hash(model, adapter)
    return known[adapter]


def _weights_hash(model: nn.Module, adapter: bool) -> str:
    digest = hashlib.blake2b(_config_text(model, adapter).encode(), digest_size=16)
    # Names without what peft puts around them, in order: a base has one hash, alone and under any adapter. What an
    # adapter has written over is read from where the base's own value is kept.
    kinds = ("base", "adapter") if adapter else ("base", "replaced")
    named = {part.plain: part.tensor for part in once(part for part in parts_of(model) if part.kind in kinds)}
    if not adapter:
        named |= own_base(model).tensors
    with counting("hashing the weights, in tensors", len(named)) as report:
        for name in sorted(named):
            tensor = whole(named[name].detach()).cpu().contiguous()
            digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
            digest.update(tensor.view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
            report(1)
    return digest.hexdigest()


def _config_text(model: nn.Module, adapter: bool) -> str:
    own = None if adapter else own_base(model).config
    config = (own or causal_model(model).config).to_dict()
    kept = {name: value for name, value in config.items() if name not in _VOLATILE and not name.startswith("_")}
    if adapter and has_adapter(model):
        kept["adapter"] = shaping_settings(model)
    return json.dumps(kept, sort_keys=True, default=str)


def start_reference(model: nn.Module, *, precision: str, live: bool = False, keep_adapter: bool = False) -> Reference:
    """The policy as it stands now. With `live` a frozen copy is kept, to be asked while the policy moves on; with
    `keep_adapter` only if that is a copy of an adapter.
    """
    is_adapter = has_adapter(model)
    if is_adapter and not adapter_has_effect(model):  # its scores are the base's, and found under the base's identity
        reference = base_reference(model, precision=precision)
        words = f"{BASE_WORDS} (the new adapter starts without effect)"
        return replace(reference, words=words, equals_policy=True)
    known = identities(model, adapter=is_adapter, precision=precision)
    copied = live or (is_adapter and keep_adapter)
    if is_adapter:
        words = "the base model + a frozen copy of the adapter as it was loaded"
        use = frozen_copy_of_adapter(model) if copied else _itself(model)
    else:
        words = "the policy itself as it was loaded" + (", a frozen copy" if live else SCORED_FIRST)
        use = _itself(deepcopy(model).requires_grad_(False).eval()) if live else _itself(model)
    return Reference(words, **known, equals_policy=True, use=use, at_hand=copied)


def base_reference(model: nn.Module, *, precision: str) -> Reference:
    """The base model under an adapter. The policy is claimed to start there only if the adapter has no effect yet."""
    if not has_adapter(model):
        raise WrongReferenceError(
            "the reference 'base' means the adapter switched off, and this model has no adapter; drop it, or name a "
            "model"
        )
    known = identities(model, adapter=False, precision=precision)

    use = partial(without_adapter, model)
    return Reference(BASE_WORDS, **known, equals_policy=not adapter_has_effect(model), use=use, at_hand=True)


def other_reference(model: nn.Module, name: str, *, precision: str) -> Reference:
    """Another model, named by the user."""
    known = identities(model, adapter=has_adapter(model), precision=precision)
    return Reference(f"the model {name}", **known, equals_policy=False, use=_itself(model), at_hand=False)


def released(reference: Reference) -> Reference:
    """The same description without the model, once its scores are stored: nothing keeps a second model in memory. One
    that is at hand stays.
    """
    if reference.at_hand:
        return reference

    def gone() -> Any:
        raise RuntimeError("the reference model was released after its scores were stored")

    return replace(reference, use=gone)


def _itself(model: nn.Module) -> Callable[[], Any]:
    return lambda: nullcontext(model)
