"""A report answers first whether it worked and whether its numbers can be trusted, with interval and count."""

import re
from pathlib import Path
from typing import Any

import pytest

from likelier.insight.diagnose import diagnose
from likelier.insight.report.account import tiles
from likelier.insight.report.answers import replies
from likelier.insight.report.page import report_page
from likelier.runs.reader import Run, read_run
from likelier.utils.statistics import wilson
from tests.helpers.report_runs import SECTIONS, write_run
from tests.helpers.runs_by_hand import a_run, a_step, growing


def held_out(right: float, items: int = 400, **more: float) -> list[dict[str, Any]]:
    """Evaluations before and after, with this accuracy after."""
    low, high = wilson(right * items, items)
    interval = {"pair_accuracy_low": low, "pair_accuracy_high": high, "items": float(items)}
    start = {"step": 0, "loss": 0.69, "ranking_accuracy": 0.5, "items": float(items)}
    return [
        start,
        {"step": 12, "loss": 0.5, "pair_accuracy": right, "ranking_accuracy": 0.7, "rewards/margins": 0.9}
        | interval
        | more,
    ]


def said(run: Run) -> list[str]:
    return [one.said for one in replies(run, diagnose(run))]


def test_the_two_questions() -> None:
    assert said(a_run(growing(), held_out(0.8))) == ["Yes", "Yes"]
    assert said(a_run(growing(), held_out(0.53))) == ["Not shown", "With care"]
    assert said(a_run(growing(), held_out(0.8, 120))) == ["Yes", "Roughly"]
    assert said(a_run(growing(), held_out(0.9, 20))) == ["Yes", "Hardly"]
    assert said(a_run([a_step(n, 0.0, 0.0) for n in range(1, 40)], held_out(0.5))) == ["No", "Yes"]
    assert said(a_run(growing())) == ["Yes", "Not beyond its own rows"]
    assert said(a_run(growing(), status="training"))[0] == "Not known yet"
    assert said(a_run(growing(), held_out(0.8), status="failed", error="memory ran out"))[0] == "No"


def test_faults_of_the_model_and_of_the_numbers_are_told_apart() -> None:
    sinks = a_run(growing(chosen=-0.2, rejected=-0.4), held_out(0.8))
    assert said(sinks) == ["In part", "Yes"]
    lost = {"train": {"groups": 60, "unusable": 40}}
    assert said(a_run(growing(), held_out(0.8), data=lost)) == ["Yes", "With care"]


@pytest.mark.parametrize("right", [0.8, 0.53])
def test_interval_and_count_stand_in_the_answers_and_the_tiles(right: float) -> None:
    run = a_run(growing(), held_out(right, kl=-0.1, kl_per_token=-0.01, kl_standard_error=0.2))
    worked, trusted = replies(run, diagnose(run))
    assert re.search(r"\(\d[\d.]* % to \d[\d.]* %\), n = 400 pairs", worked.because)
    assert "n = 400 pairs tell the accuracy to within" in trusted.because
    shown = {name: (value, sure) for name, value, sure in tiles(run)}
    assert re.search(r" to .*n = 400", shown["held-out accuracy"][1])
    assert shown["KL in nats"][0] == "about 0" and "not distinguishable from 0" in shown["KL in nats"][1]


def test_the_page_begins_with_them_and_tells_what_was_left_out_before_the_charts(tmp_path: Path) -> None:
    card = {
        "status": "done",
        "method": "dpo",
        "reward_scale": 0.1,
        "hyperparameters": {"beta": 0.1, "nll_weight": 0.0},
        "data": {"train": {"groups": 74, "unusable": 26}},
    }
    rows = [{f"eval_{name}" if name != "step" else name: value for name, value in row.items()} for row in held_out(0.8)]
    audit = {"findings": [{"name": "over-max-length", "severity": "", "summary": "", "count": 26}]}
    page = report_page(read_run(write_run(tmp_path / "run", card, [*growing(), *rows], audit=audit)))
    places = [page.index(f'id="{name}"') for name in ("replies", *SECTIONS)]
    assert places == sorted(places)
    order = [name for name in SECTIONS if name in ("dropped", "results", "answers", "curves")]
    assert order == ["dropped", "results", "answers", "curves"]
    first = page[places[0] : places[1]]
    assert "Did it work?" in first and "Can I trust it?" in first and "n = 400 pairs" in first
    dropped = page[page.index('id="dropped"') : page.index('id="results"')]
    assert "over-max-length" in dropped and ">26<" in dropped
