"""The plain scorer: one padded row an answer, log-probabilities at answer tokens only.

It is the oracle that the shared-prefix scorer is held against, and what models fall back to that cannot share prefixes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from likelier.models.layers import backbone_of, causal_model
from likelier.scoring.batch import Batch
from likelier.scoring.logprobs import HeadTransform, default_chunk, token_logprobs


@dataclass(frozen=True)
class SequenceScores:
    """The seam: sums and counts per answer; nothing is divided here.

    `logps` (answers,) log-probabilities in nats summed over answer tokens (EOS included, prompt excluded, and what an
    answer's mask leaves out), `lengths` (answers,) the number of tokens summed, `token_logps` (tokens,) beneath them
    with `answer_of` (tokens,) saying whose each is.
    """

    logps: Tensor
    lengths: Tensor
    token_logps: Tensor
    answer_of: Tensor

    @staticmethod
    def of(token_logps: Tensor, batch: Batch) -> SequenceScores:
        """Sum the log-probabilities of all scored answer tokens, answers one after the other."""
        lengths = batch.lengths
        answer_of = torch.arange(len(lengths)).repeat_interleave(lengths).to(batch.device)
        logps = token_logps.new_zeros(len(lengths)).index_add(0, answer_of, token_logps)
        return SequenceScores(logps, lengths.to(batch.device), token_logps, answer_of)


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
    token_logps = token_logprobs(
        hidden[predicts.to(batch.device)], targets, head, HeadTransform.of(causal.config.get_text_config()), chunk
    )
    return SequenceScores.of(token_logps, batch)
