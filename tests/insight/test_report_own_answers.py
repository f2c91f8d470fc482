"""The report of a run that learns from its own answers: what they earn, what they were, and nothing about pairs."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from likelier.insight.diagnose import diagnose
from likelier.insight.report.curves_of_answers import curves_of_answers
from likelier.insight.report.earned import replies_by_reward, shown_rollouts, tiles_by_reward
from likelier.insight.report.page import report_page
from likelier.runs.reader import Run, read_run
from tests.helpers.browser import find_browser, opened
from tests.helpers.online_runs import OnlineRuns
from tests.helpers.report_runs import SCRIPT
from tests.helpers.small_runs import forget_files
from tests.insight.test_diagnose_own_answers import better, held_out, made, share, steps

SECTIONS = ["verdicts", "dropped", "results", "answers", "rollouts", "curves", "timing", "reproduce"]


def titles(run: Run) -> list[str]:
    return [
        match.group(1).strip() for one in curves_of_answers(run) if (match := re.search(r"<figcaption>([^<]*)", one))
    ]


def test_a_real_run_has_what_there_is_and_no_more(online_runs: OnlineRuns) -> None:
    page = report_page(read_run(online_runs.adapter))
    assert re.findall(r'<section id="([a-z]+)"', page) == SECTIONS
    for words in ("held-out reward", "gain over the start", "best of 4 at the start", "judged +", "advantage "):
        assert words in page
    said = re.sub(r"<style>.*?</style>|<pre>.*?</pre>", "", page, flags=re.DOTALL)
    assert not re.search("chosen|rejected|pairs|margin", said)
    assert "writing answers, a step" in page and "tokens sampled a second" in page


def test_its_curves(online_runs: OnlineRuns) -> None:
    found = titles(read_run(online_runs.adapter))
    assert found[:4] == [
        "Reward in training",
        "Held-out reward, judged by regex:[a-z]",
        "Reward: length",
        "Reward: regex",
    ]
    for name in ("Length of the answers", "Entropy", "Answers cut at the limit", "KL to the reference"):
        assert name in found
    whole = titles(read_run(online_runs.whole))
    assert whole[0] == "Reward" and "KL to the reference" not in whole and "Ratios beyond the clip" not in whole
    assert not any(name.startswith("Reward: ") for name in whole), "the only reward is the whole one"
    assert "best of 4 of the start policy" in curves_of_answers(read_run(online_runs.whole))[0]


def test_a_clip_that_holds_and_a_sampler_apart_are_drawn(tmp_path: Path) -> None:
    found = titles(made(tmp_path / "run", steps(clip_ratio__region_mean=(0.0, 0.1), sampler__kl=(0.001, 0.002))))
    assert "Ratios beyond the clip" in found and "Sampler against scorer" in found
    assert not {"Returns", "What the critic explains"} & set(found)
    critic = {"value__explained_variance": (0.0, 0.5), "returns": (0.0, 1.0), "kl_penalty": (0.0, 0.2)}
    assert {"Returns", "What the critic explains"} <= set(titles(made(tmp_path / "ppo", steps(**critic), method="ppo")))


@pytest.mark.parametrize(
    ("now", "words"),
    [(share(35), "Yes"), (share(10), "Not shown"), (share(1), "No"), (None, "Not shown")],
)
def test_whether_it_worked_is_what_held_out_answers_gain(now: list[float] | None, words: str, tmp_path: Path) -> None:
    ends = [] if now is None else [held_out(0, "start", share(12)), held_out(24, "end", now)]
    run = made(tmp_path / "run", evaluations=ends)
    worked, trusted = replies_by_reward(run, diagnose(run))
    assert worked.said == words and ("of 40 prompts" in worked.because) == (now is not None)
    assert ("reward that is optimized" in trusted.because) == (now is not None)
    assert trusted.said == ("Not beyond its own prompts" if now is None else "Hardly")


def test_what_is_bad_beside_a_gain_is_told(tmp_path: Path) -> None:
    cut = made(tmp_path / "run", steps(completions__clipped_ratio=(0.5, 0.5)), better(share(35)))
    assert replies_by_reward(cut, diagnose(cut))[0].said == "In part"


def test_the_figures_at_the_top_say_how_sure_they_are(tmp_path: Path) -> None:
    ends = better(share(30))
    ends[1][0].update({"eval_reward_low": 0.6, "eval_reward_high": 0.9})
    ends[0][0]["eval_best_of_n"] = 0.5
    found = tiles_by_reward(made(tmp_path / "run", evaluations=ends))
    assert [name for name, *_ in found] == ["held-out reward", "gain over the start", "best of 8 at the start"]
    assert found[0][1:] == ("0.75", "0.6 to 0.9, n = 40") and found[1][2].endswith("n = 40") and found[2][1] == "0.5"


def test_the_best_and_the_worst_answers_are_shown(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    rows = [
        {"prompt": "alike", "answers": [{"text": "a", "reward": 1.0, "tokens": 3}] * 2},
        {"prompt": "apart", "answers": [answer(f"r{value}", value) for value in (0.5, 2.0, -1.0)]},
        {"prompt": "unjudged", "answers": [{"text": "a", "reward": None}]},
    ]
    for step in (1, 5, 9):
        write_rollout(run.folder, step, rows)
    first, last = shown_rollouts(run)
    assert (first.step, last.step) == (1, 9) and [one.prompt for one in last.groups] == ["apart", "alike"]
    apart, alike = last.groups
    assert [(which, one.text) for which, one in apart.answers] == [("best", "r2.0"), ("worst", "r-1.0")]
    assert apart.answers[0][1].remarks.startswith("reward 2 (one 2, two 0), advantage +2.000, 7 tokens, cut")
    assert apart.told == "rewards 2, 0.5, \N{MINUS SIGN}1" and alike.told == "all 2 answers earn 1"


def test_a_critic_s_word_on_each_token_is_coloured(tmp_path: Path) -> None:
    run = made(tmp_path / "run", method="ppo")
    told = {"token_texts": ["<b", "&"], "token_advantages": [1.5, -0.75], "values": [0.25, 0.5]}
    rows = [{"prompt": str(reward), "answers": [answer("<b&", reward) | told]} for reward in range(6)]
    write_rollout(run.folder, 1, rows)
    (step,) = shown_rollouts(run)
    assert [one.prompt for one in step.groups] == ["5", "4", "1", "0"] and step.groups[0].told == "reward 5"
    ((_, shown),) = step.groups[0].answers
    first = '<span class="tok tok-up-5" title="advantage +1.500, value before it +0.250">&lt;b</span>'
    second = '<span class="tok tok-down-3" title="advantage −0.750, value before it +0.500">&amp;</span>'
    assert str(shown.text) == f'<span class="tokens">{first}{second}</span>'


def answer(text: str, reward: float) -> dict[str, object]:
    parts = {"one": reward, "two": 0.0, "three": None}
    known = {"tokens": 7, "stop_reason": "length", "reward": reward, "rewards": parts, "advantage": reward}
    return {"text": text, **known}


def write_rollout(folder: Path, step: int, rows: list[dict[str, object]]) -> None:
    (folder / "rollouts").mkdir(exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "rollouts" / f"step-{step}.jsonl").write_text(lines)


@pytest.mark.skipif(find_browser() is None, reason="no browser here")
def test_it_can_be_read_anywhere_and_runs_nothing(online_runs: OnlineRuns, tmp_path: Path) -> None:
    folder = forget_files(Path(shutil.copytree(online_runs.adapter, tmp_path / "run")))
    for file in (folder / "rollouts").iterdir():
        file.write_text(file.read_text().replace('"text": "', f'"text": "{SCRIPT}{"long" * 100}'))
    file = tmp_path / "report.html"
    file.write_text(report_page(read_run(folder)))
    with opened(file, tmp_path / "browser") as page:
        assert page.complaints == [] and page.requests == [file.as_uri()] and page.ask("document.scripts.length") == 0
        links = page.ask("[...document.querySelectorAll('nav a')].map(one => one.getAttribute('href'))")
        assert links == [f"#{name}" for name in SECTIONS]
        page.ask("document.querySelectorAll('details').forEach(one => one.open = true)")
        for width, dark in ((390, True), (390, False), (1280, False), (1280, True)):
            page.looks(width, dark=dark)
            assert page.ask("document.documentElement.scrollWidth") == width
