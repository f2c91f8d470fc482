"""What the reference is: a model, said in words and known by a hash of its weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from likelier.errors import WrongReferenceError
from likelier.scoring import scorer_of
from likelier.scoring.score import causal_model
from likelier.sharding import whole

BASE_WORDS = "the base model, adapter switched off"
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
    named = {_plain_name(name): tensor for name, tensor in _tensors(model) if _counts(name, adapter)}
    for name in sorted(named):
        tensor = whole(named[name].detach()).cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()


def _config_text(model: nn.Module, adapter: bool) -> str:
    config = causal_model(model).config.to_dict()
    kept = {name: value for name, value in config.items() if name not in _VOLATILE and not name.startswith("_")}
    if adapter and hasattr(model, "peft_config"):
        lora: Any = model.peft_config["default"]  # type: ignore[index]
        kept["adapter"] = [lora.r, lora.lora_alpha, lora.use_rslora, lora.rank_pattern, lora.alpha_pattern]
    return json.dumps(kept, sort_keys=True, default=str)


def _tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    causal = causal_model(model)
    yield from causal.named_parameters()
    kept = causal.state_dict().keys()  # buffers that are saved hold weights too (quantized ones, routing biases)
    yield from ((name, buffer) for name, buffer in causal.named_buffers() if name in kept)


def _is_adapter(name: str) -> bool:
    return ".lora_" in name or ".modules_to_save." in name


def _counts(name: str, adapter: bool) -> bool:
    if ".reference." in name:
        return False
    return not (".original_module." in name if adapter else _is_adapter(name))


def _plain_name(name: str) -> str:
    for part in (".base_layer", ".original_module", ".modules_to_save.default"):
        name = name.replace(part, "")
    return name


def adapter_has_effect(model: nn.Module) -> bool:
    """Whether a LoRA adapter already changes the model (a fresh one has B = 0 everywhere)."""
    up = [tensor for name, tensor in _tensors(model) if ".lora_B." in name or ".lora_embedding_B." in name]
    saved = any(".modules_to_save." in name for name, _ in _tensors(model))
    effects = [bool(whole(tensor).any()) for tensor in up]  # all of them: several ranks must ask together
    return saved or any(effects)


def start_reference(model: nn.Module, *, precision: str, live: bool = False, keep_adapter: bool = False) -> Reference:
    """The policy as it stands now. With `live` a frozen copy is kept, to be asked while the policy moves on; with
    `keep_adapter` only if that is a copy of an adapter.
    """
    is_adapter = hasattr(model, "peft_config")
    if is_adapter and not adapter_has_effect(model):
        reference = base_reference(model, precision=precision)
        words = f"{BASE_WORDS} (the new adapter starts without effect)"
        return replace(reference, words=words, equals_policy=True)
    known = identities(model, adapter=is_adapter, precision=precision)
    copied = live or (is_adapter and keep_adapter)
    if is_adapter:
        words = "the base model + a frozen copy of the adapter as it was loaded"
        use = _copied_adapter(model) if copied else _itself(model)
    else:
        words = "the policy itself as it was loaded" + (", a frozen copy" if live else ", scored before the first step")
        use = _itself(_frozen_copy(model)) if live else _itself(model)
    return Reference(words, **known, equals_policy=True, use=use, at_hand=copied)


def base_reference(model: nn.Module, *, precision: str) -> Reference:
    """The base model under an adapter. The policy is claimed to start there only if the adapter has no effect yet."""
    if not hasattr(model, "peft_config"):
        raise WrongReferenceError(
            "the reference 'base' means the adapter switched off, and this model has no adapter; drop it, or name a "
            "model"
        )
    known = identities(model, adapter=False, precision=precision)

    @contextmanager
    def use() -> Iterator[nn.Module]:
        with _same_weights_trained(model), model.disable_adapter():  # type: ignore[operator]
            yield model

    return Reference(BASE_WORDS, **known, equals_policy=not adapter_has_effect(model), use=use, at_hand=True)


@contextmanager
def _same_weights_trained(model: nn.Module) -> Iterator[None]:
    """What was frozen stays frozen: switching an adapter on again lets peft train all of it."""
    trained = {name: weight.requires_grad for name, weight in model.named_parameters()}
    try:
        yield
    finally:
        for name, weight in model.named_parameters():
            weight.requires_grad_(trained[name])


def other_reference(model: nn.Module, name: str, *, precision: str) -> Reference:
    """Another model, named by the user."""
    known = identities(model, adapter=hasattr(model, "peft_config"), precision=precision)
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


def _frozen_copy(model: nn.Module) -> nn.Module:
    copy = deepcopy(model)
    copy.requires_grad_(False)
    return copy.eval()


def _copied_adapter(model: Any) -> Callable[[], Any]:
    """A second adapter named "reference" with the same weights, switched to inside the context."""
    model.add_adapter("reference", model.peft_config["default"])
    weights = dict(model.named_parameters())
    for name, tensor in weights.items():
        if ".reference." in name:
            tensor.data.copy_(weights[name.replace(".reference.", ".default.")].data)
    model.set_adapter("default")

    @contextmanager
    def use() -> Iterator[nn.Module]:
        with _same_weights_trained(model):
            model.set_adapter("reference")
            try:
                yield model
            finally:
                model.set_adapter("default")

    return use
