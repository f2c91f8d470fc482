"""What a model writes: token by token, the likeliest one or drawn at a temperature, and nothing else.

A model's own generation config names the tokens that end an answer, and nothing more is taken from it: penalties, top-k
and the like would show another distribution than the one that was trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import nan
from typing import Any

import torch

from likelier.data.ends import Ends, named_ends
from likelier.data.plain_text import plain_ids
from likelier.data.records import Message
from likelier.data.rendering import render
from likelier.data.turns import begins_answer
from likelier.data.vocabulary import embedding_rows, require_rows_for
from likelier.models.layers import causal_model, frozen
from likelier.models.policy import Policy
from likelier.utils.errors import ConfigError

WRITE_LARGER = 4  # token budgets written at once: no activations are kept, and more answers share the wait for weights

MOST_TOKENS = 2**20  # of one answer
TEMPERATURES = (1e-3, 1e3)


@dataclass(frozen=True)
class Decoding:
    """How answers are written: greedily at `temperature` 0, else drawn with `seed`. Raises `ConfigError`."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    seed: int = 42

    def __post_init__(self) -> None:
        if not 1 <= self.max_new_tokens <= MOST_TOKENS:
            raise ConfigError(
                f"max_new_tokens={self.max_new_tokens} is out of range; it must lie between 1 and {MOST_TOKENS}"
            )
        low, high = TEMPERATURES
        if self.temperature != 0 and not low <= self.temperature <= high:  # beyond, logits overflow or all are equal
            raise ConfigError(
                f"temperature={self.temperature:g} is out of range; it must be 0 (the likeliest token), or lie between "
                f"{low:g} and {high:g}"
            )
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed={self.seed} is out of range; it must lie between 0 and 2**32 - 1")


@dataclass(frozen=True)
class Written:
    """An answer as a model wrote it: its token ids up to the one that ends it; `is_whole` is False where it was cut.
    `logp` is the model's log-probability of these ids in nats, at temperature 1, from the logits that they were written
    by (in fp32); NaN where nobody noted it.
    """

    ids: list[int]
    text: str
    is_whole: bool
    logp: float = field(default=nan, compare=False)


def prompt_ids(policy: Policy, prompt: str | tuple[Message, ...]) -> list[int]:
    """The token ids that the model goes on from: a conversation by the chat template, plain text with its BOS. Where a
    conversation ends with a turn of the assistant, the model goes on with that turn.

    Raises `DataError` where the chat template refuses the conversation.
    """
    tokenizer = policy.tokenizer
    if not isinstance(prompt, str):
        then = "more" if begins_answer(prompt) else "answer"
        text = render(tokenizer, prompt, policy.chat, "the prompt", then=then)
        return tokenizer(text, add_special_tokens=False)["input_ids"]
    return plain_ids(tokenizer, prompt)


def end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Every token that ends an answer: those of `ends`, by what the model says now."""
    causal = causal_model(model)
    return sorted({*Ends(tokenizer).ids, *named_ends(tokenizer, causal.generation_config, causal.config)})


def write_answers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding | None = None,
    report: Callable[[int], None] | None = None,
) -> list[Written]:
    """Let the model go on from each prompt (token ids), all in one batch, padded on the left.

    `report` is called after each token with the number of answers that it was written for; those that have ended count,
    since the batch waits for the others. The random state of the process is left as it was.
    """
    decoding, ends = decoding or Decoding(), end_tokens(model, tokenizer)
    rows = embedding_rows(causal_model(model))
    require_rows_for((token for prompt in prompts for token in prompt), rows, "the prompt", tokenizer)
    padding = tokenizer.pad_token_id
    if padding is None or padding >= rows:
        padding = next((end for end in ends if end < rows), 0)
    longest = max(len(prompt) for prompt in prompts)
    padded = [[padding] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    watch = _Watch(report)
    with frozen(model), only_ours(causal_model(model)), _seeded(decoding.seed, model.device):
        written = model.generate(
            input_ids=torch.tensor(padded, device=model.device),
            attention_mask=torch.tensor(mask, device=model.device),
            generation_config=_settings(decoding, ends, padding),
            **watch.handed(),
        )
    pairs = zip(written[:, longest:].tolist(), torch.stack(watch.logps, 1).double().tolist(), strict=True)
    return [_written(tokenizer, ids, logps, ends) for ids, logps in pairs]


class _Watch:
    """Sees the logits before each token and the token after it, and changes neither; ends no answer. `logps` are the
    tokens' log-probabilities at temperature 1, (answers,) nats a step.
    """

    def __init__(self, report: Callable[[int], None] | None) -> None:
        self._report = report
        self._logits = torch.empty(0)
        self.logps: list[torch.Tensor] = []

    def handed(self) -> dict[str, Any]:
        """How it is handed to `generate`. Processors of one's own come before temperature."""
        from transformers.generation.logits_process import LogitsProcessorList
        from transformers.generation.stopping_criteria import StoppingCriteriaList

        return {
            "logits_processor": LogitsProcessorList([self._before]),
            "stopping_criteria": StoppingCriteriaList([self._after]),
        }

    def _before(self, ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        self._logits = logits
        return logits

    def _after(self, ids: torch.Tensor, scores: Any, **more: Any) -> torch.Tensor:
        self.logps.append(self._logits.gather(1, ids[:, -1:])[:, 0] - self._logits.logsumexp(1))
        if self._report is not None:
            self._report(len(ids))
        return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)


def _settings(decoding: Decoding, ends: list[int], padding: int) -> Any:
    from transformers import GenerationConfig

    drawn: dict[str, Any] = {}
    if decoding.temperature > 0:
        drawn = {"temperature": decoding.temperature, "top_k": 0, "top_p": 1.0}
    return GenerationConfig(
        max_new_tokens=decoding.max_new_tokens,
        do_sample=bool(drawn),
        use_cache=True,
        eos_token_id=ends or None,
        pad_token_id=padding,
        **drawn,
    )


def _written(tokenizer: Any, ids: list[int], logps: list[float], ends: list[int]) -> Written:
    end = next((place for place, token in enumerate(ids) if token in ends), None)
    own = ids if end is None else ids[: end + 1]  # what follows is padding
    text = tokenizer.decode(own, skip_special_tokens=True)
    return Written(own, text, end is not None, sum(logps[: len(own)]))


@contextmanager
def only_ours(causal: Any) -> Iterator[None]:
    """The model's own generation config, which would fill in what ours leaves open, put aside."""
    from transformers import GenerationConfig

    own = causal.generation_config
    causal.generation_config = GenerationConfig()
    try:
        yield
    finally:
        causal.generation_config = own


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
