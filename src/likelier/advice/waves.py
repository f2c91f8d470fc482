"""What is alive while answers are written: prompts are read, then a token of every answer again and again.

As steps are (see `trace`), on tensors that have shapes and no memory: the sampler's own keys and values, its passes and
its draws. Room for more tokens is made again and again; what comes between two of these moments holds no more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from likelier.advice.trace import (
    Alive,
    Ledger,
    Training,
    as_if_real,
    build,
    layer_pattern,
    mark_phases,
    pretend,
    standing,
)
from likelier.advice.weights import kept_of_a_token
from likelier.models.layers import causal_model
from likelier.online.sampling import Sampling
from likelier.online.sampling.drawing import draw
from likelier.online.sampling.keys import AnswerKeys, rooms
from likelier.online.sampling.local import logits_behind
from likelier.scoring.attention import install_attention
from likelier.utils.errors import whole_reason

_DRAWN = 24  # bytes of a token's chance in a draw: logits and log-probabilities in fp32, two rows of chances in fp64


@dataclass(frozen=True)
class Wave:
    """What is written at once: the lengths of the prompts, how many answers to each, and of how many tokens."""

    prompts: tuple[int, ...]
    answers: int
    tokens: int

    @property
    def rows(self) -> int:
        """Answers."""
        return len(self.prompts) * self.answers

    @property
    def held(self) -> int:
        """Tokens whose keys and values are held at the end: padded prompts, and the room of each answer."""
        room = rooms(self.tokens - 1)[-1:]  # the last token is not fed
        return len(self.prompts) * max(self.prompts) + self.rows * sum(room)


@dataclass(frozen=True)
class Writing:
    """Bytes at the fullest moment of a wave, besides weights: keys and values, what a pass holds, a draw."""

    keys: int = 0
    activations: int = 0
    head: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.keys + self.activations + self.head

    def parts(self) -> dict[str, int]:
        """By the names that plans have."""
        return {"keys": self.keys, "activations": self.activations, "head": self.head}


class WaveTracer:
    """Traces waves of one model; those that it cannot trace get a formula, and `formula_because` says why."""

    def __init__(self, config: Any, training: Training) -> None:
        self.config, self.training = config, training
        self.formula_because: str | None = None
        self._known: dict[Wave, Writing] = {}

    def trace(self, wave: Wave) -> Writing:
        """The fullest moment of a wave."""
        if wave not in self._known:
            self._known[wave] = self._traced(wave)
        return self._known[wave]

    def _traced(self, wave: Wave) -> Writing:
        if self.formula_because is None:
            try:
                read, written = self._at_full_depth(wave)
            except Exception as error:  # what a model's own code does with a fake tensor is open
                self.formula_because = whole_reason(error)
            else:
                of_prompts = self.key_bytes * len(wave.prompts) * max(wave.prompts)
                moments = (_apart(read, of_prompts), _apart(written, self.key_bytes * wave.held))
                return max(moments, key=lambda one: one.total)
        text = self.config.get_text_config()
        copies = sum(wave.prompts) * wave.answers + wave.rows * wave.tokens  # generated without a shared prompt
        return Writing(self.key_bytes * copies, 0, _DRAWN * wave.rows * text.vocab_size)

    @property
    def key_bytes(self) -> int:
        """Of the keys and values of a token, in the precision of the passes."""
        size = 2 if self.training.autocast else self.training.weights.itemsize
        return kept_of_a_token(self.config) * size

    def _at_full_depth(self, wave: Wave) -> tuple[Alive, Alive]:
        layers, few = self.config.get_text_config().num_hidden_layers, 2 * layer_pattern(self.config)
        if layers <= 2 * few:
            return trace_wave(self.config, wave, self.training, layers=layers)
        shallow, deep = (trace_wave(self.config, wave, self.training, layers=depth) for depth in (few, 2 * few))
        steps = (layers - few) / few
        return shallow[0].along(deep[0], steps), shallow[1].along(deep[1], steps)


def _apart(alive: Alive, keys: int) -> Writing:
    return Writing(min(keys, alive.activations), max(0, alive.activations - keys), alive.head)


def trace_wave(config: Any, wave: Wave, training: Training, *, layers: int) -> tuple[Alive, Alive]:
    """Write a wave with a model of so many layers, on fake tensors: the fullest moments while its prompts are read, and
    while its answers are written.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    keys = AnswerKeys([torch.zeros(length) for length in wave.prompts], wave.answers, torch.device("cpu"))
    sizes = torch.tensor(wave.prompts)
    with torch.device("meta"):
        model = build(config, training, layers).train(False)
    with FakeTensorMode(allow_non_fake_inputs=True), as_if_real(training):
        pretend(model)
        install_attention(causal_model(model))
        ledger = Ledger(standing(model, False))
        mark_phases(causal_model(model), ledger)
        autocast = torch.autocast("cpu", torch.bfloat16, enabled=training.autocast, cache_enabled=False)
        with ledger, torch.no_grad(), autocast:
            _write(causal_model(model), wave, keys, sizes, ledger)
    return Alive(**ledger.fullest["reading"]), Alive(**ledger.fullest["writing"])


def _write(causal: Any, wave: Wave, keys: AnswerKeys, sizes: Tensor, ledger: Ledger) -> None:
    """As the sampler does it, but only the tokens for which room is made, and the last one."""

    def passed(tokens: int, positions: Tensor, wanted: Tensor | None) -> Tensor:
        ledger.kind = "activations"
        return logits_behind(causal, torch.zeros(tokens, dtype=torch.long), positions, keys, wanted)

    def drawn(logits: Tensor) -> None:
        draw(logits, torch.zeros(wave.rows, dtype=torch.float64), Sampling(wave.tokens))

    ledger.phase = "reading"
    logits = passed(sum(wave.prompts), torch.zeros(sum(wave.prompts), dtype=torch.long), sizes.cumsum(0) - 1)
    logits = logits[keys.prompt_of]
    drawn(logits)
    ledger.phase = "writing"
    fed = [0, *rooms(wave.tokens - 1)]
    ledger.fullest["writing"] = dict(ledger.alive)
    for before in sorted({*fed[:-1], max(0, wave.tokens - 2)} if wave.tokens > 1 else ()):
        keys.written = before
        logits = passed(wave.rows, keys.step(), None)
        drawn(logits)
