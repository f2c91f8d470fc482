"""The account of a run's data, audit.json, as its readers see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from likelier.runs.shapes import NUMBER, TEXT, checked, made, shape_of


@dataclass(frozen=True)
class Finding:
    """Something about the data; `count` rows or pairs, with a few places."""

    name: str = ""
    severity: str = ""
    summary: str = ""
    why: str = ""
    mend: str = ""
    count: int | None = None
    examples: tuple[str, ...] = ()
    details: Annotated[Mapping[str, Any], {"mean_preferred": NUMBER, "mean_other": NUMBER, "rule": TEXT}] = field(
        default_factory=dict
    )


@dataclass(frozen=True)
class Noise:
    """The share of labels that are the other way round, and the accuracy that no model can surpass on them."""

    ceiling: float | None = None
    flip_rate: float | None = None


@dataclass(frozen=True)
class Statistics:
    """Numbers of the audit."""

    noise: Noise = Noise()


@dataclass(frozen=True)
class Audit:
    """The audit of the rows that were used."""

    verdict: str = ""
    findings: tuple[Finding, ...] = ()
    statistics: Statistics = Statistics()


@dataclass(frozen=True)
class Account:
    """Which rows could not be used, and the audit of the others."""

    findings: tuple[Finding, ...] = ()
    audit: Audit = Audit()


ACCOUNT = shape_of(Account)


def checked_account(content: Any, file: object) -> Account:
    """The content of audit.json. Raises as `checked`."""
    return made(Account, checked(content, ACCOUNT, file))
