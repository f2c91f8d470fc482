"""What a value head says of answers: a number a token.

A reward model's number stands at the token itself: its score of an answer is what its head says at the last one. The
other scorers never feed that token, because it predicts nothing; here it is the one that counts, so each answer gets
one more token, which is not fed. A critic's number stands where the token is predicted: it is the value of the state
that the token was drawn in.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from likelier.models.layers import backbone_of, causal_model, value_head
from likelier.objectives.scored import SequenceScores
from likelier.scoring.batch import Batch
from likelier.scoring.layout import Layout, shared_prefix_layout
from likelier.scoring.shared_prefix import NO_MASK


def score_values_shared(model: nn.Module, batch: Batch, chunk: int | None = None) -> SequenceScores:
    """The values of every answer token, each prompt read once; equal to `score_values_plain` but for rounding. In the
    place of an answer's log-probability stands the value of its last token.
    """
    longer = [torch.cat([answer, answer.new_zeros(1)]) for answer in batch.answers]
    layout = shared_prefix_layout(replace(batch, answers=longer, masks=None))
    predicts = layout.sources.index_select(0, layout.token_of).split([len(answer) for answer in longer])
    places = torch.cat([own[1:] for own in predicts])  # where a token is predicted, the one before it stands
    return _scores(_values(model, _hidden_of_layout(model, layout).index_select(0, places)), batch)


def score_values_plain(model: nn.Module, batch: Batch, chunk: int | None = None) -> SequenceScores:
    """The same with one padded row an answer."""
    hidden, sizes, lengths = _hidden_of_rows(model, batch)
    positions = torch.arange(hidden.shape[1])
    of_answers = (positions < sizes[:, None]) & (positions >= (sizes - lengths)[:, None])
    return _scores(_values(model, hidden[of_answers.to(batch.device)]), batch)


def state_values_shared(model: nn.Module, batch: Batch) -> SequenceScores:
    """The values of the states that every answer token was drawn in, each prompt read once; equal to
    `state_values_plain` but for rounding.
    """
    return _scores(layout_values(model, shared_prefix_layout(replace(batch, masks=None))), batch)


def layout_values(model: nn.Module, layout: Layout) -> Tensor:
    """(answer tokens,) the values of the states that they were drawn in, one answer after the other."""
    places = layout.sources.index_select(0, layout.token_of)
    return _values(model, _hidden_of_layout(model, layout).index_select(0, places))


def state_values_plain(model: nn.Module, batch: Batch) -> SequenceScores:
    """The same with one padded row an answer."""
    hidden, sizes, lengths = _hidden_of_rows(model, batch)
    positions = torch.arange(hidden.shape[1])
    before = (positions < sizes[:, None] - 1) & (positions >= (sizes - lengths)[:, None] - 1)
    return _scores(_values(model, hidden[before.to(batch.device)]), batch)


def _hidden_of_layout(model: nn.Module, layout: Layout) -> Tensor:
    """(tokens, width)."""
    return backbone_of(causal_model(model))(
        input_ids=layout.tokens,
        attention_mask=torch.ones(NO_MASK, device=layout.tokens.device, dtype=torch.bool),
        position_ids=layout.positions,
        use_cache=False,
        shared_prefix=layout.segments,
    ).last_hidden_state[0]


def _hidden_of_rows(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """(answers, longest, width) of prompt + answer, right-padded, and on the CPU the tokens of each row, and of its
    answer.
    """
    pairs = zip(batch.prompt_of, batch.answers, strict=True)
    rows = [torch.cat([batch.prompts[prompt], answer]) for prompt, answer in pairs]
    sizes, tokens = torch.tensor([len(row) for row in rows]), pad_sequence(rows, batch_first=True)
    positions = torch.arange(tokens.shape[1]).expand_as(tokens)
    mask = positions < sizes[:, None]
    hidden = backbone_of(causal_model(model))(
        input_ids=tokens.to(batch.device),
        attention_mask=None if bool(mask.all()) else mask.long().to(batch.device),
        position_ids=positions.to(batch.device),
        use_cache=False,
    ).last_hidden_state
    return hidden, sizes, torch.tensor([len(answer) for answer in batch.answers])


def _values(model: nn.Module, hidden: Tensor) -> Tensor:
    """(tokens,) what the head says of hidden states, in float32 at least."""
    head = value_head(model)
    assert head is not None
    values = head(hidden)[:, 0]
    return values if values.dtype == torch.float64 else values.float()


def _scores(values: Tensor, batch: Batch) -> SequenceScores:
    """From the values of all answer tokens, one answer after the other."""
    lengths = torch.tensor([len(answer) for answer in batch.answers], device=values.device)
    answer_of = torch.arange(len(lengths), device=values.device).repeat_interleave(lengths)
    return SequenceScores(values[lengths.cumsum(0) - 1], lengths, values, answer_of)
