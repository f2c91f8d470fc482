"""The studies' harness: cells are computed once, and rules decide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from studies import harness
from studies.harness import Claim, Results, Study, Table, computed, read
from studies.judging import Case, between, compared, lies, table
from studies.plots import Plot, drawn, line

CASES = {"small": Case({"size": 1}), "large": Case({"size": 2})}


def made(calls: list[tuple[int, int]], version: int = 1, **more: Any) -> Study:
    def run(setting: Mapping[str, Any], seed: int, quick: bool) -> dict[str, Any]:
        calls.append((setting["size"], seed))
        return {"value": setting["size"] + 0.1 * seed + 1e-9, "other": 1.0, "none": None}

    claims = [Claim("Size matters.", "everybody", "above 1.5", lies(CASES, "value", 1.5))]
    sizes = [{"size": 1}, {"size": 2}]
    study = Study("s99", "A study", "About it.", version, sizes, 3, run, claims, lambda _: [], lambda _: [], setup="")
    return replace(study, **more)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(harness, "FOLDER", tmp_path)
    return tmp_path


def test_a_cell_is_computed_once(folder: Path) -> None:
    calls: list[tuple[int, int]] = []
    first = computed(made(calls), folder, seeds=2)
    assert calls == [(1, 0), (2, 0), (1, 1), (2, 1)]
    again = computed(made(calls), folder)
    assert calls[4:] == [(1, 2), (2, 2)] and again.cells[:4] == first.cells
    computed(made(calls), folder, again=True)
    assert len(calls) == 12


def test_another_version_takes_no_cell_of_the_one_before(folder: Path) -> None:
    calls: list[tuple[int, int]] = []
    computed(made(calls), folder, seeds=1)
    assert read(made(calls, version=2)) == {"cells": []}


def test_what_stops_in_the_midst_goes_on_there(folder: Path) -> None:
    calls: list[tuple[int, int]] = []

    def breaks(setting: Mapping[str, Any], seed: int, quick: bool) -> dict[str, Any]:
        if seed == 1:
            raise KeyboardInterrupt
        return {"value": 1.0}

    with pytest.raises(KeyboardInterrupt):
        computed(made(calls, run=breaks), folder)
    computed(made(calls), folder, seeds=2)
    assert calls == [(1, 1), (2, 1)]


def test_quick_is_one_seed_and_reads_nothing(folder: Path) -> None:
    calls: list[tuple[int, int]] = []
    computed(made(calls), folder)
    found = computed(made(calls, quick=[{"size": 2}]), folder / "scratch", quick=True)
    assert calls[6:] == [(2, 0)] and len(found.cells) == 1


def results(**values: list[float]) -> Results:
    sizes = {"small": 1, "large": 2}
    cells = [
        {"setting": {"size": sizes[name]}, "seed": seed, "found": {"value": value, "other": 1.0}}
        for name, column in values.items()
        for seed, value in enumerate(column)
    ]
    return Results(cells)


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ({"small": [2.0, 2.1, 1.9], "large": [3.0, 3.1, 2.9]}, "holds"),
        ({"small": [1.0, 1.1, 0.9], "large": [3.0, 3.1, 2.9]}, "holds where large"),
        ({"small": [1.0, 1.1, 0.9], "large": [1.4, 3.1, 0.9]}, "fails"),  # its interval holds the bound
        ({"small": [2.0]}, "fails"),  # one seed is no evidence
        ({}, "unknown"),
    ],
)
def test_a_rule_decides(values: dict[str, list[float]], verdict: str) -> None:
    assert Claim("", "", "", lies(CASES, "value", 1.5)).verdict(results(**values))["verdict"] == verdict


def test_differences_are_taken_seed_by_seed() -> None:
    found = results(small=[2.0, 4.0, 6.0])
    ((holds, words),) = compared(CASES, "value", "other", 0.0)(found).values()
    assert not holds and words.startswith("3 [")  # 1, 3, 5: wide
    assert found.difference("value", "missing", size=1) is None


def test_two_settings_are_compared_seed_by_seed() -> None:
    found = results(small=[1.0, 2.0, 3.0, 9.0], large=[2.1, 3.0, 4.1])  # a seed that one of them lacks is left out
    cases = {"larger": (CASES["large"], CASES["small"]), "none": (CASES["large"], Case({"size": 3}))}
    ((label, (holds, words)),) = between(cases, "value", 0.9)(found).items()
    assert label == "larger" and holds and words.startswith("1.07 [")
    assert not between(cases, "value", 1.0)(found)["larger"][0]


def test_a_share_of_runs_is_never_sure() -> None:
    mean = results(small=[1.0, 1.0, 1.0]).mean("value", size=1)
    assert mean.value == mean.high == 1 and 0.4 < mean.low < 0.5


def test_a_table_has_a_dash_where_nothing_was_found() -> None:
    columns = {"small": {"": CASES["small"]}, "large": {"": CASES["large"], "other": CASES["small"]}}
    made = table(results(small=[3.0]), "t", {"value": "v", "other": "o"}, columns)
    assert made == Table("t", ["", "small", "large"], [["v", "3", "-"], ["o", "1", "1"]])


def test_a_plot_stands_alone() -> None:
    found = results(small=[1.0, 2.0], large=[2.0, 4.0])
    means = {size: CASES[name].mean(found, "value") for size, name in ((1, "small"), (2, "large"), (3, "large"))}
    svg = drawn(Plot("p", "Sizes & values", "size", "value", [line("a < b", means)]))
    assert svg.startswith("<svg ") and 'xmlns="http://www.w3.org/2000/svg"' in svg
    assert "prefers-color-scheme: dark" in svg and "a &lt; b" in svg and 'aria-label="Sizes &amp; values"' in svg
