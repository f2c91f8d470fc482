"""Two runs that learn from their own answers, side by side: what held-out answers earn, prompt by prompt."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from likelier.cli import main as cli
from likelier.insight.compare.cautions import cautions
from likelier.insight.compare.paired_rewards import compare_rewards, judge_of, rewards_of
from likelier.insight.compare.subjects import read_comparison
from tests.helpers.online_runs import OnlineRuns
from tests.insight.test_diagnose_own_answers import held_out, made, share

REWARD = {"reward": ["json"], "max_new_tokens": 8}


def run(folder: Path, rewards: Sequence[float | None], prompts: Sequence[str], **card: Any) -> Path:
    known = [0.0 if one is None else one for one in rewards]
    row, detail = held_out(24, "end", known)
    start = held_out(0, "start", [0.0] * len(known), prompts=list(prompts))
    ends = [start, (row, detail | {"prompts": list(prompts), "rewards": list(rewards)})]
    known_card: dict[str, Any] = {"online": REWARD} | card
    return made(folder, None, ends, **known_card).folder


def names(count: int) -> list[str]:
    return [f"p{number}" for number in range(count)]


def test_the_prompts_that_both_were_asked_are_compared(tmp_path: Path) -> None:
    one = run(tmp_path / "one", share(10), names(40))
    other = run(tmp_path / "other", share(30, 50), names(50))
    comparison = read_comparison([one, other])
    (found,) = compare_rewards(comparison.subjects, comparison.subjects[0])
    assert found.gain.prompts == 40 and found.gain.value == pytest.approx(0.5) and found.gain.is_above
    assert (found.better, found.worse) == (20, 0) and found.p < 1e-4
    assert "other against one: +0.5 (" in found.words() and found.words().endswith(": more.")
    (told,) = [words for words in cautions(comparison) if "different rows" in words]
    assert "one: 40, other: 50 rows of the data, 40 in common" in told and "common rows" in told


def test_another_judge_or_no_common_prompt_compares_nothing(tmp_path: Path) -> None:
    one = run(tmp_path / "one", share(10), names(40))
    judged = run(tmp_path / "judged", share(10), names(40), options={"eval_reward": "judge.py:one"})
    comparison = read_comparison([one, judged])
    assert not compare_rewards(comparison.subjects, comparison.subjects[0])
    assert any("different judges" in words for words in cautions(comparison))
    apart = read_comparison([one, run(tmp_path / "apart", share(10), [f"q{n}" for n in range(40)])])
    assert not compare_rewards(apart.subjects, apart.subjects[0])


def test_a_prompt_without_a_verdict_or_asked_twice_is_left_out(tmp_path: Path) -> None:
    runs = [run(tmp_path / name, [1.0, None, 0.0, 1.0], ["p", "q", "r", "r"]) for name in "ab"]
    found = read_comparison(runs)
    assert rewards_of(found.subjects[0].runs[0]) == {"p": 1.0}


def test_real_runs_side_by_side(online_runs: OnlineRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(online_runs.whole), str(online_runs.adapter)]
    assert cli.main(["compare", *runs]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "gain" in shown and "different judges" in shown and "different rows" not in shown
    assert "did not see as many answers (32: whole; 64: adapter)" in shown
    assert cli.main(["compare", *runs, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["paired_rewards"] == []
    again = tmp_path / "again"
    shutil.copytree(online_runs.whole, again)
    assert cli.main(["compare", str(online_runs.whole), str(again), "--output", str(tmp_path / "page.html")]) == 0
    assert "again against whole: +0 (+0 to +0) of 8 prompts" in capsys.readouterr().out
    assert "Prompt by prompt" in (tmp_path / "page.html").read_text()
    assert cli.main(["compare", str(online_runs.whole), str(again), "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)["paired_rewards"]
    assert told["difference"] == 0 and told["prompts"] == 8


def test_a_judge_is_what_gave_the_rewards(online_runs: OnlineRuns) -> None:
    one, other = read_comparison([online_runs.whole, online_runs.adapter]).subjects
    assert judge_of(one.runs[0]) == '[["length:..14 characters"]]' and judge_of(other.runs[0]) == "regex:[a-z]"
