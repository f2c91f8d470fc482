"""`likelier benchmark`: both models asked alike, what differs item by item, and what is missing told at once."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from likelier.cli import main as cli
from likelier.experiments.benchmark import harness, items
from likelier.experiments.benchmark.harness import Metric
from likelier.experiments.benchmark.run import results
from likelier.runs.benchmark import read_benchmark
from likelier.utils.errors import ConfigError, RunFolderError
from tests.helpers.small_runs import SmallRuns

TASK = """task: three_words
custom_dataset: !function three.words
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: choices
doc_to_target: right
metric_list:
  - metric: acc
"""
CODE = """from datasets import Dataset, DatasetDict
ROWS = [{"question": word, "choices": ["yes", "no"], "right": 0} for word in ("mat", "red", "blue")]
def words(**_):
    return DatasetDict({"test": Dataset.from_list(ROWS)})
"""


@pytest.fixture
def task(tmp_path: Path) -> Path:
    (tmp_path / "three.py").write_text(CODE, encoding="utf-8")
    (tmp_path / "three.yaml").write_text(TASK, encoding="utf-8")
    return tmp_path / "three.yaml"


def test_a_missing_harness_is_named_before_anything_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(harness, "find_spec", lambda _: None)
    assert cli.main(["benchmark", "no-such-run"]) == 2
    assert "needs the package lm_eval" in (told := capsys.readouterr().err) and "likelier[benchmark]" in told


def test_differences_are_of_the_same_items() -> None:
    one, two = Metric("sums", "acc", "none"), Metric("length", "words", "cut")
    before = {one: {item: float(item < 90) for item in range(100)}, two: {0: 5.0, 1: 7.0, 9: 1.0}}
    after = {one: {item: float(item < 60) for item in range(100)}, two: {1: 9.0, 0: 8.0}}
    sums, length = results(before, after, {("length", "words"): False})
    assert (sums.items, sums.before.value, sums.after.value) == (100, 0.9, 0.6)
    assert sums.difference.value == pytest.approx(-0.3) and sums.change == "worse" and sums.is_share
    assert sums.words(sums.difference, signed=True).startswith("-30.0 [")
    assert (length.metric, length.items, length.is_share) == ("words (cut)", 2, False)
    assert length.difference.value == 2.5 and length.change == "alike"


def test_one_item_has_no_interval() -> None:
    found = results({Metric("t", "m", "none"): {0: 3.0}}, {Metric("t", "m", "none"): {0: 9.0}}, {})[0]
    assert (found.difference.low, found.change, found.words(found.after)) == (None, "alike", "9")


@pytest.mark.parametrize(
    ("make", "count"),
    [(items.arithmetic, 60), (items.facts, 72), (items.formats, 70), (items.harmful, 40), (items.harmless, 40)],
)
def test_the_default_items_are_many_and_different(make: Callable[[], Any], count: int) -> None:
    rows = make()["test"].to_list()
    assert len(rows) == count == len({row["question"] for row in rows})
    for row in rows:
        assert "choices" not in row or len(set(row["choices"])) == len(row["choices"]) == 2


@pytest.mark.parametrize(
    ("start", "answer", "is_right"),
    [
        ("Write the word river", "RIVER", True),
        ("Write the word river", "The word is RIVER", False),
        ("Answer with yes or no only: can a fish", "Yes.", True),
        ("Answer with yes or no only: can a fish", "Yes, it can.", False),
        ("Write exactly three fruits", "apple, pear, plum", True),
        ("Write exactly three fruits", "apple, pear, plum, fig", False),
        ("Write a JSON object", '{"name": "Anna"}', True),
        ("Write one line about rain", "- It falls.", True),
        ("Put the word apple", "[apple]", True),
        ("Put the word apple", "apple", False),
    ],
)
def test_a_format_is_followed_or_not(start: str, answer: str, is_right: bool) -> None:
    rows: Any = items.formats()["test"]
    doc = next(row for row in rows if row["question"].startswith(start))
    assert items.follows(doc, [f"{answer}\n"]) == {"acc": float(is_right)}


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    assert read_benchmark(tmp_path) is None
    (tmp_path / "benchmark.json").write_text('{"tasks": [{"task": 3}], "seconds": 1}', encoding="utf-8")
    with pytest.raises(RunFolderError, match=r"benchmark\.json is damaged"):
        read_benchmark(tmp_path)


@pytest.mark.slow  # the harness binds a socket when it is imported
@pytest.mark.filterwarnings("ignore")  # the harness's own
def test_a_task_that_is_not_there_is_told_with_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lm_eval", reason="lm_eval is not installed (extra benchmark)")
    from lm_eval import tasks

    class Manager:
        all_tasks = ("hellaswag",)

        def __init__(self, **_: object) -> None: ...

    monkeypatch.setattr(tasks, "TaskManager", Manager)
    with pytest.raises(ConfigError, match=r"no task 'helaswag': .* did you mean hellaswag\?"):
        harness.load_tasks(["helaswag"], with_default=False)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the harness's own
@pytest.mark.parametrize("kind", ["adapter", "whole"])
def test_a_run_is_benchmarked(runs: SmallRuns, task: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("lm_eval", reason="lm_eval is not installed (extra benchmark)")
    run = getattr(runs, kind)
    try:
        assert cli.main(["benchmark", str(run), "--tasks", str(task), "--without-default"]) == 0
        printed = capsys.readouterr().out
        assert "three_words" in printed and "95 % intervals" in printed
        found = json.loads((run / "benchmark.json").read_text(encoding="utf-8"))
        assert [(one["task"], one["metric"], one["items"]) for one in found["tasks"]] == [("three_words", "acc", 3)]
        assert found["tasks"][0].keys() >= {"before", "after", "difference"} and found["chat_template"] is True
        known = read_benchmark(run)
        assert known is not None and [one.task for one in known.tasks] == ["three_words"]
    finally:
        (run / "benchmark.json").unlink(missing_ok=True)
