"""What a method says to somebody who asks which one to take: `likelier recommend` reads it from the objectives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Goal = Literal["quick", "robust", "ceiling"]

NOISY = 0.1  # the flip rate above which robust DPO is worth its variance
LABELS_DOMINATE = 10  # times as many labels as pairs
PAIRS_DOMINATE = 5  # times as many pairs as labels
FEW_PAIRS = 500  # below, a stage of labels after them pays: it did after 250, not after 1,000 (docs/studies, S16)


@dataclass(frozen=True)
class Situation:
    """What the choice depends on. `has_reference` is False where no reference can be scored, not even beforehand."""

    pairs: int
    labels: int
    flip_rate: float | None = None
    goal: Goal | None = None
    has_reference: bool = True

    @property
    def noisy(self) -> bool:
        """Whether the labels are known to be wrong too often for plain DPO."""
        return self.flip_rate is not None and self.flip_rate > NOISY

    @property
    def labels_dominate(self) -> bool:
        """Whether the pairs are not worth a stage."""
        return self.labels >= LABELS_DOMINATE * self.pairs

    @property
    def pairs_dominate(self) -> bool:
        """Whether the labels are not worth a stage."""
        return self.pairs >= PAIRS_DOMINATE * self.labels

    @property
    def both(self) -> bool:
        """Whether both kinds are worth a stage."""
        return self.pairs < FEW_PAIRS and not self.labels_dominate and not self.pairs_dominate


@dataclass(frozen=True)
class Subject:
    """What is trained: the architecture, whether it was instructed, how many rows there are, with an adapter or not;
    and of the data the flip rate, where it is known, and the numbers of desirable and undesirable rows. `weights` is
    how many the model has, where that is known.
    """

    architecture: str
    instructed: bool
    rows: int
    adapter: bool
    flip_rate: float | None = None
    labels: tuple[int, int] = (0, 0)
    weights: int | None = None


@dataclass(frozen=True)
class Setting:
    """An option of a run with its value and its source."""

    name: str
    value: Any
    source: str


@dataclass(frozen=True)
class Case:
    """A case in which a method is the one to take: a row of the table of docs/advice.md.

    The rows of all methods are asked in the order of their `rank`, and the first that `fits` wins. `why` says it in
    words with the situation's numbers, `doubts` what speaks against it, `then` are the methods of the stages after.
    """

    rank: int
    name: str
    fits: Callable[[Situation], bool]
    why: Callable[[Situation], str]
    then: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Advice:
    """When to take a method, and how.

    Attributes:
        cases: in which it is recommended.
        instead_of: the methods beside whose recommendation it is named as an alternative.
        gains: what it would gain and cost there. A method for labels is named wherever there are rows for it.
        doubts: what speaks against it; where studies contradict the folklore, it stands here.
        settings: from an objective with its defaults and a subject, the hyperparameters to begin with, each with its
            source; a `learning_rate` among them takes the place of the method's own.
    """

    cases: tuple[Case, ...] = ()
    instead_of: tuple[str, ...] = ()
    gains: str = ""
    doubts: tuple[str, ...] = ()
    settings: Callable[[Any, Subject], list[Setting]] = lambda objective, subject: []  # nothing but its defaults
