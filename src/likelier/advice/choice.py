"""The choice of a method: the rows that the methods say they fit, in order of precedence; the first that fits wins."""

from __future__ import annotations

from dataclasses import dataclass

from likelier.objectives import METHODS
from likelier.objectives.advice import PAIRS_DOMINATE, Case, Situation

_ONLINE = (
    "the highest that can be reached is an online method (GRPO, PPO): the policy writes, a reward judges, and it "
    "learns from its own answers. Online training is not built here; the run below is the offline start for it"
)
_ONLINE_DOUBT = (
    "online methods lead most tables, with a good reward and a budget for sampling; with a poor reward they learn "
    "to please it"
)


@dataclass(frozen=True)
class Choice:
    """The row that was used, its methods, its reasons and its doubts. `online` where the goal is the ceiling: the
    methods are then what comes before, or stands in for, online training.
    """

    row: str
    methods: tuple[str, ...]
    reasons: tuple[str, ...]
    doubts: tuple[str, ...]
    online: bool = False


def table() -> list[tuple[str, Case]]:
    """Every case of every method, in order of precedence."""
    rows = [(method, case) for method, objective in METHODS.items() for case in objective.advice.cases]
    return sorted(rows, key=lambda row: row[1].rank)


def learn_from_labels(methods: tuple[str, ...]) -> bool:
    """Whether all of these methods learn from labels."""
    return all(METHODS[method].data == "labels" for method in methods)


def choose(known: Situation) -> Choice:
    """The method for a situation."""
    first, case = next(row for row in table() if row[1].fits(known))
    methods, reasons = (first, *case.then), [case.why(known)]
    if not learn_from_labels(methods) and known.labels and not known.both:
        share = "aside" if known.pairs >= PAIRS_DOMINATE * known.labels else "to a later stage"
        reasons.append(f"the {known.labels:,} labels are left {share}: {known.pairs:,} pairs say more")
    doubts = tuple(doubt for method in methods for doubt in METHODS[method].advice.doubts)
    if known.goal != "ceiling":
        return Choice(case.name, methods, tuple(reasons), (*case.doubts, *doubts))
    return Choice("ceiling", methods, (_ONLINE, *reasons), (_ONLINE_DOUBT, *doubts), online=True)
