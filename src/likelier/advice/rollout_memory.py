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

from likelier.advice.asked import Asked
from likelier.advice.beside import Beside, models_beside
from likelier.advice.memory import (
    CONTEXT,
    Device,
    MemoryPlan,
    Planner,
    known_model,
    needed,
    own_memory,
)
from likelier.advice.rows import MicroBatch, filled, filled_written
from likelier.advice.trace import Alive, StepTracer, training_of
from likelier.advice.waves import Wave, WaveTracer
from likelier.advice.weights import Known
from likelier.data.lengths import Row
from likelier.models.options import Dtype, LoraOptions
from likelier.objectives.online_base import OnlineObjective
from likelier.online.options import OnlineOptions
from likelier.online.sampling.local import most_rows
from likelier.online.work import critic_share, scorings

_TOKEN = 4 + 8 + 8  # bytes of an answer's token: its id, its log-probability, the number that it was drawn with
_ESTIMATES = 4 * 8  # with a critic also: its word for the token, its value, advantage and return


@dataclass(frozen=True)
class Rollouts:
    """What is written. `prompts` and `held_out` are lengths in tokens, of those that are learnt from and of those that
    an evaluation answers. `beside` are the models beside the policy.
    """

    objective: OnlineObjective
    online: OnlineOptions
    prompts: tuple[int, ...]
    held_out: tuple[int, ...] = ()
    beside: Beside = Beside()

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
        token = _TOKEN + 8 * scorings(self.objective, self.online) + _ESTIMATES * self.objective.has_critic
        return prompts * self.answers * self.tokens * token

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
        critic = rollouts.beside.critic
        self.of_critic = None if critic is None else StepTracer(critic.config, critic.training)

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

    @property
    def updated(self) -> float:
        """With the critic's own, where there is one."""
        critic = self.rollouts.beside.critic
        return 1.0 if critic is None else 1 + critic.own / self.weights.trained

    def critic_share(self, prompt: float) -> float:
        """What a token takes in the critic, as a share of what it takes in the policy; 0 without one."""
        critic = self.rollouts.beside.critic
        if critic is None:
            return 0.0
        text = self.known.config.get_text_config()
        table = text.vocab_size * text.hidden_size
        tables = 1 if getattr(self.known.config, "tie_word_embeddings", False) else 2
        met = self.weights.count - tables * table
        return critic_share(critic.passed, met, table, prompt, self.rollouts.answers, self.rollouts.tokens)

    def wave(self) -> Wave:
        """The fullest that is written at once: the longest prompts of a step."""
        count = min(self.asked.batch_size, max(1, self.at_once // self.rollouts.answers))
        return Wave(_longest(self.rollouts.prompts, count), self.rollouts.answers, self.rollouts.tokens)

    # --- the parts -----------------------------------------------------------------------------------------------

    def _moments(self, batch: MicroBatch) -> list[tuple[int, Alive]]:
        """With a critic, which goes forward and backward before the policy does: its activations are gone by then, and
        its gradients stay.
        """
        policy, critic = super()._moments(batch), self.rollouts.beside.critic
        if critic is None or self.of_critic is None:
            return policy
        trace, every = self.of_critic.trace(batch.trained), self.weights.trained_bytes + critic.own_gradients
        if batch.several:
            return [(every, alive) for alive in (*(alive for _, alive in policy), *trace.moments)]
        begun = [(0, trace.forward), (0, trace.layers), (critic.gradients, trace.end)]
        return begun + [(every if made else critic.gradients, alive) for made, alive in policy]

    def _standing(self) -> dict[str, int]:
        rollout = 0 if self.asked.device == "cuda" else self.rollouts.bytes_of(self.asked.batch_size)
        beside, standing = self.rollouts.beside, super()._standing()
        if beside.critic is not None:
            standing["critic"] = beside.critic.bytes
            standing["optimizer"] += self._moments_of(beside.critic.own)
        return standing | {"rewards": beside.rewards, "rollout": rollout}

    def _reference(self) -> int:
        return self.rollouts.beside.reference

    def _beside(self) -> int:
        return self.rollouts.beside.bytes

    def _writing(self) -> dict[str, int]:
        """What stands while answers are written: gradients are gone by then, but for a critic's own."""
        critic = self.rollouts.beside.critic
        standing = {name: size for name, size in self._standing().items() if name != "gradients"}
        return standing if critic is None else standing | {"gradients": critic.own_gradients}

    def _sampling(self) -> dict[str, int]:
        if self.rollouts.served:
            return {}
        return self._writing() | self.waves.trace(self.wave()).parts() | {"workspace": self._workspace()}

    def _scoring(self, budget: int) -> int:
        """Before the first step: the weights, and the copy of a tensor that is being hashed; or the models as they are
        loaded, before equal weights are put together.
        """
        hashed = self.weights.largest if self.asked.device == "cpu" else 0
        begun = max(self.weights.bytes + self._beside() + hashed, self.rollouts.beside.loading)
        return begun + self._workspace()

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
        if self.rollouts.beside.critic is not None:
            found.append(f"the critic begins as {self.rollouts.beside.critic.words}")
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
    how: dict[str, Any] = {"dtype": dtype, "reference": reference, "judge": judge}
    beside = models_beside(Planner(known, asked), model, objective, online, **how)
    return OnlinePlanner(known, asked, Rollouts(objective, online, tuple(prompts), tuple(held_out), beside))
