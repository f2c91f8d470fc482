"""The causal model of a policy, with its adapter's weights put into the base's own."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

from likelier.models.layers import causal_model
from likelier.models.policy import Policy
from likelier.utils.console import say
from likelier.utils.errors import ModelError, whole_reason


def merged_model(policy: Policy) -> Any:
    """Merge in the weights' own dtype. An embedding and a head that the base ties together, and that an adapter changes
    differently, come out as two weights.

    Raises `ModelError` for an adapter that peft cannot merge.
    """
    if policy.adapter_settings is None:
        return causal_model(policy.model)
    was_tied = _untie(causal_model(policy.model))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*tie_word_embeddings")  # peft's advice; it is seen to here
            merged: Any = policy.model.merge_and_unload(safe_merge=True)
    except torch.OutOfMemoryError:
        raise
    except (ValueError, RuntimeError) as error:  # weights that are not finite, biases where the base has none
        raise ModelError(f"{policy.name} cannot be merged: {whole_reason(error)}") from error
    if was_tied:
        _tie_if_equal(merged)
    return merged


def _untie(causal: Any) -> bool:
    """Where an adapter has a part in the embedding or the head: give whatever shares the embedding's weight a copy of
    its own. Returns whether anything did.
    """
    embedding, head = causal.get_input_embeddings(), causal.get_output_embeddings()
    if _beneath(embedding) is embedding and _beneath(head) is head:
        return False
    shared = _beneath(embedding).weight
    places = [
        (module, name) for module in causal.modules() for name, weight in module._parameters.items() if weight is shared
    ]
    for module, name in places[1:]:
        module._parameters[name] = nn.Parameter(shared.detach().clone(), requires_grad=False)
    return len(places) > 1


def _beneath(layer: Any) -> Any:
    """The base's layer, beneath what peft wraps around it."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    while isinstance(layer, BaseTunerLayer | AuxiliaryTrainingWrapper):
        layer = layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else layer.original_module
    return layer


def _tie_if_equal(merged: Any) -> None:
    """Tie again what is still equal, and let the configuration say what is so (peft changes it on its own)."""
    embedding, head = merged.get_input_embeddings(), merged.get_output_embeddings()
    is_tied = torch.equal(embedding.weight, head.weight)
    if is_tied:
        head.weight = embedding.weight
    else:
        say("the base ties its embedding and its head together and the adapter does not: the merged model has both")
    for config in (merged.config, merged.config.get_text_config()):
        config.tie_word_embeddings = is_tied
