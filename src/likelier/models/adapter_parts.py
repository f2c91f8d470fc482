"""What of a model belongs to an adapter and what to its base: asked of peft's layers, not of the weights' names.

An adapter can stand beside the base's layers (LoRA of every kind), in place of whole modules (`modules_to_save`), of
rows of the embedding (`trainable_token_indices`), and it can write over weights of the base itself: biases, embeddings
that were resized, and what some initialisations (PiSSA, OLoRA) leave of the base. The last is undone here as well
wherever the base alone is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from torch import Tensor, nn

from likelier.models.layers import causal_model

ADAPTER = "default"  # the adapter that is trained, as peft calls it

# Fields of peft's configuration that a stored score need not know: the weights' names and values tell them, or they
# matter to training alone.
_TOLD_BY_WEIGHTS = (
    *("target_modules", "exclude_modules", "target_parameters", "layers_to_transform", "layers_pattern", "lora_bias"),
    *("modules_to_save", "ensure_weight_tying", "use_dora", "bias", "fan_in_fan_out", "init_lora_weights"),
    *("loftq_config", "eva_config", "corda_config", "lora_ga_config"),
)
_OF_NO_EFFECT = (
    *("peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "lora_dropout"),
    *("inference_mode", "megatron_config", "megatron_core", "runtime_config"),
)
_ALWAYS_TOLD = ("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern")

Kind = Literal["base", "replaced", "adapter"]


@dataclass(frozen=True)
class Part:
    """A weight, or a buffer that is saved, of a causal model.

    `name` is its name there. `plain` is what it would be called if the base stood alone; of an adapter's own weight it
    is `name`, of a module trained in place of the base's the name of what it stands for. `kind`: `replaced` is what
    such a module stands for.
    """

    name: str
    plain: str
    kind: Kind
    tensor: Tensor


@dataclass
class OwnBase:
    """What the base holds in places where the adapter's folder wrote something else: weights by their plain names, and
    its configuration where the vocabulary was resized.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    config: Any = None


def has_adapter(model: Any) -> bool:
    """Whether a model is an adapter on a base."""
    return hasattr(model, "peft_config")


def base_named(model: Any) -> str:
    """The base that an adapter names."""
    return str(model.peft_config[ADAPTER].base_model_name_or_path)


def parts_of(model: nn.Module) -> Iterator[Part]:
    """All weights of the causal model, tied ones under each of their names."""
    for module, name, plain, kind in _walk(causal_model(model), "", "", "base"):
        held = dict(module._parameters)
        held |= {key: value for key, value in module._buffers.items() if key not in module._non_persistent_buffers_set}
        for key, tensor in held.items():
            if tensor is not None:
                yield Part(_join(name, key), _join(plain, key), kind, tensor)


def once(parts: Iterator[Part]) -> Iterator[Part]:
    """Each tensor under the first of its names."""
    seen: set[int] = set()
    for part in parts:
        if id(part.tensor) not in seen:
            seen.add(id(part.tensor))
            yield part


def _walk(module: nn.Module, name: str, plain: str, kind: Kind) -> Iterator[tuple[nn.Module, str, str, Kind]]:
    yield module, name, plain, kind
    for key, child in module.named_children():
        for inner, child_name, child_plain, child_kind in _below(module, key, child, _join(name, key), plain, kind):
            yield from _walk(inner, child_name, child_plain, child_kind)


def _below(
    module: nn.Module, key: str, child: nn.Module, name: str, plain: str, kind: Kind
) -> Iterator[tuple[nn.Module, str, str, Kind]]:
    """A child, or what stands in it for the adapter that is trained: (module, name, plain name, kind)."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper

    if isinstance(module, ModulesToSaveWrapper):
        if child is module.original_module:
            yield child, name, plain, "replaced"
        elif ADAPTER in child:  # type: ignore[operator]
            yield child[ADAPTER], _join(name, ADAPTER), plain, "adapter"  # type: ignore[index]
    elif isinstance(module, BaseTunerLayer) and child is not module.base_layer:
        yield child, name, name, "adapter"
    elif isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
        yield child, name, plain, kind
    else:
        yield child, name, _join(plain, key), kind


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def adapters_own_modules(model: nn.Module) -> set[nn.Module]:
    """The modules that peft's layers add beside the base's (dropout among them), without whole modules that are
    trained in place of the base's.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    found: set[nn.Module] = set()
    for layer in model.modules():
        if isinstance(layer, BaseTunerLayer):
            beside = (child for child in layer.children() if child is not layer.base_layer)
            found.update(inner for child in beside for inner in child.modules())
    return found


def names_to_save(model: nn.Module) -> set[str]:
    """The names, in the state dict of an adapter's model, of what is not the untouched base: what has to be kept."""
    causal = causal_model(model)
    prefix = next(name for name, module in model.named_modules() if module is causal)
    written = own_base(model).tensors
    kept = (part for part in parts_of(model) if part.kind == "adapter" or part.plain in written)
    trained = {name for name, weight in model.named_parameters(remove_duplicate=False) if weight.requires_grad}
    return {_join(prefix, part.name) for part in kept} | trained


def how_to_save(model: Any) -> dict[str, Any]:
    """What peft's `save_pretrained` must be told so that the folder holds all that the adapter is."""
    causal, written = causal_model(model), own_base(model).tensors
    layers = (causal.get_input_embeddings(), causal.get_output_embeddings())
    rows = {id(weight) for layer in layers if layer is not None for weight in layer.parameters()}
    is_written = any(part.plain in written and id(part.tensor) in rows for part in parts_of(model))
    return {"selected_adapters": [ADAPTER], "save_embedding_layers": True if is_written else "auto"}


# --- the configuration ------------------------------------------------------------------------------------------------


def shaping_settings(model: Any) -> list[Any]:
    """What of an adapter's configuration shapes the computation besides its weights. Fields at their defaults are left
    out (but for the first five), so that a later version of peft with more of them gives the same.
    """
    config = model.peft_config[ADAPTER]
    more = _not_by_default(config, {*_ALWAYS_TOLD, *_TOLD_BY_WEIGHTS, *_OF_NO_EFFECT})
    return [*(getattr(config, name, None) for name in _ALWAYS_TOLD), *([more] if more else [])]


def settings_of(model: Any) -> dict[str, Any]:
    """What a run tells of an adapter: rank, alpha, dropout, targets, and whatever is not as peft has it by default."""
    config = model.peft_config[ADAPTER]
    targets = config.target_modules
    told = {
        "r": config.r,
        "alpha": config.lora_alpha,
        "dropout": config.lora_dropout,
        "targets": targets if isinstance(targets, str) else sorted(targets or ()),
    }
    return told | _not_by_default(config, {"r", "lora_alpha", "target_modules", "init_lora_weights", *_OF_NO_EFFECT})


def _not_by_default(config: Any, but: set[str]) -> dict[str, Any]:
    plain = type(config)()
    found = ((one.name, getattr(config, one.name)) for one in fields(config) if one.name not in but)
    kept = {name: value for name, value in found if value != getattr(plain, name)}
    return {name: sorted(value) if isinstance(value, set) else value for name, value in kept.items()}


# --- the base ---------------------------------------------------------------------------------------------------------


def own_base(model: Any) -> OwnBase:
    """What the base holds where the adapter writes over it. Of a model that was not loaded by likelier: what its
    trained biases are now, when it is first asked for.
    """
    if not hasattr(model, "_likelier_base"):
        parts = once(part for part in parts_of(model) if part.kind == "base" and part.tensor.requires_grad)
        trained = {part.plain: part.tensor.detach().clone() for part in parts} if has_adapter(model) else {}
        model._likelier_base = OwnBase(trained)
    return model._likelier_base
