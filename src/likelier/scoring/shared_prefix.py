"""The shared-prefix scorer: every prompt once, no padding, distinct answer tokens once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from likelier.models.layers import backbone_of, causal_model
from likelier.objectives.scored import SequenceScores
from likelier.scoring.batch import Batch
from likelier.scoring.layout import Layout, shared_prefix_layout
from likelier.scoring.logprobs import (
    HeadTransform,
    default_chunk,
    is_plain_linear,
    linear_token_logprobs,
    token_logprobs,
)

NO_MASK = (1, 1, 1, 1)  # transformers leaves a mask of four dimensions as it is; ours is never looked at


def score_shared_prefix(model: nn.Module, batch: Batch, chunk: int | None = None) -> SequenceScores:
    """Score every answer of the batch in one row (see `scoring.layout`); equal to `score_plain` but for rounding.

    The model must have been given our attention (`scoring.attention.install_attention`). `chunk` is the number of
    answer tokens projected to the vocabulary at a time (default: by vocabulary size).
    """
    layout = shared_prefix_layout(batch)
    predictions = layout_logprobs(model, layout, chunk, batch.temperature)
    return SequenceScores.of(predictions.index_select(0, layout.token_of), batch.lengths)


def layout_logprobs(model: nn.Module, layout: Layout, chunk: int | None = None, temperature: float = 1.0) -> Tensor:
    """(scored,) log-probabilities of the layout's targets: the passes through the model and its head."""
    causal = causal_model(model)
    hidden = backbone_of(causal)(
        input_ids=layout.tokens,
        attention_mask=torch.ones(NO_MASK, device=layout.tokens.device, dtype=torch.bool),
        position_ids=layout.positions,
        use_cache=False,
        shared_prefix=layout.segments,
    ).last_hidden_state
    head, transform = causal.get_output_embeddings(), HeadTransform.of(causal.config.get_text_config(), temperature)
    chunk = chunk or default_chunk(causal.config.get_text_config().vocab_size)
    project = linear_token_logprobs if is_plain_linear(head) else token_logprobs
    return project(hidden[0].index_select(0, layout.sources), layout.targets, head, transform, chunk)
