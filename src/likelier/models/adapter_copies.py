"""An adapter as a reference: switched off, kept as it was, and whether it does anything yet."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from likelier.models.adapter_parts import ADAPTER, OwnBase, own_base, parts_of
from likelier.models.layers import causal_model
from likelier.models.sharding import whole
from likelier.utils.errors import WrongReferenceError


@contextmanager
def without_adapter(model: Any) -> Iterator[nn.Module]:
    """The base alone, inside the context: the adapter switched off, and what it wrote over put back."""
    own = own_base(model)
    places = {part.plain: part.tensor for part in parts_of(model) if part.kind != "adapter"}
    with (
        _same_weights_trained(model),
        _switched_off(model),
        _exchanged([(places[name], tensor) for name, tensor in own.tensors.items()]),
        _tokens_of_the_base(model, own),
    ):
        yield model


@contextmanager
def _switched_off(model: Any) -> Iterator[None]:
    with ExitStack() as stack:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Careful, disabling adapter layers with bias")  # put back as well
            stack.enter_context(model.disable_adapter())
        yield


@contextmanager
def _same_weights_trained(model: nn.Module) -> Iterator[None]:
    """What was frozen stays frozen: switching an adapter on again lets peft train all of it."""
    trained = {name: weight.requires_grad for name, weight in model.named_parameters()}
    try:
        yield
    finally:
        for name, weight in model.named_parameters():
            weight.requires_grad_(trained[name])


@contextmanager
def _exchanged(pairs: Sequence[tuple[Tensor, Tensor]]) -> Iterator[None]:
    """The values of the second tensor of each pair in the place of the first's, inside the context."""
    own = [weight.data for weight, _ in pairs]
    for weight, other in pairs:
        weight.data = other.to(weight.device)
    try:
        yield
    finally:
        for (weight, _), values in zip(pairs, own, strict=True):
            weight.data = values


@contextmanager
def _tokens_of_the_base(model: Any, own: OwnBase) -> Iterator[None]:
    """Raises `WrongReferenceError` for tokens that only the adapter's vocabulary has: the base has no rows for them."""
    if own.config is None:
        yield
        return
    rows = own.config.get_text_config().vocab_size

    def check(_: nn.Module, given: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        ids = given[0] if given else next(iter(named.values()))
        if int(ids.max()) >= rows:
            raise WrongReferenceError(
                f"the base model has no token {int(ids.max())}: its vocabulary has {rows} rows, the others came with "
                "the adapter, and these texts use them. Take the reference 'start' (the adapter as it was loaded), or "
                "name a model with this vocabulary"
            )

    hook = causal_model(model).get_input_embeddings().register_forward_pre_hook(check, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def adapter_has_effect(model: nn.Module) -> bool:
    """Whether an adapter already changes the model, as far as its weights tell beside the base's. (What cannot be told
    so, such as DoRA's magnitudes, counts as an effect.)
    """
    places = {part.plain: part.tensor for part in parts_of(model) if part.kind != "adapter"}
    effects = [not _same(places[name], tensor) for name, tensor in own_base(model).tensors.items()]
    for module in causal_model(model).modules():
        effects.extend(_effects(module))  # all of them: several ranks must ask together
    return any(effects)


def _effects(module: nn.Module) -> Iterator[bool]:
    from peft.tuners.lora import LoraLayer
    from peft.tuners.trainable_tokens import TrainableTokensLayer
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import ModulesToSaveWrapper

    if isinstance(module, ModulesToSaveWrapper) and ADAPTER in module.modules_to_save:
        saved = module.modules_to_save[ADAPTER].state_dict()
        original = module.original_module.state_dict()
        yield from (not _same(tensor, original[name]) for name, tensor in saved.items())
    elif isinstance(module, TrainableTokensLayer) and ADAPTER in module.trainable_tokens_delta:
        rows = whole(module.get_base_layer().weight.detach())[list(module.token_indices[ADAPTER])]  # type: ignore[union-attr]
        yield not _same(module.trainable_tokens_delta[ADAPTER], rows)
    elif isinstance(module, LoraLayer):
        yield from _update(module)
    elif isinstance(module, BaseTunerLayer):
        yield True


def _update(layer: Any) -> Iterator[bool]:
    """A LoRA layer adds the product of two matrices: nothing where one of them is zero."""
    if ADAPTER in layer.lora_A:
        down, up = layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]
        yield all([_any(down.weight), _any(up.weight)])
        if up.bias is not None:
            yield _any(up.bias)
    if ADAPTER in layer.lora_embedding_A:
        yield all([_any(layer.lora_embedding_A[ADAPTER]), _any(layer.lora_embedding_B[ADAPTER])])
    if layer.lora_variant.get(ADAPTER) is not None:
        yield True


def _any(tensor: Tensor) -> bool:
    return bool(whole(tensor.detach()).any())


def _same(one: Tensor, other: Tensor) -> bool:
    left, right = whole(one.detach()), whole(other.detach())
    return left.shape == right.shape and torch.equal(left, right.to(left))


def copy_of_trained(model: nn.Module) -> dict[str, Tensor]:
    """A copy of every weight that is trained, by its name."""
    return {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad}


@contextmanager
def with_trained(model: nn.Module, kept: Mapping[str, Tensor]) -> Iterator[nn.Module]:
    """The model with these values in the place of its own, inside the context."""
    weights = dict(model.named_parameters())
    with _exchanged([(weights[name], tensor) for name, tensor in kept.items()]):
        yield model


def frozen_copy_of_adapter(model: nn.Module) -> Callable[[], AbstractContextManager[nn.Module]]:
    """The adapter as it is now, kept: a context in which the model is base + that, while it is trained on outside.

    Copied is whatever is trained, and put in its place inside the context: peft cannot hold a second adapter beside
    one with trained token rows, biases or a changed base.
    """
    return partial(with_trained, model, copy_of_trained(model))
