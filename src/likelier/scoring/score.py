"""The plain scorer: one padded row an answer, log-probabilities at answer tokens only.

It is the oracle that every faster scorer is held against. The work happens inside the model's own `forward`, so that
wrappers (DDP, FSDP, autocast, LoRA) see it: `attach_scorer` teaches a model to answer `model(batch=...)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from likelier.errors import ModelError
from likelier.scoring.batch import Batch
from likelier.scoring.logprobs import HeadTransform, default_chunk, token_logprobs

SCORER_VERSION = "plain-1"  # part of a stored score's identity: raise it when numbers change


@dataclass(frozen=True)
class SequenceScores:
    """The seam: sums and counts per answer; nothing is divided here.

    `logps` (answers,) log-probabilities in nats summed over answer tokens (EOS included, prompt excluded), `lengths`
    (answers,) the number of tokens summed, `token_logps` (tokens,) beneath them with `answer_of` (tokens,) saying whose
    each is.
    """

    logps: Tensor
    lengths: Tensor
    token_logps: Tensor
    answer_of: Tensor


def causal_model(model: nn.Module) -> Any:
    """The causal language model beneath wrappers and adapters."""
    while hasattr(model, "module"):
        model = model.module  # type: ignore[assignment]
    return model.get_base_model() if hasattr(model, "peft_config") else model  # type: ignore[operator]


def score_plain(model: nn.Module, batch: Batch, chunk: int | None = None) -> SequenceScores:
    """Score every answer of the batch: rows of prompt + answer, right-padded; the last token is never fed.

    `chunk` is the number of answer tokens projected to the vocabulary at a time (default: by vocabulary size).
    """
    causal = causal_model(model)
    rows = [
        torch.cat([batch.prompts[prompt], answer])[:-1]
        for prompt, answer in zip(batch.prompt_of, batch.answers, strict=True)
    ]
    device = rows[0].device
    lengths = torch.tensor([len(answer) for answer in batch.answers], device=device)
    sizes = torch.tensor([len(row) for row in rows], device=device)
    tokens = pad_sequence(rows, batch_first=True)
    positions = torch.arange(tokens.shape[1], device=device).expand_as(tokens)
    mask = positions < sizes[:, None]
    hidden = causal.base_model(
        input_ids=tokens,
        attention_mask=None if bool(mask.all()) else mask.long(),
        position_ids=positions,
        use_cache=False,
    ).last_hidden_state
    predicts = mask & (positions >= (sizes - lengths)[:, None])
    targets = torch.cat(batch.answers)
    head = causal.get_output_embeddings()
    chunk = chunk or default_chunk(causal.config.get_text_config().vocab_size)
    token_logps = token_logprobs(hidden[predicts], targets, head, HeadTransform.of(causal.config), chunk)
    answer_of = torch.arange(len(lengths), device=device).repeat_interleave(lengths)
    logps = token_logps.new_zeros(len(lengths)).index_add(0, answer_of, token_logps)
    return SequenceScores(logps, lengths, token_logps, answer_of)


def attach_scorer(model: nn.Module, *, autocast: bool = False) -> None:
    """Let `model(batch=batch)` score a batch; every other call goes to the model's own forward.

    With `autocast` scoring runs in bfloat16 arithmetic, wherever it is called from: policy and reference, training and
    evaluation take the same way. Verifies on a few tokens that the model's head is understood. Raises `ModelError` if
    it is not.
    """
    if getattr(model, "_likelier_forward", None) is not None:
        return
    verify_head(model)
    original = model.forward

    def forward(self: nn.Module, *args: Any, batch: Batch | None = None, **kwargs: Any) -> Any:
        if batch is None:
            return self._likelier_forward(*args, **kwargs)  # type: ignore[operator]
        with torch.autocast(batch.answers[0].device.type, torch.bfloat16, enabled=autocast):
            return score_plain(self, batch)

    model._likelier_forward = original  # type: ignore[assignment]
    model.forward = MethodType(forward, model)


@torch.no_grad()
def verify_head(model: nn.Module) -> None:
    """Hold our head (projection, scale, soft-capping) against the model's own logits on a few tokens."""
    causal = causal_model(model)
    backbone = getattr(causal, "base_model", causal)
    if backbone is causal or causal.get_output_embeddings() is None:
        raise ModelError(
            f"{type(causal).__name__} is not a causal language model with a separate head; it cannot be scored"
        )
    was_training = model.training
    model.eval()
    parameter = next(causal.parameters())
    tokens = torch.arange(2, 8, device=parameter.device)[None] % causal.config.get_text_config().vocab_size
    theirs = causal(input_ids=tokens, use_cache=False).logits.float()
    hidden = backbone(input_ids=tokens, use_cache=False).last_hidden_state
    ours = HeadTransform.of(causal.config)(causal.get_output_embeddings()(hidden).float())
    model.train(was_training)
    if not bool(torch.isfinite(theirs).all()):
        raise ModelError(f"{type(causal).__name__} gives logits that are not finite; its weights are damaged")
    tolerance = 1e-3 if parameter.dtype in (torch.float32, torch.float64) else 0.1
    if not torch.allclose(theirs, ours, rtol=tolerance, atol=tolerance):
        raise ModelError(
            f"{type(causal).__name__} changes its logits in a way that is not known here (largest difference "
            f"{float((theirs - ours).abs().max()):.3g}); its log-probabilities would be wrong"
        )
