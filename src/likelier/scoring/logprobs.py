"""Log-probabilities of given tokens, in chunks: the (tokens x vocabulary) matrix is never whole in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

_CHUNK_ELEMENTS = 2**25  # logits of one chunk: 128 MiB in fp32


@dataclass(frozen=True)
class HeadTransform:
    """What a model does to its logits after the projection: `softcap * tanh(scale * logits / softcap)`."""

    scale: float = 1.0
    softcap: float | None = None

    @staticmethod
    def of(config: Any) -> HeadTransform:
        """Read from a transformers config: Cohere's `logit_scale`, Granite's `logits_scaling`, Gemma's soft-capping."""
        scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1)
        return HeadTransform(scale, getattr(config, "final_logit_softcapping", None))

    def __call__(self, logits: Tensor) -> Tensor:
        if self.scale != 1.0:
            logits = logits * self.scale
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)


def default_chunk(vocabulary: int) -> int:
    """Tokens per chunk so that a chunk's fp32 logits take about 128 MiB."""
    return max(16, _CHUNK_ELEMENTS // vocabulary)


def token_logprobs(
    hidden: Tensor, targets: Tensor, head: Callable[[Tensor], Tensor], transform: HeadTransform, chunk: int
) -> Tensor:
    """Log-probability of each target token.

    Args:
        hidden: (tokens, width) hidden states at the positions that predict the targets.
        targets: (tokens,) token ids.
        head: the projection to the vocabulary, a module (bias, LoRA and all).
        transform: what the model does to its logits.
        chunk: tokens projected at a time; each chunk is projected again in backward.

    Returns:
        (tokens,) in nats; softmax in fp32, or fp64 where the model is in fp64.
    """
    parts = []
    for start in range(0, len(targets), chunk):
        piece, wanted = hidden[start : start + chunk], targets[start : start + chunk]
        if torch.is_grad_enabled():
            parts.append(checkpoint(_chunk_logprobs, piece, wanted, head, transform, use_reentrant=False))
        else:
            parts.append(_chunk_logprobs(piece, wanted, head, transform))
    return torch.cat(parts)


def _chunk_logprobs(
    hidden: Tensor, targets: Tensor, head: Callable[[Tensor], Tensor], transform: HeadTransform
) -> Tensor:
    logits = head(hidden)
    logits = transform(logits if logits.dtype == torch.float64 else logits.float())
    return logits.gather(1, targets[:, None]).squeeze(1) - logits.logsumexp(1)
