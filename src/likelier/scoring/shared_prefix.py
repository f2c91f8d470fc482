"""The shared-prefix scorer: every prompt once, no padding, distinct answer tokens once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from likelier.models.layers import backbone_of, causal_model
from likelier.objectives.scored import SequenceScores
from likelier.scoring.batch import Batch
from likelier.scoring.layout import Layout, shared_prefix_layout
from likelier.scoring.logprobs import (
    HeadTransform,
    collision_entropies,
    default_chunk,
    is_plain_linear,
    linear_token_logprobs,
    token_logprobs,
    token_logprobs_and_entropies,
)

NO_MASK = (1, 1, 1, 1)  # transformers leaves a mask of four dimensions as it is; ours is never looked at


def score_shared_prefix(model: nn.Module, batch: Batch, chunk: int | None = None) -> SequenceScores:
    """Score every answer of the batch in one row (see `scoring.layout`); equal to `score_plain` but for rounding.

    The model must have been given our attention (`scoring.attention.install_attention`). `chunk` is the number of
    answer tokens projected to the vocabulary at a time (default: by vocabulary size).
    """
    layout = shared_prefix_layout(batch)
    if batch.entropies:
        found = token_logprobs_and_entropies(*_of_head(model, layout, chunk, batch.temperature))
        logps, entropies = (values.index_select(0, layout.token_of) for values in found)
        return SequenceScores.of(logps, batch.lengths, entropies)
    of_head = _of_head(model, layout, chunk, batch.temperature)
    collisions = None
    if batch.collisions:
        hidden, _, head, transform, size = of_head
        collisions = collision_entropies(hidden, head, transform, size).index_select(0, layout.token_of)
    logps = _logprobs(*of_head).index_select(0, layout.token_of)
    return SequenceScores.of(logps, batch.lengths, token_collisions=collisions)


def layout_logprobs(model: nn.Module, layout: Layout, chunk: int | None = None, temperature: float = 1.0) -> Tensor:
    """(scored,) log-probabilities of the layout's targets: the passes through the model and its head."""
    return _logprobs(*_of_head(model, layout, chunk, temperature))


def _logprobs(hidden: Tensor, targets: Tensor, head: Any, transform: HeadTransform, chunk: int) -> Tensor:
    project = linear_token_logprobs if is_plain_linear(head) else token_logprobs
    return project(hidden, targets, head, transform, chunk)


def _of_head(
    model: nn.Module, layout: Layout, chunk: int | None, temperature: float
) -> tuple[Tensor, Tensor, Any, HeadTransform, int]:
    """What the head reads, (scored, width), and what it is held to."""
    causal = causal_model(model)
    hidden = backbone_of(causal)(
        input_ids=layout.tokens,
        attention_mask=torch.ones(NO_MASK, device=layout.tokens.device, dtype=torch.bool),
        position_ids=layout.positions,
        use_cache=False,
        shared_prefix=layout.segments,
    ).last_hidden_state
    config = causal.config.get_text_config()
    transform = HeadTransform.of(config, temperature)
    rows = hidden[0].index_select(0, layout.sources)
    return rows, layout.targets, causal.get_output_embeddings(), transform, chunk or default_chunk(config.vocab_size)
