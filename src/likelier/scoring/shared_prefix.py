"""The shared-prefix scorer: every prompt once, no padding, distinct answer tokens once."""

from __future__ import annotations

import torch
from torch import nn

from likelier.scoring.batch import Batch
from likelier.scoring.layout import shared_prefix_layout
from likelier.scoring.logprobs import (
    HeadTransform,
    default_chunk,
    is_plain_linear,
    linear_token_logprobs,
    token_logprobs,
)
from likelier.scoring.score import SequenceScores, backbone_of, causal_model

_NO_MASK = (1, 1, 1, 1)  # transformers leaves a mask of four dimensions as it is; ours is never looked at


def score_shared_prefix(model: nn.Module, batch: Batch, chunk: int | None = None) -> SequenceScores:
    """Score every answer of the batch in one row (see `scoring.layout`); equal to `score_plain` but for rounding.

    The model must have been given our attention (`scoring.attention.install_attention`). `chunk` is the number of
    answer tokens projected to the vocabulary at a time (default: by vocabulary size).
    """
    causal = causal_model(model)
    layout = shared_prefix_layout(batch)
    hidden = backbone_of(causal)(
        input_ids=layout.tokens,
        attention_mask=torch.ones(_NO_MASK, device=batch.device, dtype=torch.bool),
        position_ids=layout.positions,
        use_cache=False,
        shared_prefix=layout.segments,
    ).last_hidden_state
    head, transform = causal.get_output_embeddings(), HeadTransform.of(causal.config)
    chunk = chunk or default_chunk(causal.config.get_text_config().vocab_size)
    project = linear_token_logprobs if is_plain_linear(head) else token_logprobs
    predictions = project(hidden[0].index_select(0, layout.sources), layout.targets, head, transform, chunk)
    return SequenceScores.of(predictions.index_select(0, layout.token_of), batch)
