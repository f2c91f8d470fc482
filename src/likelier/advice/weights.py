"""A model's weights, counted without loading them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from likelier.advice.known import known
from likelier.advice.trace import Training, build, quantized_layers
from likelier.models.architectures import auto_class
from likelier.models.layers import causal_model, decoder_layers
from likelier.models.loading import DEMO_MODEL, demo_model_folder, locate_config
from likelier.models.options import LoraOptions
from likelier.models.safe_loading import read_config, reading, say_what_a_file_names
from likelier.utils.errors import ConfigError, ModelError
from likelier.utils.files import local, read_object

# NF4 with double quantization (bitsandbytes): half a byte a weight, a byte for each block of 64, and four bytes for
# each 256 of those blocks.
_NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)


@dataclass(frozen=True)
class Known:
    """A model's configuration, the adapter that is trained on it, and whether that adapter was there before."""

    config: Any
    lora: LoraOptions
    adapter_loaded: bool


@dataclass(frozen=True)
class Part:
    """Some of a model's weights: the bytes of those that are frozen, the number of those that are trained."""

    frozen_bytes: int
    trained: int


@dataclass(frozen=True)
class Weights:
    """How many weights there are, how many are trained, and the bytes of each kind.

    `largest` is the largest tensor, `embedding` the bytes of a trained embedding that is the head as well (0 where it
    is not), `dequantized` the largest layer of a 4-bit base as it is multiplied with. `layer` is the largest decoder
    layer, `outside` what is in none.
    """

    count: int
    trained: int
    frozen_bytes: int
    trained_bytes: int
    largest: int
    layer: Part
    outside: Part
    embedding: int = 0
    dequantized: int = 0

    @property
    def bytes(self) -> int:
        """All of them."""
        return self.frozen_bytes + self.trained_bytes


def find_model(name: str | Path, lora: LoraOptions) -> Known:
    """The configuration of a model by name, as `load_policy` takes it; of an adapter, its base's.

    Raises `ModelError` for a model that cannot be found, `ConfigError` for a new adapter on an adapter.
    """
    folder = str(demo_model_folder()) if str(name) == DEMO_MODEL else str(name)
    settings = local(folder) / "adapter_config.json"
    if not settings.is_file():
        return Known(_config(folder), lora, adapter_loaded=False)
    if lora.lora_r is not None:
        raise ConfigError(f"{name} is an adapter and training goes on from it: drop lora_r")
    try:
        found = read_object(settings)
        targets = found.get("target_modules") or "all-linear"
        words = targets if isinstance(targets, str) else ",".join(sorted(targets))
        lora, base = LoraOptions(lora_r=int(found["r"]), lora_targets=words), str(found["base_model_name_or_path"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{settings} cannot be used: {type(error).__name__}: {error}") from error
    say_what_a_file_names(base, str(settings))
    return Known(_config(base), lora, adapter_loaded=True)


def _config(name: str) -> Any:
    where, more = locate_config(name)
    with reading(name, "the configuration of a model"):
        config = read_config(where, name, more)
        auto_class(config, name)
        return config


def count_weights(config: Any, training: Training) -> Weights:
    """Build the model without memory and count."""
    found = known("weights", config, {"training": repr(training)}, lambda: asdict(_counted(config, training)))
    parts: dict[str, Any] = {name: Part(**found[name]) for name in ("layer", "outside")}
    return Weights(**found | parts)


def _counted(config: Any, training: Training) -> Weights:
    with torch.device("meta"):
        model = build(config, training)
    causal = causal_model(model)
    quantized = _frozen_layers(model) if training.lora.load_in_4bit else []
    in_4bit = {id(layer.weight) for layer in quantized}
    weights = list(model.parameters())
    frozen = [weight for weight in weights if not weight.requires_grad]
    tied = causal.get_input_embeddings().weight
    is_head = getattr(causal.get_output_embeddings(), "weight", None) is tied  # a value model has no head for words

    def part(some: Iterable[nn.Parameter]) -> Part:
        held = list(some)
        fixed = [weight for weight in held if not weight.requires_grad]
        sizes = [_NF4 * weight.numel() if id(weight) in in_4bit else weight.nbytes for weight in fixed]
        return Part(round(sum(sizes)), sum(weight.numel() for weight in held if weight.requires_grad))

    layers = [list(layer.parameters()) for layer in decoder_layers(model)]
    inside = {id(weight) for layer in layers for weight in layer}
    return Weights(
        count=sum(weight.numel() for weight in weights),
        trained=sum(weight.numel() for weight in weights if weight.requires_grad),
        frozen_bytes=part(frozen).frozen_bytes,
        trained_bytes=sum(weight.nbytes for weight in weights if weight.requires_grad),
        largest=max(weight.nbytes for weight in weights if id(weight) not in in_4bit),
        layer=max(map(part, layers), key=lambda one: one.frozen_bytes + one.trained, default=Part(0, 0)),
        outside=part(weight for weight in weights if id(weight) not in inside),
        embedding=tied.nbytes if is_head and tied.requires_grad else 0,
        dequantized=max((2 * layer.weight.numel() for layer in quantized), default=0),
    )


def _frozen_layers(model: Any) -> list[nn.Linear]:
    """The base's layers that are held in 4 bits: an adapter's own are not."""
    return [layer for layer in quantized_layers(model) if not layer.weight.requires_grad]  # type: ignore[misc]


def kept_of_a_token(config: Any) -> int:
    """Numbers in a token's keys and values, of all layers together."""
    text = config.get_text_config()
    uneven = getattr(text, "is_heterogeneous", False)  # layers of several sizes (Gemma 4)
    layers = text.per_layer_config if uneven else [text] * text.num_hidden_layers
    return 2 * sum(_keys_of_a_token(layer) for layer in layers)


def _keys_of_a_token(layer: Any) -> int:
    heads = getattr(layer, "num_key_value_heads", None) or layer.num_attention_heads
    return heads * (getattr(layer, "head_dim", None) or layer.hidden_size // layer.num_attention_heads)
