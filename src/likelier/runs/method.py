"""What a run's card says of its method: all that readers of a run need to know, so that none asks for its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class MethodFacts:
    """The block `objective` of run.json: `Objective.facts`, as the run recorded it."""

    source: str = ""
    items: str = "pairs"
    strength: str = "beta"
    strength_from_data: bool = False
    needs_reference: bool = True
    rewards_per_token: bool = False
    has_baseline: bool = False
    has_target: bool = False
    lowers_both: bool = False
    satisfied_at: float | None = None
    per_token: bool = False


def method_facts(card: Mapping[str, Any]) -> MethodFacts:
    """The facts of a run's method. A card from before they were recorded has those that its method has today, or
    where it names none that is known, the usual ones.
    """
    recorded = card.get("objective") or _facts_by_name(card)
    known = {item.name for item in fields(MethodFacts)}
    return MethodFacts(**{name: value for name, value in recorded.items() if name in known and value is not None})


def _facts_by_name(card: Mapping[str, Any]) -> dict[str, Any]:
    from likelier.objectives import METHODS  # brings torch, which a reader does without

    kind = METHODS.get(str(card.get("method")))
    if kind is None:
        return {}
    scale = card.get("reward_scale")  # which is the strength, told also where hyperparameters are not
    given = dict(card.get("hyperparameters") or {}) | ({kind.strength: scale} if scale else {})
    try:
        return kind(**given).facts()
    except (TypeError, ValueError):
        return {}
