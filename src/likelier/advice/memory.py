"""The memory plan: the peak of a run, part by part, from a model's configuration alone.

What is kept for good is counted (`weights`), what a step holds besides is traced (`trace`). Two cases differ. Where a
step has several micro-batches, all gradients are there while the last ones are computed. Where it has one, gradients
appear as activations go, so that the fullest moment is the end of the forward pass or the end of the backward pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from math import ceil
from pathlib import Path
from typing import Any, Literal

import torch

from likelier.advice.asked import Asked
from likelier.advice.rows import MicroBatch, filled, fullest, longest_row
from likelier.advice.spread import Spread, checked
from likelier.advice.trace import Alive, Device, StepTracer, Training, training_of
from likelier.advice.weights import Known, Weights, count_weights, find_model, kept_of_a_token
from likelier.data.lengths import Row, tokens_of
from likelier.data.tokenize import default_max_length
from likelier.models.generation import WRITE_LARGER
from likelier.models.options import Dtype, LoraOptions
from likelier.models.token_budget import default_budget, total_memory
from likelier.objectives import METHODS, Objective
from likelier.scoring.engine import PACK_LARGER
from likelier.training.options import TrainingOptions
from likelier.utils.errors import ConfigError, nearest

TO_SPARE = 0.1  # of the memory: plans are not exact to less
_MOST_TOKENS = 65536  # of a micro-batch, as in the default token budget

# AdamW keeps two moments a weight, in its precision: 8 bytes in float32. With weights in bfloat16 they are kept
# in bfloat16, and Kahan's summation adds a third value: 6 bytes. The default optimizer is fused: no temporaries.
_MOMENTS = {torch.float32: 8, torch.bfloat16: 6}

# What torch's allocator gives to matrix products on CUDA: 32 MiB a handle on Hopper, 8 MiB before.
_CUBLAS = 32 * 2**20

# On a CPU a first step also brings pages of torch's libraries into memory, the packing buffers of its matrix products
# and what glibc keeps of small blocks that were freed. It does not grow with the model.
_CPU_WORKSPACE = 60 * 10**6

# Beside the plan: CUDA's context and kernels, which no allocator counts (0.5 to 0.9 GB); on a CPU the interpreter with
# torch and transformers before a model is loaded. And blocks that the allocator holds and cannot use, as a share of
# what comes and goes: glibc's before 2.38 seldom uses a freed aligned block again (0.4 to 1.4 was measured).
CONTEXT = {"cuda": 700 * 10**6, "cpu": 500 * 10**6}
_UNUSED_BLOCKS = {"cuda": 0.1, "cpu": 1.0}
_DEVICE_NOTES = {
    "cuda": "planned for CUDA; these figures were compared with no GPU yet",
    "cpu": "peaks count what is alive. glibc may hold as much again as the activations in freed blocks, and 'fits' "
    "takes that into account; with MALLOC_MMAP_THRESHOLD_=131072 in the environment it does not, but steps take up to "
    "twice the time",
}
_COME_AND_GO = ("activations", "head", "keys")


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of a run at its fullest moment.

    `parts` sum up to the peak of training; `scoring` is the peak before it, when the reference is scored, `evaluating`
    the one at its end, when held-out answers are compared with the reference. `sampling` sum up to the peak while
    `together` answers are written at once, where a run writes them. `tokens` are those of the longest micro-batch.
    `fitting_budget` is the largest token budget that fits into `memory` (None where
    no memory is named, 0 where not even the longest row does, alone).
    """

    training: Training
    weights: Weights
    device: Device
    parts: dict[str, int]
    scoring: int
    evaluating: int
    tokens: int
    rows: int
    several: bool
    token_budget: int
    max_length: int
    memory: int | None
    fitting_budget: int | None
    notes: tuple[str, ...] = ()
    spread: Spread = Spread()
    sampling: Mapping[str, int] = field(default_factory=dict)
    together: int = 0

    @property
    def peak(self) -> int:
        """The most that is held at once."""
        return max(sum(self.parts.values()), sum(self.sampling.values()), self.scoring, self.evaluating)

    @property
    def needed(self) -> int:
        """The peak with what surrounds it: libraries, CUDA's context, blocks that cannot be used."""
        besides = max(self.scoring, self.evaluating)
        return max(needed(parts, besides, self.device) for parts in (self.parts, self.sampling))

    @property
    def fits(self) -> bool | None:
        """Whether it fits into the memory named; None where none is."""
        return None if self.memory is None else self.needed <= self.memory


def needed(parts: Mapping[str, int], besides: int, device: Device) -> int:
    """A peak with what surrounds it: that of training, or the one before or after it (`besides`)."""
    unused = round(_UNUSED_BLOCKS[device] * sum(parts.get(name, 0) for name in _COME_AND_GO))
    return max(sum(parts.values()) + unused, besides) + CONTEXT[device]


def planner_for(
    model: str | Path | Any,
    *,
    method: str | Objective,
    lora: LoraOptions | None = None,
    dtype: Dtype = "auto",
    device: Device | None = None,
    max_length: int | None = None,
    memory: int | None = None,
    activation_checkpointing: bool = False,
    reference_scores: Literal["stored", "live"] = "stored",
    reference_moves: Literal["soft", "hard", "bema"] | None = None,
    batch_size: int = 32,
    rows: Sequence[Row] | None = None,
    spread: Spread | None = None,
) -> Planner:
    """What plans a run's memory, for different token budgets.

    Args:
        model: a model's name as `load_policy` takes it, or a transformers configuration. No weights are loaded.
        method: the objective, or its name where that says what a plan needs to know.
        lora, dtype, max_length, activation_checkpointing, reference_scores, reference_moves, batch_size: as in a run.
        device: what it will run on (default: CUDA where this machine has it).
        memory: bytes of the device; by default this machine's.
        rows: token lengths of the data. Without them rows at `max_length` are assumed, half prompt and half answers,
            and micro-batches that are filled to the budget.
        spread: over how many GPUs the run goes (default: one); the plan is that of one of them.

    Raises:
        ModelError, ConfigError: the model cannot be found, or an option is out of range.
    """
    name, made = (method, None) if isinstance(method, str) else (method.method, method)
    if name not in METHODS:
        raise ConfigError(f"unknown method {name!r}{nearest(name, METHODS)}; known: {', '.join(METHODS)}")
    objective = made or METHODS[name]
    live, moves = reference_scores == "live", reference_moves is not None
    if (live or moves) and not objective.needs_reference:
        raise ConfigError(f"{name} uses no reference; drop {'reference_scores' if live else 'reference_moves'}")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    known = known_model(model, lora or LoraOptions())
    training = training_of(known.lora, dtype, device, activation_checkpointing)
    training = replace(training, values=objective.reads_values)
    context = getattr(known.config.get_text_config(), "max_position_embeddings", None)
    if max_length and context and max_length > context:
        raise ConfigError(f"max_length={max_length} is beyond the model's context of {context} tokens; lower it")
    asked = Asked(
        name,
        training,
        device,
        max_length or default_max_length(context),
        memory or own_memory(device),
        live,
        batch_size,
        None if rows is None else tuple(rows),
        checked(spread or Spread(), training, device, live_reference=live, moves=moves),
        reference_moves,
        made,
    )
    return Planner(known, asked)


def known_model(model: str | Path | Any, lora: LoraOptions) -> Known:
    """A model by name, or of a configuration."""
    if isinstance(model, (str, Path)):
        return find_model(model, lora)
    return Known(model, lora, adapter_loaded=False)


def own_memory(device: Device) -> int | None:
    """This machine's; None where it has no such device."""
    return total_memory(torch.device(device)) if device == "cpu" or torch.cuda.is_available() else None


class Planner:
    """Plans of one model trained in one way, for different token budgets."""

    def __init__(self, known: Known, asked: Asked) -> None:
        self.known, self.asked = known, asked
        self.weights = count_weights(known.config, asked.training)
        self.tracer = StepTracer(known.config, asked.training)

    def for_method(self, method: str) -> Planner:
        """The same for another method; what was traced is not traced again."""
        planner, objective = copy(self), METHODS[method]
        live = self.asked.live_reference and objective.needs_reference
        moves = self.asked.reference_moves if objective.needs_reference else None
        planner.asked = replace(self.asked, method=method, made=None, live_reference=live, reference_moves=moves)
        if objective.reads_values != self.asked.training.values:
            planner.asked = replace(planner.asked, training=replace(self.asked.training, values=objective.reads_values))
            planner.weights = count_weights(self.known.config, planner.asked.training)
            planner.tracer = StepTracer(self.known.config, planner.asked.training)
        return planner

    def plan(self, token_budget: int | None = None, *, fit: bool = False) -> MemoryPlan:
        """The plan at this budget (default: the run's own default)."""
        budget = token_budget or self.default_budget()
        batch = self.micro_batch(budget)
        parts = self._parts(batch)
        return MemoryPlan(
            training=self.asked.training,
            weights=self.weights,
            device=self.asked.device,
            parts=parts,
            scoring=self._scoring(budget),
            evaluating=self._evaluating(budget),
            tokens=tokens_of(batch.trained),
            rows=len(batch.trained),
            several=batch.several,
            token_budget=budget,
            max_length=self.asked.max_length,
            memory=self.asked.memory if fit else None,
            fitting_budget=self.fitting_budget() if fit else None,
            notes=self._notes(),
            spread=self.asked.spread,
        )

    @property
    def memory(self) -> int:
        """Bytes of the device. Raises `ConfigError` where none were named and this machine has no such device."""
        if self.asked.memory is None:
            raise ConfigError("planning for CUDA where there is none: say how much memory it has, as --memory 24GB")
        return self.asked.memory

    @property
    def updated(self) -> float:
        """Weights that an optimizer step changes, as a share of the policy's."""
        return 1.0

    def default_budget(self) -> int:
        """The budget that the run would take by itself, on a device of this memory."""
        text = self.known.config.get_text_config()
        size = 4 if self.asked.training.lora.load_in_4bit else self.asked.training.weights.itemsize
        return default_budget(
            text.num_hidden_layers,
            text.hidden_size * size,
            self.memory,
            self.asked.device,
            checkpointing=self.asked.training.checkpointing,
        )

    def micro_batch(self, budget: int) -> MicroBatch:
        """The fullest micro-batch at this budget."""
        if self.asked.rows is not None:
            return fullest(self.asked.rows, budget, self.asked.own_rows, self.asked.objective)
        objective = self.asked.objective
        row = longest_row(self.asked.max_length, objective)
        return filled(row, budget, self.asked.own_rows, partners=objective.needs_partner)

    def needed(self, budget: int) -> int:
        """The peak at this budget, with what surrounds it."""
        besides = max(self._scoring(budget), self._evaluating(budget))
        return needed(self._parts(self.micro_batch(budget)), besides, self.asked.device)

    # --- the parts -----------------------------------------------------------------------------------------------

    def _parts(self, batch: MicroBatch) -> dict[str, int]:
        gradients, alive = max(self._moments(batch), key=lambda moment: moment[0] + moment[1].total)
        together = self._together(gradients=True)
        return self._standing() | {"gradients": gradients, "together": together} | self._passing(alive)

    def _moments(self, batch: MicroBatch) -> list[tuple[int, Alive]]:
        """Bytes of the gradients that are there at the fullest moments of a micro-batch, and what is alive besides."""
        trace, trained = self.tracer.trace(batch.trained), self.asked.spread.own(self.weights.trained_bytes)
        # A trained embedding that is the head as well: the head's gradient waits for the embedding's, which is added to
        # it where it lies. Tracing cannot see that, and counts the sum as a third tensor.
        end = replace(trace.end, activations=max(0, trace.end.activations - self.weights.embedding))
        before = trained if batch.several else 0
        return [(before, trace.forward), (before, trace.layers), (trained, end)]

    def _together(self, *, gradients: bool) -> int:
        return self.asked.spread.together(self.weights, self.asked.training, gradients=gradients)

    def _standing(self) -> dict[str, int]:
        whole = {
            "weights": self.weights.bytes,
            "gradients": 0,
            "optimizer": self._moments_of(self.weights.trained),
            "reference": self._reference(),
        }
        return {name: self.asked.spread.own(size) for name, size in whole.items()}

    def _moments_of(self, trained: int) -> int:
        """Bytes of the optimizer's moments of so many weights."""
        return trained * _MOMENTS[torch.float32 if self._adapter else self.asked.training.weights]

    def _passing(self, alive: Alive) -> dict[str, int]:
        return {"activations": alive.activations, "head": alive.head, "workspace": self._workspace()}

    @property
    def _adapter(self) -> bool:
        return self.asked.training.adapter

    def _reference(self) -> int:
        """Stored scores need no model. Live: a frozen copy of the weights, or of an adapter that was loaded. One that
        moves: a second set of what is trained, and of an average two more, which lie in the machine's memory.
        """
        if self.asked.reference_moves is not None:
            here = 3 if self.asked.reference_moves == "bema" and self.asked.device == "cpu" else 1
            return here * self.weights.trained_bytes
        if not self.asked.live_reference:
            return 0
        if self._adapter:
            return self.weights.trained_bytes if self.known.adapter_loaded else 0
        return self.weights.bytes

    def _workspace(self) -> int:
        if self.asked.device == "cuda":
            return _CUBLAS + self.weights.dequantized
        return _CPU_WORKSPACE

    def _scoring(self, budget: int) -> int:
        """Before training: weights, one micro-batch without gradients, or the copy of a tensor that is being hashed."""
        hashed = self.weights.largest if self.asked.device == "cpu" else 0
        standing = self.asked.spread.own(self.weights.bytes + self._reference()) + self._together(gradients=False)
        return standing + max(self._alive(budget), hashed) + self._workspace()

    def _alive(self, budget: int) -> int:
        """What a micro-batch without gradients holds."""
        batch = self.micro_batch(budget * PACK_LARGER.get(self.asked.device, 1))
        return self.tracer.trace(batch.counted, gradients=False).forward.total

    def _evaluating(self, budget: int) -> int:
        """At the end, with held-out data: no gradients, but a whole reference once more, or an adapter's copy; beside
        one that moves, where it began. A model that gives values has none, and writes nothing.
        """
        standing = self._standing()
        if self.asked.training.values:
            return standing["weights"] + standing["optimizer"] + self._alive(budget) + self._workspace()
        copy = self.weights.trained_bytes if self.known.adapter_loaded else 0
        held, start = standing["reference"], self.asked.spread.own(copy if self._adapter else self.weights.bytes)
        again = (held or start) if self.asked.reference_moves is None else held + start
        passing = max(self._alive(budget), self._written(budget)) + self._together(gradients=False)
        return standing["weights"] + standing["optimizer"] + again + passing + self._workspace()

    def _written(self, budget: int) -> int:
        """Keys and values of a batch of answers."""
        usual = TrainingOptions()
        tokens = min(WRITE_LARGER * budget, usual.answered_prompts * (self.asked.max_length + usual.answer_tokens))
        return kept_of_a_token(self.known.config) * self.asked.training.weights.itemsize * tokens

    # --- what fits ---------------------------------------------------------------------------------------------------

    @property
    def roomy(self) -> int:
        """Bytes of the device less a tenth: a plan above that may as well not fit."""
        return round((1 - TO_SPARE) * self.memory)

    def fitting_budget(self, memory: int | None = None) -> int:
        """The largest token budget that fits into the memory (or so many bytes); 0 where the longest row does not,
        alone.

        Memory goes with the tokens as a straight line; what the line says is tried.
        """
        memory = memory or self.memory
        smallest = tokens_of(self.micro_batch(1).counted)
        if self.needed(smallest) > memory:
            return 0
        few, more = 8 * smallest, 16 * smallest
        at_few, at_more = self.needed(few), self.needed(more)
        slope = max(1.0, (at_more - at_few) / (more - few))
        budget = int(max(smallest, min(_MOST_TOKENS, few + (memory - at_few) / slope)))
        while budget > smallest and self.needed(budget) > memory:
            budget = max(smallest, budget - max(1, ceil(0.05 * budget)))
        return budget

    def _notes(self) -> tuple[str, ...]:
        found = []
        if self.tracer.formula_because is not None:
            found.append(
                f"activations are a formula's, for ordinary layers: this model cannot be traced "
                f"({self.tracer.formula_because})"
            )
        found.append(_DEVICE_NOTES[self.asked.device])
        found += self.asked.spread.notes(self.weights)
        return tuple(found)
