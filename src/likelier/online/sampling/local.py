"""The policy's own weights, in this process: each prompt is read once, finished answers leave the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from likelier.models.layers import backbone_of, causal_model, frozen
from likelier.models.policy import Policy
from likelier.online.sampling.keys import AnswerKeys
from likelier.online.sampling.protocol import Report, Sampled, Sampling
from likelier.online.sampling.writing import Writer, begun, require_known_tokens
from likelier.scoring.attach import scorer_of
from likelier.scoring.logprobs import HeadTransform
from likelier.utils.errors import ModelError

_ROWS_ON_CUDA = 512  # answers written at once, at most
_ROWS_ON_A_CPU = 64
_KEYS_ON_A_CPU = 4 * 2**30  # bytes of their keys and values, at most; on CUDA half of what is free
_NO_MASK = (1, 1, 1, 1)


class LocalSampler:
    """Draws from `policy` as it is at that moment, adapter and all; its scorer must have been attached. At most `rows`
    answers are written at once.

    Raises `ModelError` for a model that cannot share a prompt between answers (see `attach_scorer`).
    """

    def __init__(self, policy: Policy, sampling: Sampling, rows: int | None = None) -> None:
        choice = scorer_of(policy.model)
        if choice.name != "shared-prefix":
            raise ModelError(f"the local sampler shares a prompt between its answers, and {choice.reason}")
        self.policy, self.sampling = policy, sampling
        self._device = policy.model.device
        causal = causal_model(policy.model)
        self.rows = rows or _most_rows(causal, self._device, sampling.max_new_tokens)
        self.writer = Writer(policy, sampling)

    def at(self, sampling: Sampling) -> LocalSampler:
        """See `Sampler.at`."""
        return LocalSampler(self.policy, sampling)

    def close(self) -> None:
        """See `Sampler.close`: it holds nothing."""

    def sample(
        self, prompts: Sequence[np.ndarray], answers: int, keys: Sequence[str], report: Report | None = None
    ) -> list[list[Sampled]]:
        """See `Sampler.sample`. The random state of the process is left as it was."""
        if not prompts:
            return []
        require_known_tokens(self.policy, prompts)
        found: list[list[Sampled]] = [[] for _ in prompts]
        with frozen(self.policy.model), torch.compiler.set_stance("force_eager"):  # every length would be compiled anew
            for wave in self._waves([len(prompt) for prompt in prompts], answers):
                writing = _Wave(self, [prompts[number] for number in wave], [keys[number] for number in wave], answers)
                for number, own in zip(wave, writing.written(report), strict=True):
                    found[number] = own
        return found

    def _waves(self, lengths: Sequence[int], answers: int) -> list[list[int]]:
        """Numbers of the prompts that are written to at once: those of like length together."""
        order = sorted(range(len(lengths)), key=lambda number: lengths[number])
        size = max(1, self.rows // answers)
        return [order[start : start + size] for start in range(0, len(order), size)]

    def logits_after(self, tokens: Tensor, positions: Tensor, keys: AnswerKeys, wanted: Tensor | None) -> Tensor:
        """(wanted, vocabulary) logits behind the tokens, (tokens,) each, at the places `wanted` (None: all)."""

        def passed(model: Any, keys: AnswerKeys) -> Tensor:
            return logits_behind(causal_model(model), tokens, positions, keys, wanted)

        return self.policy.model(batch=keys, how=passed)  # by the way that scores take: autocast, adapters and all


def logits_behind(causal: Any, tokens: Tensor, positions: Tensor, keys: AnswerKeys, wanted: Tensor | None) -> Tensor:
    """(wanted, vocabulary) logits of a causal model that was given our attention, as `LocalSampler.logits_after`."""
    hidden = backbone_of(causal)(
        input_ids=tokens[None],
        attention_mask=torch.ones(_NO_MASK, device=keys.device, dtype=torch.bool),
        position_ids=positions[None],
        use_cache=False,
        attends=keys,
    ).last_hidden_state[0]
    transform = HeadTransform.of(causal.config.get_text_config())
    logits = transform(causal.get_output_embeddings()(hidden if wanted is None else hidden[wanted]))
    return logits if logits.dtype == torch.float64 else logits.float()


def _most_rows(causal: Any, device: torch.device, tokens: int) -> int:
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
    return most_rows(causal.config.get_text_config(), causal.dtype, tokens, free)


def most_rows(config: Any, dtype: torch.dtype, tokens: int, free: int | None) -> int:
    """How many answers of so many tokens are written at once; `free` are CUDA's free bytes, None on a CPU."""
    most, room = (_ROWS_ON_A_CPU, _KEYS_ON_A_CPU) if free is None else (_ROWS_ON_CUDA, free // 2)
    return max(1, min(most, room // (tokens * key_bytes(config, dtype))))


def key_bytes(config: Any, dtype: torch.dtype) -> int:
    """Bytes of the keys and values of one token, over all layers."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * heads * width * dtype.itemsize


class _Wave:
    """Some prompts whose answers are written at once, all in step."""

    def __init__(self, sampler: LocalSampler, prompts: Sequence[np.ndarray], keys: Sequence[str], answers: int) -> None:
        self._sampler, self._device, self._each = sampler, sampler.policy.model.device, answers
        self._prompts = [torch.from_numpy(np.asarray(prompt, dtype=np.int64)) for prompt in prompts]
        self._answers = [answer for key in keys for answer in begun(sampler.sampling, key, answers)]

    def written(self, report: Report | None) -> list[list[Sampled]]:
        """The answers to each prompt, in order."""
        rows = self._answers  # those that are being written
        keys = AnswerKeys(self._prompts, self._each, self._device)
        logits = self._read(keys)[keys.prompt_of]
        while True:
            tokens = self._sampler.writer.write(rows, logits)
            stays = [answer.ended is None for answer in rows]
            if report is not None:
                report(len(rows) - sum(stays), len(rows))
            if not any(stays):
                found = [answer.sampled() for answer in self._answers]
                return [found[start : start + self._each] for start in range(0, len(found), self._each)]
            if not all(stays):
                order = keys.leave(torch.tensor(stays, device=self._device))
                rows, tokens = [rows[place] for place in order.tolist()], tokens[order]
            logits = self._sampler.logits_after(tokens, keys.step(), keys, None)

    def _read(self, keys: AnswerKeys) -> Tensor:
        """Read the prompts; (prompts, vocabulary) the logits behind them."""
        sizes = torch.tensor([len(prompt) for prompt in self._prompts], device=self._device)
        tokens = torch.cat(self._prompts).to(self._device)
        positions = torch.cat([torch.arange(len(prompt)) for prompt in self._prompts]).to(self._device)
        return self._sampler.logits_after(tokens, positions, keys, sizes.cumsum(0) - 1)
