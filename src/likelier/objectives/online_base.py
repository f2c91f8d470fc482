"""What every method that learns from answers it writes itself is: a frozen dataclass over a rollout."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from torch import Tensor

from likelier.objectives.advantages import Advantages
from likelier.objectives.base import hyperparameter, require
from likelier.objectives.metrics import MetricSums
from likelier.objectives.online_metrics import readable_policy
from likelier.objectives.rollout import RolloutItems, StepCounts
from likelier.objectives.scored import SequenceScores


@dataclass(frozen=True)
class OnlineObjective(ABC):
    """What an online method says of itself. Subclasses add options and the methods that are abstract here.

    The fields made by `hyperparameter` are its options, and an object is a preset of them. `run_defaults` are what the
    method has for options of the run where the run's own default is another.
    """

    run_defaults: ClassVar[Mapping[str, Any]] = {}
    adam_epsilon: ClassVar[float] = 1e-8
    max_grad_norm: ClassVar[float] = 1.0  # 0: gradients are not clipped
    has_critic: ClassVar[bool] = False
    strength: ClassVar[str] = "kl_coefficient"  # the option that holds the policy to where it began
    compares_pairs: ClassVar[bool] = False  # two answers to a prompt are learnt from at once, the better and the worse

    method: str
    source: str
    answers_per_prompt: int = hyperparameter(8, "answers that are written to each prompt: the group")
    learning_rate: float = 1e-6
    lora_learning_rate: float = 2e-5
    learning_rate_source: str = "1e-6 as in the papers of GRPO and DAPO; with LoRA twenty times that, which is ours"

    def _require(self, fits: bool, name: str, wanted: str) -> None:
        """Raise `ValueError` naming the option, its value and what it must be."""
        require(fits, self.method, name, getattr(self, name), wanted)

    @property
    @abstractmethod
    def needs_reference(self) -> bool:
        """Whether a reference has to be loaded."""

    @property
    def no_reference(self) -> str:
        """Why none is, where it is not."""
        return f"{self.strength}=0"

    @property
    def refills(self) -> bool:
        """Whether groups whose answers all earned the same are replaced by other prompts'."""
        return False

    @property
    def compares_answers(self) -> bool:
        """Whether an answer's reward counts for what it is beside the others to its prompt."""
        return True

    @property
    def needs_entropies(self) -> bool:
        """Whether the loss asks for the entropy at every token."""
        return False

    @property
    def answers_learnt(self) -> int:
        """How many of a prompt's answers are learnt from."""
        return 2 if self.compares_pairs else self.answers_per_prompt

    def needs_old_logps(self, updates_per_rollout: int) -> bool:
        """Whether a rollout is scored under the policy that wrote it before it is learnt from. The first update needs
        no such scores for its ratios: they are those that it computes itself.
        """
        return updates_per_rollout > 1

    def hyperparameters(self) -> dict[str, Any]:
        """Name and value of each option."""
        return {one.name: getattr(self, one.name) for one in fields(self) if "help" in one.metadata}

    def facts(self) -> dict[str, Any]:
        """What a reader of the run needs to know of its method, for the run card; as `Objective.facts`."""
        return {
            "source": self.source,
            "items": "prompts",
            "strength": self.strength,
            "strength_from_data": False,
            "needs_reference": self.needs_reference,
            "rewards_per_token": False,
            "has_baseline": False,
            "has_target": False,
            "lowers_both": False,
            "satisfied_at": None,
            "per_token": self.per_token(),
            "writes_answers": True,
            "reads_values": False,
            "compares_answers": self.compares_answers,
        }

    def per_token(self) -> bool:
        """Whether the loss divides by the answers' lengths."""
        return False

    def warnings(self) -> list[str]:
        """What is questionable in these options."""
        return []

    def inert(self, given: Collection[str]) -> str | None:
        """What to say of an option that was `given` and has no effect beside the others; None where all have one."""
        return None

    @abstractmethod
    def advantages(
        self,
        rewards: Tensor,
        group_of: Tensor,
        *,
        lengths: Tensor,
        max_length: int,
        kl: Tensor | None = None,
    ) -> Advantages:
        """How much better each answer of a step did than those that it is compared with, and which answers count.

        `rewards` (answers,), NaN for no verdict; `group_of` (answers,) numbers of the prompts; `lengths` (answers,)
        tokens; `kl` (answers,) each answer's log-ratio to the reference in nats (k1, summed), where the rollout was
        scored under both. All answers of the step, of all ranks. Where it `compares_pairs`, of each prompt two answers
        count or none, and the one with the higher advantage is the chosen one.
        """

    @abstractmethod
    def losses(self, scores: SequenceScores, items: RolloutItems, step: StepCounts) -> Tensor:
        """Each answer's share of the whole step's loss, (answers,), or each pair's, (pairs,), where it `compares_pairs`
        and the chosen and the rejected answer of a pair stand next to each other: their plain sum over all
        micro-batches and ranks is the loss. An answer that does not count has share 0 and no gradient.
        """

    @abstractmethod
    def metrics(self, scores: SequenceScores, items: RolloutItems) -> MetricSums:
        """What to log of the answers that count. Read them with `readable`."""

    def rollout_metrics(
        self, advantages: Advantages, group_of: Tensor, rewards: Tensor, kl: Tensor | None
    ) -> MetricSums:
        """What to log of a rollout as a whole, beside its rewards and lengths; arguments as those of `advantages`, and
        what it gave.
        """
        return MetricSums()

    def readable(self, sums: MetricSums) -> dict[str, float]:
        """The metrics of some steps, and of their rollouts, from their sums."""
        return readable_policy(sums)
