"""Rules that several studies judge by, and tables that they show: always of means over seeds, with their interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

from likelier.utils.statistics import Mean
from studies.harness import Results, Table, told

Judge = Callable[[Results], Mapping[str, tuple[bool, str]]]


@dataclass(frozen=True)
class Case:
    """Where a number is looked up: in cells of this `setting`, under its name with `suffix`."""

    setting: Mapping[str, Any]
    suffix: str = ""

    def mean(self, results: Results, name: str) -> Mean | None:
        """Over the seeds; None where no cell has it."""
        whole = name + self.suffix
        return results.mean(whole, **self.setting) if results.has(whole, **self.setting) else None

    def difference(self, results: Results, name: str, other: str) -> Mean | None:
        """Of two numbers of the same cells."""
        return results.difference(name + self.suffix, other + self.suffix, **self.setting)


def lies(cases: Mapping[str, Case], name: str, low: float, high: float = inf) -> Judge:
    """In each case: whether the number's whole interval lies between the bounds."""
    return lambda results: _judged({label: case.mean(results, name) for label, case in cases.items()}, low, high)


def compared(cases: Mapping[str, Case], name: str, other: str, low: float, high: float = inf) -> Judge:
    """In each case: whether the whole interval of how far one number is above another lies between the bounds."""
    return lambda results: _judged(
        {label: case.difference(results, name, other) for label, case in cases.items()}, low, high
    )


def between(cases: Mapping[str, tuple[Case, Case]], name: str, low: float, high: float = inf) -> Judge:
    """In each case: whether the whole interval of how far the number is above that of another setting, seed by seed,
    lies between the bounds.
    """

    def apart(results: Results, one: Case, other: Case) -> Mean | None:
        return results.between(name + one.suffix, one.setting, other.setting)

    return lambda results: _judged({label: apart(results, *both) for label, both in cases.items()}, low, high)


def _judged(means: Mapping[str, Mean | None], low: float, high: float) -> dict[str, tuple[bool, str]]:
    return {case: (low < mean.low and mean.high < high, told(mean)) for case, mean in means.items() if mean is not None}


def table(results: Results, title: str, rows: Mapping[str, str], columns: Mapping[str, Mapping[str, Case]]) -> Table:
    """Numbers by name (`rows`: their words) in the case of every column: the row's own there, else that of the empty
    name.
    """
    found = []
    for name, words in rows.items():
        means = [(cases.get(name) or cases[""]).mean(results, name) for cases in columns.values()]
        found.append([words, *("-" if mean is None else told(mean) for mean in means)])
    return Table(title, ["", *columns], found)
