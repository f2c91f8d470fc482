"""What an audit gives back: findings with stable names, statistics, and a verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from likelier.data.audit.catalogue import entry_of
from likelier.data.records import Source

Severity = Literal["info", "warning", "error"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
EXAMPLES = 10


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    `count` is in the unit that the catalogue names. `examples` are the first places, each "file:line"; `related` says
    for each example which other place it is about (the row that it repeats), where there is one. `records` are the
    numbers of the records and `sources` the places of the unusable rows that `--drop` with this name takes out.
    `quotes` holds text of the data, filled only where it was asked for.
    """

    name: str
    count: int
    severity: Severity
    summary: str
    examples: tuple[str, ...] = ()
    related: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    quotes: tuple[str, ...] = ()
    records: tuple[int, ...] = ()
    sources: tuple[Source, ...] = ()

    @property
    def why(self) -> str:
        """Why it matters."""
        return entry_of(self.name).why

    @property
    def mend(self) -> str:
        """What to do about it."""
        return str(self.details.get("mend") or entry_of(self.name).mend)

    def as_json(self) -> dict[str, Any]:
        """The finding with its stable names."""
        details = {name: value for name, value in self.details.items() if name != "mend"}
        found = {
            "name": self.name,
            "count": self.count,
            "severity": self.severity,
            "summary": self.summary,
            "examples": list(self.examples),
            "why": self.why,
            "mend": self.mend,
            "details": details,
        }
        more = {"related": list(self.related), "quotes": list(self.quotes)}
        return found | {name: value for name, value in more.items() if value}


def severity_of(name: str, share: float) -> Severity:
    """How bad it is that a finding concerns this share of the rows."""
    entry = entry_of(name)
    if share > entry.error_above:
        return "error"
    return "warning" if share > entry.warning_above else "info"


def places(sources: Iterable[object]) -> tuple[str, ...]:
    """The first places as text."""
    return tuple(str(source) for _, source in zip(range(EXAMPLES), sources, strict=False))


@dataclass(frozen=True)
class Audit:
    """What an audit found: `rows` in the file, those `usable` for training, findings (the worst first), statistics."""

    rows: int
    usable: int
    kind: str
    findings: tuple[Finding, ...]
    statistics: Mapping[str, Any]
    name: str = ""
    format: str = ""

    @property
    def severity(self) -> Severity | None:
        """The worst severity; None where nothing was found."""
        levels = [SEVERITIES.index(finding.severity) for finding in self.findings]
        return SEVERITIES[max(levels)] if levels else None

    @property
    def verdict(self) -> str:
        """One or two sentences."""
        names = {
            level: [finding.name for finding in self.findings if finding.severity == level] for level in SEVERITIES
        }
        begin = {
            None: "Clean: no check found anything.",
            "info": "Good: nothing that needs mending.",
            "warning": f"Usable, but look first at {_listed(names['warning'])}.",
            "error": f"Not ready for training: mend {_listed(names['error'])}.",
        }[self.severity]
        more = _listed(names["warning"]) if self.severity == "error" and names["warning"] else ""
        ceiling = self.statistics.get("noise", {}).get("ceiling")
        limit = f" No model can agree with more than {ceiling:.1%} of the labels." if ceiling and ceiling < 1 else ""
        return begin + (f" Look also at {more}." if more else "") + limit

    def finding(self, name: str) -> Finding | None:
        """The finding of this name, if there is one."""
        return next((finding for finding in self.findings if finding.name == name), None)

    def at_least(self, severity: Severity, without: Iterable[str] = ()) -> list[Finding]:
        """The findings at or above a severity, some names left out."""
        level, out = SEVERITIES.index(severity), set(without)
        return [one for one in self.findings if SEVERITIES.index(one.severity) >= level and one.name not in out]

    def as_json(self) -> dict[str, Any]:
        """The whole audit with its stable names."""
        return {
            "file": self.name,
            "format": self.format,
            "kind": self.kind,
            "rows": self.rows,
            "usable": self.usable,
            "severity": self.severity,
            "verdict": self.verdict,
            "findings": [finding.as_json() for finding in self.findings],
            "statistics": dict(self.statistics),
        }


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1] if names else ""
