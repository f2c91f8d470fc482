"""The page of studies is what their files say, and every study runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from studies import harness, page, s19
from studies.harness import Results, Study, computed, read
from studies.plots import drawn


def test_the_page_is_what_the_files_say() -> None:
    assert page.PAGE.read_text(encoding="utf-8") == page.page()


def test_what_was_not_computed_is_named_and_judged_by_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "FOLDER", tmp_path)
    made = page.page()
    assert "Not computed yet: S18C: " in made and "(`python -m studies.s18c`)" in made and "*Holds" not in made


def test_a_study_is_judged_when_all_of_it_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read(s19.STUDY)
    monkeypatch.setattr(harness, "FOLDER", tmp_path)
    s19.STUDY.file.write_text(json.dumps({**whole, "cells": whole["cells"][1:]}))
    made, count = page.page([s19.STUDY]), len(whole["cells"])
    assert f"(`python -m studies.s19`), {count - 1} of {count} cells so far" in made and "The rule:" not in made


@pytest.mark.parametrize("study", page.STUDIES, ids=lambda study: study.name)
def test_every_plot_of_the_page_is_there(study: Study) -> None:
    if len(cells := read(study)["cells"]) < study.seeds * len(study.settings):
        return  # the page names it as one that was not computed
    for plot in study.plots(Results(cells)):
        assert (page.FOLDER / f"{study.name}-{plot.name}.svg").read_text(encoding="utf-8") == drawn(plot)


@pytest.mark.slow
@pytest.mark.parametrize("study", page.STUDIES, ids=lambda study: study.name)
def test_a_quick_study_runs_to_its_verdicts(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIKELIER_CACHE", str(tmp_path / "cache"))
    found = computed(study, tmp_path, quick=True)
    assert len(found.cells) == len(study.quick)
    verdicts = [claim.verdict(found) for claim in study.claims]
    assert verdicts and any(verdict["numbers"] for verdict in verdicts)
    assert all(table.rows for table in study.tables(found)) and list(tmp_path.glob("*.svg"))


@pytest.mark.parametrize("study", page.STUDIES, ids=lambda study: study.name)
def test_a_study_is_short(study: Study) -> None:
    file = Path(harness.__file__).with_name(f"{study.name}.py")
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 150
