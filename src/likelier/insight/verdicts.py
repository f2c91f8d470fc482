"""What a diagnosis gives back: verdicts with stable names, the numbers that led to them, and what to try."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

Severity = Literal["info", "good", "warning", "error"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)


@dataclass(frozen=True)
class Verdict:
    """One thing that can be said of a run.

    `evidence` are pairs of what was looked at and its numbers in words. `meaning` says what follows from them, `advice`
    what to try, the most promising first. Names of tokens in the evidence come from data: escape them in HTML.
    """

    name: str
    severity: Severity
    title: str
    evidence: tuple[tuple[str, str], ...]
    meaning: str
    advice: tuple[str, ...] = ()

    @property
    def is_bad(self) -> bool:
        """Whether something should be done."""
        return self.severity in ("warning", "error")

    def as_json(self) -> dict[str, Any]:
        """The verdict with its stable names."""
        return {
            "name": self.name,
            "severity": self.severity,
            "title": self.title,
            "evidence": [{"what": what, "numbers": numbers} for what, numbers in self.evidence],
            "meaning": self.meaning,
            "advice": list(self.advice),
        }


def worst_first(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """Errors, warnings, what is good, remarks; within one severity in the order of the checks."""
    return sorted(verdicts, key=lambda verdict: -SEVERITIES.index(verdict.severity))
