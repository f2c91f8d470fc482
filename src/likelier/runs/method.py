"""What a run's card says of its method: all that readers of a run need to know, so that none asks for its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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
    writes_answers: bool = False
    reads_values: bool = False
    compares_answers: bool = True

    @property
    def strength_flag(self) -> str:
        """The strength as it is typed."""
        return f"--{self.strength.replace('_', '-')}"


def facts_by_name(method: str | None, scale: float | None, hyperparameters: Mapping[str, Any]) -> MethodFacts:
    """The facts that a method has today; those of the usual one where no such method is known, or where it takes other
    hyperparameters. `scale` is that of its rewards, which is the strength, told also where hyperparameters are not.
    """
    from likelier.objectives import METHODS  # brings torch, which a reader does without

    kind = METHODS.get(str(method))
    if kind is None:
        return MethodFacts()
    try:
        found = kind.of(hyperparameters)
        found = kind.of({**hyperparameters, found.strength: scale}) if scale else found
        facts = found.facts()
    except (TypeError, ValueError):
        return MethodFacts()
    return MethodFacts(**facts)
