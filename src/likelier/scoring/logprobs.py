"""Log-probabilities of given tokens: the (tokens x vocabulary) matrix is never whole in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

_CHUNK_ELEMENTS = 2**25  # logits of one chunk: 128 MiB in fp32


@dataclass(frozen=True)
class HeadTransform:
    """What becomes of logits after the projection: `softcap * tanh(scale * logits / softcap) / temperature`. The
    temperature is the one that answers are drawn at; the rest is the model's own.
    """

    scale: float = 1.0
    softcap: float | None = None
    temperature: float = 1.0

    @staticmethod
    def of(config: Any, temperature: float = 1.0) -> HeadTransform:
        """Read from a transformers config: Cohere's `logit_scale`, Granite's `logits_scaling`, Gemma's soft-capping."""
        scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1)
        return HeadTransform(scale, getattr(config, "final_logit_softcapping", None), temperature)

    def __call__(self, logits: Tensor) -> Tensor:
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits if self.temperature == 1.0 else logits / self.temperature

    def scale_gradient_(self, gradient: Tensor, transformed: Tensor) -> None:
        """Carry a gradient with respect to the transformed logits back to the raw ones, in place."""
        if self.softcap is not None:
            gradient.mul_(1 - (transformed * (self.temperature / self.softcap)).square())
        if self.scale != self.temperature:
            gradient.mul_(self.scale / self.temperature)


def default_chunk(vocabulary: int) -> int:
    """Tokens per chunk so that a chunk's fp32 logits take about 128 MiB."""
    return max(16, _CHUNK_ELEMENTS // vocabulary)


def token_logprobs(
    hidden: Tensor, targets: Tensor, head: Callable[[Tensor], Tensor], transform: HeadTransform, chunk: int
) -> Tensor:
    """Log-probability of each target token, for any head: each chunk is projected again in backward.

    Args:
        hidden: (tokens, width) hidden states at the positions that predict the targets.
        targets: (tokens,) token ids.
        head: the projection to the vocabulary, a module (bias, LoRA and all).
        transform: what the model does to its logits.
        chunk: tokens projected at a time.

    Returns:
        (tokens,) in nats; softmax in fp32, or fp64 where the model is in fp64.
    """
    return _in_chunks(_chunk_logprobs, hidden, targets, head, transform, chunk)


def token_logprobs_and_entropies(
    hidden: Tensor, targets: Tensor, head: Callable[[Tensor], Tensor], transform: HeadTransform, chunk: int
) -> tuple[Tensor, Tensor]:
    """`token_logprobs`, and beside them the entropy (tokens,) of each whole distribution, in nats."""
    found = _in_chunks(_chunk_logprobs_and_entropies, hidden, targets, head, transform, chunk)
    return found[:, 0], found[:, 1]


def collision_entropies(
    hidden: Tensor, head: Callable[[Tensor], Tensor], transform: HeadTransform, chunk: int
) -> Tensor:
    """-log of the summed squares of the distribution that each hidden state (tokens, width) gives, (tokens,) in nats,
    without a gradient: of the chance that two draws from it are the same token.
    """
    with torch.no_grad():
        chunks = (_chunk_logits(piece, head, transform).log_softmax(1) for piece in hidden.split(chunk))
        return torch.cat([-(2 * logps).logsumexp(1) for logps in chunks])


def _in_chunks(
    of_chunk: Callable[..., Tensor],
    hidden: Tensor,
    targets: Tensor,
    head: Callable[[Tensor], Tensor],
    transform: HeadTransform,
    chunk: int,
) -> Tensor:
    parts = []
    for start in range(0, len(targets), chunk):
        piece, wanted = hidden[start : start + chunk], targets[start : start + chunk]
        if torch.is_grad_enabled():
            parts.append(checkpoint(of_chunk, piece, wanted, head, transform, use_reentrant=False))
        else:
            parts.append(of_chunk(piece, wanted, head, transform))
    return torch.cat(parts)


def _chunk_logprobs(
    hidden: Tensor, targets: Tensor, head: Callable[[Tensor], Tensor], transform: HeadTransform
) -> Tensor:
    logits = _chunk_logits(hidden, head, transform)
    return logits.gather(1, targets[:, None]).squeeze(1) - logits.logsumexp(1)


def _chunk_logprobs_and_entropies(
    hidden: Tensor, targets: Tensor, head: Callable[[Tensor], Tensor], transform: HeadTransform
) -> Tensor:
    logps = _chunk_logits(hidden, head, transform).log_softmax(1)
    entropies = -(logps.exp() * logps).sum(1)
    return torch.stack([logps.gather(1, targets[:, None]).squeeze(1), entropies], 1)


def _chunk_logits(hidden: Tensor, head: Callable[[Tensor], Tensor], transform: HeadTransform) -> Tensor:
    logits = head(hidden)
    return transform(logits if logits.dtype == torch.float64 else logits.float())


def is_plain_linear(head: nn.Module) -> bool:
    """Whether a head is one matrix (and bias) and nothing else: no adapter, no quantization, no hooks of a wrapper."""
    hooks = head._forward_hooks or head._forward_pre_hooks or head._backward_hooks or head._backward_pre_hooks
    return type(head) is nn.Linear and type(head.weight) is nn.Parameter and not hooks


def linear_token_logprobs(
    hidden: Tensor, targets: Tensor, head: nn.Linear, transform: HeadTransform, chunk: int
) -> Tensor:
    """`token_logprobs` for a plain linear head, with fewer matrix products in backward.

    The gradient with respect to a hidden state is one direction per token times one number per token. With a frozen
    head the directions are made in forward, where the logits are at hand, and only scaled in backward. With a trained
    head that fits in one chunk the gradient of the logits is kept; else each chunk is projected again, once.
    """
    device = hidden.device.type
    compute = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else head.weight.dtype
    with torch.autocast(device, enabled=False):
        if torch.is_grad_enabled():
            made = _LinearLogprobs.apply(hidden, head.weight, head.bias, targets, transform, chunk, compute)
            assert isinstance(made, Tensor)
            return made
        projection = _Projection.of(head.weight, head.bias, transform, compute)
        rows = zip(hidden.to(compute).split(chunk), targets.split(chunk), strict=True)
        return torch.cat([projection.logprobs(piece, wanted) for piece, wanted in rows])


class _LinearLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        transform: HeadTransform,
        chunk: int,
        compute: torch.dtype,
    ) -> Tensor:
        head = _Projection.of(weight, bias, transform, compute)
        # What is kept for backward, for n tokens:
        #   frozen head             (n, width): each token's direction, gradient @ weight, only to be scaled
        #   trained, one chunk      (n, vocabulary): the logits' gradient, from which both hidden's and weight's follow
        #   trained, more chunks    nothing: that matrix would be whole in memory, so each chunk is projected once more
        trained = any(ctx.needs_input_grad[1:3])
        projects_again = trained and len(targets) > chunk
        logps, kept = [], []
        for rows, wanted in zip(hidden.to(compute).split(chunk), targets.split(chunk), strict=True):
            if projects_again:
                logps.append(head.logprobs(rows, wanted))
                continue
            logp, gradient = head.logprobs_and_gradient(rows, wanted)
            logps.append(logp)
            kept.append(gradient if trained else (gradient @ head.weight).to(hidden.dtype))
        ctx.save_for_backward(hidden, weight, bias, targets, *kept)
        ctx.transform, ctx.chunk, ctx.compute, ctx.trained = transform, chunk, compute, trained
        return torch.cat(logps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        with torch.autocast(outputs[0].device.type, enabled=False):
            hidden, weight, bias, targets, *kept = ctx.saved_tensors
            scale = outputs[0][:, None]  # in fp32: one number an answer, whose rounding would not average out
            if not ctx.trained:
                return (torch.cat(kept) * scale).to(hidden.dtype), *[None] * 6
            return *_trained_gradients(ctx, scale, hidden, weight, bias, targets, kept), *[None] * 4


def _trained_gradients(
    ctx: Any, scale: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, kept: list[Tensor]
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The gradients with respect to hidden states, weight and bias, chunk by chunk."""
    head = _Projection.of(weight, bias, ctx.transform, ctx.compute)
    to_hidden, to_weight = torch.empty_like(hidden), None
    to_bias = torch.zeros_like(bias) if bias is not None and ctx.needs_input_grad[2] else None
    for start in range(0, len(targets), ctx.chunk):
        part = slice(start, start + ctx.chunk)
        rows = hidden[part].to(ctx.compute)
        gradient = kept[0] if kept else head.logprobs_and_gradient(rows, targets[part])[1]
        to_hidden[part] = ((gradient @ head.weight) * scale[part]).to(hidden.dtype)
        if ctx.needs_input_grad[1]:
            to_weight = _add_product(to_weight, weight, gradient, (rows * scale[part]).to(rows.dtype))
        if to_bias is not None:
            to_bias += (gradient * scale[part]).sum(0).to(to_bias.dtype)
    return to_hidden, to_weight, to_bias


@dataclass(frozen=True)
class _Projection:
    """A linear head in the precision of its matrix products."""

    weight: Tensor
    bias: Tensor | None
    transform: HeadTransform

    @staticmethod
    def of(weight: Tensor, bias: Tensor | None, transform: HeadTransform, compute: torch.dtype) -> _Projection:
        return _Projection(weight.to(compute), None if bias is None else bias.to(compute), transform)

    def _logits(self, rows: Tensor) -> Tensor:
        raw = nn.functional.linear(rows, self.weight, self.bias)
        return self.transform(raw if raw.dtype == torch.float64 else raw.float())

    def logprobs(self, rows: Tensor, targets: Tensor) -> Tensor:
        """(rows,) log-probabilities of the targets."""
        logits = self._logits(rows)
        wanted, largest = logits.gather(1, targets[:, None]), logits.amax(1, keepdim=True)
        total = logits.sub_(largest).exp_().sum(1, keepdim=True)  # in place: a second matrix would cost more than this
        return (wanted - largest - total.log()).squeeze(1)

    def logprobs_and_gradient(self, rows: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """(rows,) log-probabilities, and their gradient with respect to the raw logits, (rows, vocabulary).

        The gradient, 1[target] - softmax, is made where the logits were.
        """
        logits = self._logits(rows)
        # From here on one matrix is overwritten step by step: logits, exp, -softmax, 1[target] - softmax. Only the
        # derivative of soft-capping asks for the logits as they were.
        transformed = logits.clone() if self.transform.softcap is not None else logits
        wanted = logits.gather(1, targets[:, None])
        largest = logits.amax(1, keepdim=True)
        gradient = logits.sub_(largest).exp_()
        total = gradient.sum(1, keepdim=True)
        logps = wanted - largest - total.log()
        gradient.div_(-total).scatter_add_(1, targets[:, None], torch.ones_like(wanted))
        self.transform.scale_gradient_(gradient, transformed)
        return logps.squeeze(1), gradient.to(rows.dtype)


def _add_product(total: Tensor | None, weight: Tensor, gradient: Tensor, rows: Tensor) -> Tensor:
    """total + gradient^T @ rows, in place, summed in the precision of `weight`."""
    if weight.is_cuda and weight.dtype != rows.dtype:  # factors in 16 bits, the sum in 32: no copies of them in 32
        product = torch.mm(gradient.t(), rows, out_dtype=weight.dtype)
        return product if total is None else total.add_(product)
    left, right = gradient.t().to(weight.dtype), rows.to(weight.dtype)
    return left @ right if total is None else total.addmm_(left, right)
