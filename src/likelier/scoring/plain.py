"""The plain scorer: one padded row an answer, log-probabilities at answer tokens only.

It is the oracle that the shared-prefix scorer is held against, and what models fall back to that cannot share prefixes.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from likelier.models.layers import backbone_of, causal_model
from likelier.objectives.scored import SequenceScores
from likelier.scoring.batch import Batch
from likelier.scoring.logprobs import (
    HeadTransform,
    collision_entropies,
    default_chunk,
    token_logprobs,
    token_logprobs_and_entropies,
)


def score_plain(model: nn.Module, batch: Batch, chunk: int | None = None) -> SequenceScores:
    """Score every answer of the batch: rows of prompt + answer, right-padded; the last token is never fed.

    `chunk` is the number of answer tokens projected to the vocabulary at a time (default: by vocabulary size).
    """
    causal = causal_model(model)
    rows = [
        torch.cat([batch.prompts[prompt], answer])[:-1]
        for prompt, answer in zip(batch.prompt_of, batch.answers, strict=True)
    ]
    lengths = torch.tensor([len(answer) for answer in batch.answers])
    sizes = torch.tensor([len(row) for row in rows])
    tokens = pad_sequence(rows, batch_first=True)
    positions = torch.arange(tokens.shape[1]).expand_as(tokens)
    mask = positions < sizes[:, None]
    hidden = backbone_of(causal)(
        input_ids=tokens.to(batch.device),
        attention_mask=None if bool(mask.all()) else mask.long().to(batch.device),
        position_ids=positions.to(batch.device),
        use_cache=False,
    ).last_hidden_state
    predicts = mask & (positions >= (sizes - lengths)[:, None])
    for row, scored in enumerate(batch.masks or ()):
        if scored is not None:
            predicts[row, sizes[row] - lengths[row] : sizes[row]] = scored
    targets = torch.cat(batch.targets).to(batch.device)
    head = causal.get_output_embeddings()
    chunk = chunk or default_chunk(causal.config.get_text_config().vocab_size)
    transform = HeadTransform.of(causal.config.get_text_config(), batch.temperature)
    of_head = (hidden[predicts.to(batch.device)], targets, head, transform, chunk)
    if batch.entropies:
        logps, entropies = token_logprobs_and_entropies(*of_head)
        return SequenceScores.of(logps, batch.lengths, entropies)
    collisions = collision_entropies(of_head[0], head, transform, chunk) if batch.collisions else None
    return SequenceScores.of(token_logprobs(*of_head), batch.lengths, token_collisions=collisions)
