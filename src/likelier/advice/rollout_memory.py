"""The memory plan of runs that write their answers: the larger of the moments when they write and when they learn.

While answers are written there are weights, optimizer state and the models that are asked besides, but no gradient and
no activation that waits for one; while it learns, no keys and values. So the peak is not the sum of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from likelier.advice.memory import (
    CONTEXT,
    Asked,
    Device,
    MemoryPlan,
    Planner,
    known_model,
    needed,
    own_memory,
    training_of,
)
from likelier.advice.rows import MicroBatch, filled, filled_written
from likelier.advice.waves import Wave, WaveTracer
from likelier.advice.weights import Known, count_weights, find_model
from likelier.data.lengths import Row
from likelier.models.options import Dtype, LoraOptions
from likelier.models.safe_loading import read_config, reading
from likelier.objectives.online_base import OnlineObjective
from likelier.online.options import OnlineOptions
from likelier.online.sampling.local import most_rows
from likelier.online.work import scorings
from likelier.scoring.restore import card_of, final_model, has_no_reference

_TOKEN = 4 + 8 + 8  # bytes of an answer's token: its id, its log-probability, the number that it was drawn with
WORDS = ("start", "base")  # references that are no model of their own


@dataclass(frozen=True)
class Rollouts:
    """What is written. `prompts` and `held_out` are lengths in tokens, of those that are learnt from and of those that
    an evaluation answers. `reference` and `rewards` are bytes of the models beside the policy.
    """

    objective: OnlineObjective
    online: OnlineOptions
    prompts: tuple[int, ...]
    held_out: tuple[int, ...] = ()
    reference: int = 0
    rewards: int = 0

    @property
    def answers(self) -> int:
        """To each prompt."""
        return self.objective.answers_per_prompt

    @property
    def tokens(self) -> int:
        """Of an answer, at most."""
        return self.online.max_new_tokens

    @property
    def served(self) -> bool:
        """Whether a server writes, and nothing here."""
        return self.online.sampler != "local"

    def bytes_of(self, prompts: int) -> int:
        """A rollout of so many prompts, in the host's memory."""
        return prompts * self.answers * self.tokens * (_TOKEN + 8 * scorings(self.objective, self.online))

    @property
    def row(self) -> Row:
        """The longest prompt with the answers that are learnt from, all at their longest."""
        return Row(max(self.prompts), (self.tokens,) * self.objective.answers_learnt)


class OnlinePlanner(Planner):
    """Plans of a run that writes its answers, for different token budgets."""

    def __init__(self, known: Known, asked: Asked, rollouts: Rollouts) -> None:
        super().__init__(known, asked)
        self.rollouts = rollouts
        self.waves = WaveTracer(known.config, asked.training)

    def plan(self, token_budget: int | None = None, *, fit: bool = False) -> MemoryPlan:
        """As every planner's, with what is held while answers are written."""
        found = super().plan(token_budget, fit=fit)
        together = 0 if self.rollouts.served else self.wave().rows
        return replace(found, sampling=self._sampling(), together=together, notes=(*found.notes, *self._more_notes()))

    def micro_batch(self, budget: int) -> MicroBatch:
        """The fullest micro-batch at this budget."""
        fill = filled if self.rollouts.objective.compares_pairs else filled_written  # a pair is not cut
        return fill(self.rollouts.row, budget, self.asked.batch_size)

    def needed(self, budget: int) -> int:
        """The peak at this budget, with what surrounds it."""
        return max(super().needed(budget), needed(self._sampling(), 0, self.asked.device))

    @property
    def at_once(self) -> int:
        """How many answers are written at once, at most."""
        free = None
        if self.asked.device == "cuda":
            free = max(0, self.memory - CONTEXT["cuda"] - self.weights.bytes - self._beside())
        text = self.known.config.get_text_config()
        return most_rows(text, self.asked.training.weights, self.rollouts.tokens, free)

    def wave(self) -> Wave:
        """The fullest that is written at once: the longest prompts of a step."""
        count = min(self.asked.batch_size, max(1, self.at_once // self.rollouts.answers))
        return Wave(_longest(self.rollouts.prompts, count), self.rollouts.answers, self.rollouts.tokens)

    # --- the parts -----------------------------------------------------------------------------------------------

    def _standing(self) -> dict[str, int]:
        rollout = 0 if self.asked.device == "cuda" else self.rollouts.bytes_of(self.asked.batch_size)
        return super()._standing() | {"rewards": self.rollouts.rewards, "rollout": rollout}

    def _reference(self) -> int:
        return self.rollouts.reference

    def _beside(self) -> int:
        return self.rollouts.reference + self.rollouts.rewards

    def _writing(self) -> dict[str, int]:
        """What stands while answers are written: gradients are gone by then."""
        return {name: size for name, size in self._standing().items() if name != "gradients"}

    def _sampling(self) -> dict[str, int]:
        if self.rollouts.served:
            return {}
        return self._writing() | self.waves.trace(self.wave()).parts() | {"workspace": self._workspace()}

    def _scoring(self, budget: int) -> int:
        """Before the first step: the weights, and the copy of a tensor that is being hashed."""
        hashed = self.weights.largest if self.asked.device == "cpu" else 0
        return self.weights.bytes + self._beside() + hashed + self._workspace()

    def _evaluating(self, budget: int) -> int:
        """Held-out prompts are answered once each, as many at once as answers may be, and at the start as often as
        others.
        """
        if self.rollouts.served or not self.rollouts.held_out:
            return sum(self._writing().values()) + self._workspace()
        own, each = self.rollouts, self.rollouts.answers
        waves = [
            Wave(_longest(own.held_out, self.at_once), 1, own.tokens),
            Wave(_longest(own.held_out, max(1, self.at_once // each)), each, own.tokens),
        ]
        passing = max(self.waves.trace(wave).total for wave in waves)
        return sum(self._writing().values()) + passing + self._workspace()

    def _more_notes(self) -> list[str]:
        found = ["answers are reckoned at their longest, max_new_tokens; shorter ones hold and take less"]
        if self.rollouts.served:
            found.append("the server that writes holds a model of its own, with keys and values: these are not planned")
        if self.waves.formula_because is not None:
            found.append(f"what is held while answers are written is a formula's ({self.waves.formula_because})")
        return found


def _longest(lengths: Sequence[int], count: int) -> tuple[int, ...]:
    return tuple(sorted(lengths, reverse=True)[:count])


def online_planner_for(
    model: str | Path | Any,
    objective: OnlineObjective,
    online: OnlineOptions,
    *,
    prompts: Sequence[int],
    held_out: Sequence[int] = (),
    lora: LoraOptions | None = None,
    dtype: Dtype = "auto",
    device: Device | None = None,
    memory: int | None = None,
    activation_checkpointing: bool = False,
    batch_size: int = 8,
    reference: str = "start",
    judge: str | None = None,
) -> OnlinePlanner:
    """What plans the memory of a run that writes its answers.

    Args:
        model, lora, dtype, device, memory, activation_checkpointing: as for `planner_for`.
        objective, online: the run's: how many answers, how long, at which temperature, what judges them.
        prompts, held_out: lengths in tokens of the prompts that are learnt from, and of those that evaluations answer.
        batch_size: prompts of a step.
        reference: asked where the objective has a `kl_coefficient`: `start`, `base`, or a model's name.
        judge: the reward of evaluations, where it is another one.

    Raises:
        ModelError, ConfigError: a model cannot be found, or an option is out of range.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    known = known_model(model, lora or LoraOptions())
    training = training_of(known.lora, dtype, device, activation_checkpointing)
    longest = max(prompts) + online.max_new_tokens
    size = memory or own_memory(device)
    asked = Asked(objective.method, training, device, longest, size, False, min(batch_size, len(prompts)), None)
    rewards = sum(map(reward_bytes, (*online.reward, *([judge] if judge else []))))
    rollouts = Rollouts(objective, online, tuple(prompts), tuple(held_out), rewards=rewards)
    planner = OnlinePlanner(known, asked, rollouts)
    if objective.needs_reference:
        planner.rollouts = replace(rollouts, reference=_reference_bytes(planner, reference, dtype))
    return planner


def _reference_bytes(planner: OnlinePlanner, name: str, dtype: Dtype) -> int:
    """Bytes of the reference: an adapter switched off takes none, a policy that moves on is copied."""
    weights, asked = planner.weights, planner.asked
    if name not in WORDS:
        other = find_model(name, LoraOptions())
        return count_weights(other.config, training_of(other.lora, dtype, asked.device, False)).bytes
    if not asked.training.adapter:
        return weights.bytes
    return weights.trained_bytes if planner.known.adapter_loaded and name == WORDS[0] else 0


def reward_bytes(spec: str) -> int:
    """Bytes of the model that a reward is; 0 for functions and services, of which nothing is known."""
    kind, _, name = spec.partition(":")
    return _MODELS[kind](name) if kind in _MODELS else 0


def _classifier_bytes(name: str) -> int:
    from transformers import AutoModelForSequenceClassification

    with reading(name, "the configuration of a classifier"), torch.device("meta"):
        config = read_config(name, name)
        model = AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
    return sum(weight.nbytes for weight in model.parameters())


def _implicit_bytes(run: str) -> int:
    """A run's model, and its reference where that is a model of its own."""
    name = final_model(run)
    known = find_model(name, LoraOptions())
    device: Device = "cuda" if torch.cuda.is_available() else "cpu"
    own = count_weights(known.config, training_of(known.lora, "auto", device, False)).bytes
    return own if known.adapter_loaded or has_no_reference(card_of(name)) else 2 * own


_MODELS = {"model": _classifier_bytes, "implicit": _implicit_bytes}
