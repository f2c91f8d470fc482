"""The table that chooses a method: its rows in order of precedence, the first that fits wins.

Thresholds and precedence are those of docs/advice.md; what studies say against a row stands in `claims`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Goal = Literal["quick", "robust", "ceiling"]

NOISY = 0.1  # the flip rate above which robust DPO is worth its variance
FEW_PAIRS = 500
LABELS_DOMINATE = 10  # times as many labels as pairs
PAIRS_DOMINATE = 5  # times as many pairs as labels
GUESSED_FLIP_RATE = 0.1  # where robustness is asked for and nothing tells the rate


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
    def both(self) -> bool:
        """Whether both kinds are worth a stage."""
        return self.labels > 0 and not self.labels_dominate and self.pairs < PAIRS_DOMINATE * self.labels


@dataclass(frozen=True)
class TableRow:
    """A row of the table: when it fits, the methods of its stages in order, and why, in words with the situation's
    numbers.
    """

    name: str
    methods: tuple[str, ...]
    fits: Callable[[Situation], bool]
    why: Callable[[Situation], str]


TABLE: tuple[TableRow, ...] = (
    TableRow(
        "labels only",
        ("kto",),
        lambda known: known.pairs == 0,
        lambda known: f"{known.labels:,} single answers with a thumb and no pairs: KTO learns from labels",
    ),
    TableRow(
        "memory too tight for a reference",
        ("simpo",),
        lambda known: not known.has_reference,
        lambda known: "no reference can be scored, not even beforehand: SimPO needs none",
    ),
    TableRow(
        "labels dominate",
        ("kto",),
        lambda known: known.labels_dominate,
        lambda known: (
            f"{known.labels:,} labels against {known.pairs:,} pairs, at least {LABELS_DOMINATE} times as many: KTO on "
            "the labels; the pairs would hardly be noticed"
        ),
    ),
    TableRow(
        "quick validation",
        ("dpo",),
        lambda known: known.goal == "quick",
        lambda known: "a quick check whether these preferences can be learnt: DPO, with LoRA and few steps",
    ),
    TableRow(
        "both kinds, noisy",
        ("robust", "kto"),
        lambda known: known.both and known.noisy,
        lambda known: (
            f"{known.pairs:,} pairs and {known.labels:,} labels: pairs first, then KTO on the labels; robust DPO for "
            f"the pairs, since {known.flip_rate:.1%} of them are the wrong way round"
        ),
    ),
    TableRow(
        "both kinds",
        ("dpo", "kto"),
        lambda known: known.both,
        lambda known: f"{known.pairs:,} pairs and {known.labels:,} labels: DPO on the pairs, then KTO on the labels",
    ),
    TableRow(
        "noisy or contradictory",
        ("robust",),
        lambda known: known.noisy or known.goal == "robust",
        lambda known: (
            f"{known.flip_rate:.1%} of the pairs are estimated to be the wrong way round: robust DPO takes that into "
            "account"
            if known.flip_rate
            else f"robustness was asked for, and nothing tells the flip rate: {GUESSED_FLIP_RATE:.0%} is a guess"
        ),
    ),
    TableRow(
        "a few hundred pairs",
        ("ipo",),
        lambda known: known.pairs < FEW_PAIRS,
        lambda known: f"{known.pairs:,} pairs, under {FEW_PAIRS}: IPO, whose margin stops at a target",
    ),
    TableRow(
        "many pairs",
        ("dpo",),
        lambda known: True,
        lambda known: f"{known.pairs:,} pairs: DPO, the method with the most experience behind it",
    ),
)


@dataclass(frozen=True)
class Choice:
    """The row that was used, its methods and its reasons. `online` where the goal is the ceiling: the methods are then
    what comes before, or stands in for, online training.
    """

    row: str
    methods: tuple[str, ...]
    reasons: tuple[str, ...]
    online: bool = False


def choose(known: Situation) -> Choice:
    """The method for a situation."""
    row = next(row for row in TABLE if row.fits(known))
    reasons = [row.why(known)]
    if row.methods != ("kto",) and known.labels and not known.both:
        share = "aside" if known.pairs >= PAIRS_DOMINATE * known.labels else "to a later stage"
        reasons.append(f"the {known.labels:,} labels are left {share}: {known.pairs:,} pairs say more")
    if known.goal != "ceiling":
        return Choice(row.name, row.methods, tuple(reasons))
    first = (
        "the highest that can be reached is an online method (GRPO, PPO): the policy writes, a reward judges, and it "
        "learns from its own answers. Online training is not built here; the run below is the offline start for it"
    )
    return Choice("ceiling", row.methods, (first, *reasons), online=True)
