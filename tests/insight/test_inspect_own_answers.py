"""Answers that a run wrote itself, token by token; and what other commands make of such a run."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from likelier.cli import main as cli
from likelier.runs.reader import read_run
from tests.helpers.online_runs import OnlineRuns
from tests.helpers.small_runs import forget_files


def inspected(capsys: pytest.CaptureFixture[str], *words: Any) -> dict[str, Any]:
    capsys.readouterr()
    assert cli.main(["inspect", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def rows_of(run: Path) -> list[int]:
    """Numbers of the rows that the last kept step learnt from."""
    return [int(group.source.rpartition(":")[2]) for group in read_run(run).rollouts()[-1].groups]


@pytest.mark.parametrize("name", ["adapter", "whole"])
def test_rollouts_token_by_token(name: str, online_runs: OnlineRuns, capsys: pytest.CaptureFixture[str]) -> None:
    run = getattr(online_runs, name)
    last = read_run(run).rollouts()[-1]
    found = inspected(capsys, run, "--row", rows_of(run)[0])
    answers = found["answers"]
    assert [one["which"] for one in answers] == [f"step {last.step}, answer {number}" for number in range(1, 5)]
    for one, kept in zip(answers, last.groups[0].answers, strict=True):
        assert [token["id"] for token in one["tokens"]] == kept.ids and one["length"] == kept.tokens
        assert (one["reward"], one["advantage"]) == (kept.reward, kept.advantage)
        assert sum(token["logp"] for token in one["tokens"]) == pytest.approx(one["logp"], abs=1e-4)
    assert abs(answers[0]["logratio"]) > 1e-3
    start = inspected(capsys, run, "--row", rows_of(run)[0], "--at", "start")["answers"]
    assert all(abs(one["logratio"]) < 1e-5 for one in start)


def test_held_out_answers_before_and_after(online_runs: OnlineRuns, capsys: pytest.CaptureFixture[str]) -> None:
    sample = read_run(online_runs.whole).detail("end").samples[0]
    row = sample.source.rpartition(":")[2]
    found = inspected(capsys, online_runs.whole, "--row", row)
    assert [one["which"] for one in found["answers"]] == [
        "held out, after training, greedy",
        "held out, after training, drawn",
        "held out, before training, greedy",
        "held out, before training, drawn",
    ]
    assert [token["id"] for token in found["answers"][1]["tokens"]] == sample.sampled.ids
    assert cli.main(["inspect", str(online_runs.whole), "--row", row, "--top", "2"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "held out, before training, drawn reward " in shown and "tokens with smaller shares" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], r"--row N shows those that it kept .* likelier score --per-token"),
        (["--row", "999"], r"row 999 is none whose answers the run kept; it has those of rows \d"),
        (["--row", "x:1"], r"--row x:1: rows of prompts have no data set"),
        (["--row", "1", "--html", "o.html"], r"--html has no effect on a run that learns from its own answers"),
        (["--prompt", "p", "--completion", "c"], r"--row N shows those"),
        (["--row", "1", "--json", "--top", "3"], r"--top has no effect on --json"),
    ],
)
def test_what_cannot_be_shown_says_what_can(
    words: list[str], message: str, online_runs: OnlineRuns, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["inspect", str(online_runs.whole), *words]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_run_that_kept_no_tokens_says_so(
    online_runs: OnlineRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = forget_files(Path(shutil.copytree(online_runs.whole, tmp_path / "run")))
    row = rows_of(folder)[0]
    for file in (folder / "rollouts").iterdir():
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        file.write_text("".join(json.dumps(one | {"prompt_ids": None}) + "\n" for one in rows))
    assert cli.main(["inspect", str(folder), "--row", str(row)]) == 2
    assert "kept no token ids" in capsys.readouterr().err
    shutil.rmtree(folder / "rollouts")
    shutil.rmtree(folder / "evaluations")
    assert cli.main(["inspect", str(folder), "--row", str(row)]) == 2
    assert "the run kept no answers" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["adapter", "whole"])
def test_other_commands_take_such_a_run(name: str, online_runs: OnlineRuns, tmp_path: Path) -> None:
    run = str(getattr(online_runs, name))
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(json.dumps({"prompt": "Say it", "chosen": "good cat", "rejected": "bad dog"}) + "\n")
    assert cli.main(["score", "--model", run, "--data", str(pairs), "--output", str(tmp_path / "scores.jsonl")]) == 0
    assert abs(json.loads((tmp_path / "scores.jsonl").read_text())["chosen"]["logratio"]) > 1e-4
    assert cli.main(["merge", run, str(tmp_path / "merged")]) == 0
    assert (tmp_path / "merged" / "config.json").is_file()
