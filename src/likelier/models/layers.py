"""The parts of a causal language model: what lies beneath wrappers and adapters, its backbone, its decoder layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from likelier.utils.errors import ConfigError, whole_reason


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode (dropout off) without gradients; the mode before is restored. Weights that were gathered from
    other ranks for it are let go (FSDP2 keeps those of the root until a backward pass).
    """
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
        let_go = getattr(model, "reshard", None)
        if let_go is not None:
            let_go()


def causal_model(model: nn.Module) -> Any:
    """The causal language model beneath wrappers and adapters."""
    while hasattr(model, "module"):
        model = model.module  # type: ignore[assignment]
    return model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]


def config_text(config: Any) -> str:
    """A configuration as text, without the names under which it was loaded."""
    return repr(sorted((name, value) for name, value in config.to_dict().items() if not name.startswith("_")))


def backbone_of(causal: Any) -> Any:
    """The model beneath the head: tokens in, hidden states out. None where there is no such part.

    Of a model of several parts (vision and language) it is the one that reads text.
    """
    if causal.config.get_text_config() is not causal.config:
        language = causal.get_decoder()
        if language is not causal:
            return language if language.get_output_embeddings() is None else backbone_of(language)
    found = getattr(causal, "base_model", causal)
    return getattr(causal, "model", None) if found is causal else found


def value_head(model: nn.Module) -> nn.Module | None:
    """The head of a sequence classifier, which gives numbers and no words; None for a language model."""
    head = getattr(causal_model(model), "score", None)
    return head if isinstance(head, nn.Module) else None


def met_weights(model: nn.Module) -> int:
    """How many weights every token meets: all but the embeddings and the head for words."""
    causal = causal_model(model)
    tables = (causal.get_input_embeddings(), causal.get_output_embeddings())
    apart = {id(weight) for table in tables if table is not None for weight in table.parameters()}
    return sum(weight.numel() for weight in model.parameters() if id(weight) not in apart)


def checkpoint_activations(model: nn.Module) -> None:
    """Keep each decoder layer's input only, and compute the layer again in backward."""
    causal = causal_model(model)
    enable = getattr(causal, "activation_checkpointing_enable", None) or causal.gradient_checkpointing_enable
    try:
        enable({"use_reentrant": False})
    except ValueError as error:
        raise ConfigError(f"activation_checkpointing: {whole_reason(error)}") from error


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The model's decoder layers (those of its language part), as transformers marks them."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = backbone_of(causal_model(model)).modules()
    return [module for module in layers if isinstance(module, GradientCheckpointingLayer)]


def compile_layers(model: nn.Module) -> None:
    """Compile every decoder layer for rows of any length; what lies between them stays as it is."""
    for layer in decoder_layers(model):
        layer.compile(dynamic=True)
