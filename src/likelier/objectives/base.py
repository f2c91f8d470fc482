"""What every objective is: a frozen dataclass over `Scored`, the seam's sums and counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import Field, dataclass, field, fields
from typing import Any, ClassVar, Literal, TypeAlias, TypeVar, get_type_hints

import torch
from torch import Tensor

from likelier.objectives.advice import Advice
from likelier.objectives.scored import Scored

DataKind = Literal["pairs", "labels", "answers", "scores"]  # the last: several scored answers to a prompt
State = Mapping[str, Tensor]
Method: TypeAlias = "type[Objective] | Objective"  # a sum of losses knows what it needs by its losses, not by its class
Kind = TypeVar("Kind", bound="Objective")
SATISFIED = 5.0  # where a sigmoid's gradient is below 1 % of what it was: 1 - sigma(5) = 0.0067

_ABOVE_0 = (lambda value: value > 0, "above 0")
_AT_LEAST_0 = (lambda value: value >= 0, "at least 0")
_CHANCE = (lambda value: 0 <= value < 0.5, "in [0, 0.5)")  # that a label is wrong
_SHARE = (lambda value: 0 <= value <= 1, "in [0, 1]")
_WEIGHTS = ("nll_weight", "desirable_weight", "undesirable_weight", "penalty", "gamma_beta_ratio")
# What a hyperparameter of this name must be, whichever method has it.
_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("beta", "tau", "score_temperature"), _ABOVE_0),
    **dict.fromkeys(_WEIGHTS, _AT_LEAST_0),
    **dict.fromkeys(("label_smoothing", "flip_probability"), _CHANCE),
    "ld_alpha": _SHARE,
}


@dataclass(frozen=True)
class Objective:
    """What every method says of itself. Subclasses add hyperparameters and `losses`.

    Nothing outside this room decides anything by a method's name: what others need to know of one stands here, and
    travels in the run card (`facts`) to those who read runs.
    """

    method: ClassVar[str]
    source: ClassVar[str] = ""  # the paper
    data: ClassVar[DataKind] = "pairs"
    strength: ClassVar[str] = "beta"  # the hyperparameter that holds the policy to where it began
    rewards_per_token: ClassVar[bool] = False
    has_baseline: ClassVar[bool] = False  # a reward above which an answer counts as found desirable
    has_target: ClassVar[bool] = False  # the loss pulls back a pair that went beyond it
    lowers_both: ClassVar[bool] = False  # both answers of a pair, by design
    advice: ClassVar[Advice] = Advice()
    needs_reference: ClassVar[bool] = True
    reads_values: ClassVar[bool] = False  # of a value head: its number stands where an answer's log-probability does
    needs_partner: ClassVar[bool] = False
    needs_step: ClassVar[bool] = False  # any loss needs `step_statistics` of the whole step's own answers
    needs_collisions: ClassVar[bool] = False  # the policy's `collision_entropies` beside its log-probabilities
    needs_heads: ClassVar[bool] = False  # sums over the first tokens of a pair's answers, the reference's too
    takes_margins: ClassVar[bool] = False
    takes_soft_labels: ClassVar[bool] = False
    learning_rate: ClassVar[float] = 1e-6
    learning_rate_source: ClassVar[str] = "as for DPO: its paper, appendix B"

    def __post_init__(self) -> None:
        for name, (fits, wanted) in _RANGES.items():
            value = getattr(self, name, None)
            require(value is None or fits(value), self.method, name, value, wanted)

    def reward_scale(self) -> float | None:
        """What a summed log-ratio is multiplied by to give the logged reward; None where rewards are something else."""
        return None

    def satisfied_at(self) -> float | None:
        """The nats between two answers (a token, where the loss is `per_token`) from which on the loss asks for no
        more; None where no such number is known.
        """
        scale = self.reward_scale()
        return SATISFIED / scale if scale else None

    def per_token(self) -> bool:
        """Whether the loss divides by the answers' lengths."""
        return False

    def facts(self) -> dict[str, Any]:
        """What a reader of the run needs to know of its method, for the run card."""
        return {
            "source": self.source,
            "items": "pairs" if self.data == "pairs" else "rows",
            "strength": self.strength,
            "strength_from_data": getattr(type(self), self.strength, "") is None,
            "needs_reference": self.needs_reference,
            "rewards_per_token": self.rewards_per_token,
            "has_baseline": self.has_baseline,
            "has_target": self.has_target,
            "lowers_both": self.lowers_both,
            "satisfied_at": self.satisfied_at(),
            "per_token": self.per_token(),
            "writes_answers": False,
            "reads_values": self.reads_values,
            "compares_answers": True,
        }

    def losses(self, scored: Scored, statistics: Tensor | None = None) -> Tensor:
        """One loss per item, (n,), not reduced. `statistics` is the whole step's `step_statistics`, if it has any.

        What is added up over a step is the sum of these. Only that has the step's gradient, where an item's loss
        depends on statistics of the step's own items.
        """
        raise NotImplementedError

    def logits(self, scored: Scored, statistics: Tensor | None = None) -> Tensor | None:
        """What the loss takes the sigmoid of, (n,): its sigmoid is the chance that the objective gives to the label.
        None where the loss is made otherwise.
        """
        return None

    def weighted_losses(self, scored: Scored, statistics: Tensor | None = None) -> Tensor:
        """`losses` times the items' weights, (n,): what a step adds up and divides by the number of its items."""
        found, weights = self.losses(scored, statistics), scored.items.weights
        return found if weights is None else found * weights

    def rewards(self, scored: Scored) -> Tensor:
        """The logged reward of each answer, (answers,), detached."""
        raise NotImplementedError

    def part_losses(self, scored: Scored, statistics: Tensor | None = None) -> dict[str, Tensor]:
        """Of a loss that is a sum, what it adds, by name, (n,) each and without weights: logged as `loss/NAME`."""
        return {}

    def step_statistics(self, scored: Scored) -> Tensor | None:
        """What the loss needs to know of the whole step, detached, or None. What micro-batches and ranks give of it is
        added up: sums, or the items' own values at their places (`Scored.in_step`).
        """
        return None

    def judges_alone(self) -> bool:
        """Whether an item has a loss without the others of its step: because it needs nothing of them, or because what
        the objective carries stands for them.
        """
        return not self.needs_step or bool(self.state)

    # --- what it carries from step to step ---------------------------------------------------------------------------

    def first_state(self) -> State:
        """What it carries into the first step: tensors by name, float64. Most methods carry nothing."""
        return {}

    @property
    def state(self) -> State:
        """What it carries now; losses, rewards and metrics read it here."""
        return vars(self).get("_state") or self.first_state()

    def with_state(self: Kind, state: Mapping[str, Any]) -> Kind:
        """The same objective carrying `state`, tensors or what `recorded_state` gave. Raises `ValueError` for another
        method's.
        """
        first = self.first_state()
        given = {name: torch.as_tensor(one, dtype=torch.float64) for name, one in state.items()}
        if {name: one.shape for name, one in given.items()} != {name: one.shape for name, one in first.items()}:
            raise ValueError(f"{self.method} carries {sorted(first) or 'nothing'}, and was given {sorted(state)}")
        found = copy(self)
        object.__setattr__(found, "_state", given)  # not a field: no hyperparameter, and equality is blind to it
        return found

    def recorded_state(self) -> dict[str, Any]:
        """`state` as JSON holds it, bit for bit."""
        return {name: one.tolist() for name, one in self.state.items()}

    def next_state(self, statistics: Tensor) -> State:
        """`state` after a step with these `step_statistics`, which are the whole step's: equal on every rank."""
        return self.state

    def after(self: Kind, statistics: Tensor | None) -> Kind:
        """As the losses of a step with these statistics see it, and as the next step finds it if this one is learnt
        from. An evaluation asks the objective as it is, so that it changes nothing.
        """
        if statistics is None or not self.state:
            return self
        here = self.with_state({name: one.to(statistics.device) for name, one in self.state.items()})
        return self.with_state(here.next_state(statistics))

    def state_metrics(self) -> dict[str, Tensor]:
        """What to log of the state: scalars."""
        return {}

    # --- of a whole step ---------------------------------------------------------------------------------------------

    def statistics_metrics(self, statistics: Tensor) -> dict[str, float]:
        """What to log of the step's statistics."""
        return {}

    def reward_baseline(self, statistics: Tensor | None) -> Tensor | None:
        """The reward above which a labelled answer counts as found desirable; None for pairs."""
        return None

    def resolved(self, median_length: float) -> Objective:
        """The objective with hyperparameters that depend on the data (median answer length in tokens) filled in."""
        return self

    def explain(self, median_length: float) -> str:
        """The hyperparameters' consequence in nats, for the run card."""
        raise NotImplementedError

    def warnings(self, batch_size: int, desirable: int, undesirable: int) -> list[str]:
        """What is wrong with this objective on this data (`desirable` and `undesirable` are 0 for pairs)."""
        return []

    def proposals(self, desirable: int, undesirable: int) -> list[str]:
        """Hyperparameters that would suit the data better, as advice."""
        return []

    def hyperparameters(self) -> dict[str, object]:
        """Name and value of each hyperparameter."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def options(cls, named: Mapping[str, Any]) -> dict[str, Any]:
        """Name and type of each hyperparameter that there is beside those that have been `named`."""
        hints = get_type_hints(cls)
        return {field.name: hints[field.name] for field in fields(cls)}

    @classmethod
    def of(cls, hyperparameters: Mapping[str, Any]) -> Objective:
        """The objective with these `hyperparameters`, the others as they are by default. Raises `ValueError`, and
        `TypeError` for a name that it does not have.
        """
        return cls(**hyperparameters)


def hyperparameter(
    default: Any, text: str, *, kw_only: bool = False, many: str | None = None, shown: str | None = None
) -> Any:
    """A dataclass field with a help text, which its flag shows; of several methods with that name the first one's.
    `many` is the shape of each of its words, where it takes several, and `shown` the default as one types it, where
    that is not the value itself.
    """
    return field(default=default, metadata={"help": text, "many": many, "shown": shown}, kw_only=kw_only)


def shown_default(item: Field[Any]) -> Any:
    """A hyperparameter's default as one types it; `MISSING` where there is none."""
    return item.metadata.get("shown") or item.default


def require(condition: bool, method: str, name: str, value: object, wanted: str) -> None:
    """Raise `ValueError` naming the option, its value and what it must be."""
    if not condition:
        raise ValueError(f"{method}: {name}={value!r} is out of range; it must be {wanted}")


class LogRatioReward:
    """The logged reward is `beta` times the summed log-ratio. For objectives with a field `beta`."""

    beta: float

    def reward_scale(self) -> float:
        return self.beta

    def rewards(self, scored: Scored) -> Tensor:
        return (self.beta * scored.logratios).detach()

    def reward_words(self) -> str:
        """The scale of the rewards in nats."""
        return (
            f"sums of log-ratios over answer tokens; beta {self.beta:g}: a reward margin of 1 is "
            f"{1 / self.beta:g} nats between the two answers' log-ratios"
        )
