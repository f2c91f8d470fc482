"""A benchmark of the run stands in its report: a tile, and a line for each task."""

import json
from pathlib import Path
from shutil import copytree

import pytest

from likelier.insight.report.page import report_page
from likelier.runs.reader import read_run
from tests.helpers.small_runs import SmallRuns

FIGURE = {"value": 0.9, "low": 0.8, "high": 0.95}
TASK = {
    "task": "small<sums>",
    "metric": "acc",
    "items": 60,
    "before": FIGURE,
    "after": FIGURE | {"value": 0.7},
    "difference": {"value": -0.2, "low": -0.3, "high": -0.1},
}


@pytest.mark.slow
def test_a_benchmark_has_a_tile_and_a_section(runs: SmallRuns, tmp_path: Path) -> None:
    copytree(runs.adapter, tmp_path / "run")
    assert 'id="elsewhere"' not in report_page(read_run(tmp_path / "run"))
    content = {"tasks": [TASK], "seconds": 3.0}
    (tmp_path / "run" / "benchmark.json").write_text(json.dumps(content), encoding="utf-8")
    page = report_page(read_run(tmp_path / "run"))
    assert 'id="elsewhere"' in page and "1 worse, 0 better, 0 alike" in page
    assert "small&lt;sums&gt;: -20.0 [-30.0, -10.0], n = 60" in page and "small<sums>" not in page
