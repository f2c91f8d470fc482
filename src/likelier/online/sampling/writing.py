"""An answer while it is written, and why it ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from likelier.data.vocabulary import embedding_rows, require_rows_for
from likelier.models.generation import end_tokens
from likelier.models.layers import causal_model
from likelier.models.policy import Policy
from likelier.online.sampling.drawing import draw
from likelier.online.sampling.protocol import Sampled, Sampling, StopReason, uniforms


@dataclass
class Answer:
    """One that is being written: its random numbers, what there is of it, and why it ended."""

    uniforms: np.ndarray
    ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    ended: StopReason | None = None

    def sampled(self) -> Sampled:
        """The answer, which has ended."""
        assert self.ended is not None
        return Sampled(np.array(self.ids, dtype=np.int32), np.array(self.logps), self.ended)


def begun(sampling: Sampling, key: str, answers: int) -> list[Answer]:
    """The answers to a prompt before their first token."""
    return [Answer(uniforms(sampling.seed, key, number, sampling.max_new_tokens)) for number in range(answers)]


def require_known_tokens(policy: Policy, prompts: Sequence[np.ndarray]) -> None:
    """Raises `ModelError` for a prompt that spells a token which the model has no row for."""
    rows, tokens = embedding_rows(causal_model(policy.model)), np.concatenate(prompts).tolist()
    require_rows_for(tokens, rows, "a prompt", policy.tokenizer)


class Writer:
    """Draws tokens of a policy's answers, and ends them."""

    def __init__(self, policy: Policy, sampling: Sampling) -> None:
        self._tokenizer: Any = policy.tokenizer
        self._sampling = sampling
        self.ends = frozenset(end_tokens(causal_model(policy.model), policy.tokenizer))

    def write(self, answers: Sequence[Answer], logits: Tensor) -> Tensor:
        """Draw the next token of each of some answers from their logits (answers, vocabulary); (answers,) the tokens.
        Those that end by it know why.
        """
        numbers = torch.tensor([answer.uniforms[len(answer.ids)] for answer in answers], device=logits.device)
        tokens, logps = draw(logits, numbers, self._sampling)
        for answer, token, logp in zip(answers, tokens.tolist(), logps.tolist(), strict=True):
            answer.ids.append(token)
            answer.logps.append(logp)
            answer.ended = self._why_over(answer.ids)
        return tokens

    def _why_over(self, ids: Sequence[int]) -> StopReason | None:
        if ids[-1] in self.ends:
            return "eos"
        if self._sampling.stop and self._stopped(ids):
            return "stop"
        return "length" if len(ids) == self._sampling.max_new_tokens else None

    def _stopped(self, ids: Sequence[int]) -> bool:
        """Whether a stop string stands in the text that the last token ended. A token is one byte long at least, so it
        lies within as many tokens as the string has bytes, and some more, for a character that began before.
        """
        tail = max(len(stop.encode()) for stop in self._sampling.stop) + 4
        text = self._tokenizer.decode(ids[-tail:])
        return any(stop in text for stop in self._sampling.stop)
