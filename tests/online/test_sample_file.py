"""Answers in a file: what a row holds, going on after an interruption, what is refused, pairs of them."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from likelier.data.groups import Group
from likelier.data.load import load_preferences
from likelier.data.records import Demonstration, Message, Pair, Source, TokenIds
from likelier.models.policy import load_policy
from likelier.online.answers.pairs import make_pairs
from likelier.online.answers.sample import Asking, Pairing, sample_file
from likelier.online.sampling import Sampling
from likelier.scoring import attach_scorer, collate, score_plain
from likelier.utils.errors import ConfigError, DataError
from tests.helpers.small_runs import save_tiny, write_rows

pytestmark = pytest.mark.slow
ROWS = [{"prompt": [{"role": "user", "content": f"the {word} sat"}], "answer": word} for word in ("cat", "dog", "hill")]
REWARD = "def short(completions, completion_ids, answer):\n    return [-len(ids) / 10 for ids in completion_ids]\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny(tmp_path_factory.mktemp("sampled") / "model"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "prompts.jsonl", ROWS)
    (tmp_path / "judge.py").write_text(REWARD, encoding="utf-8")
    return tmp_path


def sampled(model: str, output: str = "answers.jsonl", **more: Any) -> str:
    options = {name: more.pop(name) for name in ("temperature", "top_k", "stop", "seed") if name in more}
    sampling = Sampling(max_new_tokens=more.pop("max_new_tokens", 6), **options)
    asking = Asking(more.pop("data", "prompts.jsonl"), **more.pop("asking", {}))
    return sample_file(model, asking, output, **{"answers": 4, "sampling": sampling, **more})


def rows_of(path: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def test_a_row_holds_the_answer_and_how_it_was_made(here: Path, model: str) -> None:
    told = sampled(model, rewards=["judge.py:short", "contains:answer"], reward_weights=[1.0, 2.0])
    rows = rows_of("answers.jsonl")
    every = [(prompt, answer) for prompt in (1, 2, 3) for answer in (1, 2, 3, 4)]
    assert [(row["prompt_number"], row["answer_number"]) for row in rows] == every
    row = rows[4]
    assert (
        row["prompt"] == ROWS[1]["prompt"]
        and row["source"] == "prompts.jsonl:2"
        and row["columns"] == {"answer": "dog"}
    )
    assert row["tokens"] == len(row["completion_ids"]) == len(row["logps"])
    assert row["logp"] == pytest.approx(sum(row["logps"]), abs=1e-5)
    assert set(row["rewards"]) == {"short", "contains"}
    assert row["reward"] == pytest.approx(row["rewards"]["short"] + 2 * row["rewards"]["contains"])
    assert row["sampled"]["seed"] == 42 and row["sampled"]["rewards"]["contains"]["weight"] == 2
    assert "12 answers of " in told and "reward short: -0." in told
    policy = load_policy(model)
    attach_scorer(policy.model)
    text = policy.tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
    prompt = np.array(policy.tokenizer(text)["input_ids"], dtype=np.int32)
    ids = np.array(row["completion_ids"], dtype=np.int32)
    with torch.no_grad():
        batch = collate([Group(prompt, (ids, ids), Source("here", 1))])
        scored = policy.model(batch=batch, how=score_plain).token_logps.numpy()
    np.testing.assert_allclose(row["logps"], scored, atol=1e-4)


def test_training_and_audit_read_it(here: Path, model: str) -> None:
    sampled(model)
    data = load_preferences("answers.jsonl")
    assert (
        all(isinstance(record, Demonstration) for record in data.train) and len(data.train) + len(data.unusable) == 12
    )


@pytest.mark.parametrize(("kept", "at_once"), [(1, 64), (3, 64), (5, 8), (9, 8), (11, 64)])
def test_an_interrupted_call_ends_in_the_same_file(
    here: Path, model: str, kept: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("likelier.online.answers.sample._AT_ONCE", at_once)
    sampled(model, "whole.jsonl", rewards=["judge.py:short"])
    whole = Path("whole.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    Path("part.jsonl").write_bytes(b"".join(lines[:kept]) + lines[kept][:-1])  # all but the line's end
    sampled(model, "part.jsonl", rewards=["judge.py:short"])
    assert Path("part.jsonl").read_bytes() == whole
    assert "12 answers" in sampled(model, "part.jsonl", rewards=["judge.py:short"])  # nothing is left to do
    assert Path("part.jsonl").read_bytes() == whole


def test_a_reward_that_fails_leaves_whole_rows(here: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("likelier.online.answers.sample._AT_ONCE", 4)
    (here / "judge.py").write_text(
        "def short(completions, completion_ids, answer):\n"
        "    if 'dog' in answer: raise ValueError('no dogs')\n"
        "    return [0.0] * len(answer)\n",
        encoding="utf-8",
    )
    with pytest.raises(ConfigError, match=r"(?s)prompts\.jsonl:2.*no dogs|no dogs.*prompts\.jsonl:2"):
        sampled(model, rewards=["judge.py:short"])
    assert len(rows_of("answers.jsonl")) == 4
    with pytest.raises(ConfigError):
        sampled(model, "none.jsonl", data=[str(write_rows(here / "dogs.jsonl", ROWS[1:2]))], rewards=["judge.py:short"])
    assert not Path("none.jsonl").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"temperature": 0.5}, "temperature 1.0, now 0.5"),
        ({"answers": 5}, "answers 4, now 5"),
        ({"stop": ("a",)}, r"stop \[\], now \['a'\]"),
        ({"rewards": ["judge.py:short"]}, "rewards {}, now {'short'"),
        (
            {"asking": {"truncation": "cut-prompt-left", "max_prompt_length": 9}},
            "of other prompts, columns or templates",
        ),
    ],
)
def test_other_settings_are_refused_and_change_nothing(here: Path, model: str, more: Any, words: str) -> None:
    sampled(model)
    before = Path("answers.jsonl").read_bytes()
    with pytest.raises(ConfigError, match=words):
        sampled(model, **more)
    assert Path("answers.jsonl").read_bytes() == before
    sampled(model, **more, overwrite=True)
    assert Path("answers.jsonl").read_bytes() != before


def test_another_model_is_refused_and_a_moved_one_is_not(here: Path, model: str) -> None:
    sampled(model)
    other = str(save_tiny(here / "other", seed=1))
    with pytest.raises(ConfigError, match="by a model of other weights"):
        sampled(other)
    assert "12 answers" in sampled(str(save_tiny(here / "same")))


def test_files_of_others_stay_as_they_are(here: Path, model: str) -> None:
    (here / "mine.jsonl").write_text('{"a": 1}\n', encoding="utf-8")
    for output, words in [
        ("mine.jsonl", "exists already"),
        ("prompts.jsonl", "is the data itself"),
        (".", "is a folder"),
    ]:
        with pytest.raises(ConfigError, match=words):
            sampled(model, output)
    assert (here / "mine.jsonl").read_text(encoding="utf-8") == '{"a": 1}\n'
    (here / "link.jsonl").symlink_to(here / "mine.jsonl")
    sampled(model, "link.jsonl", overwrite=True)
    assert (here / "mine.jsonl").read_text(encoding="utf-8") == '{"a": 1}\n' and not (here / "link.jsonl").is_symlink()


def test_two_processes_do_not_write_one_file(here: Path, model: str) -> None:
    sampled(model)
    lines = Path("answers.jsonl").read_bytes().splitlines(keepends=True)
    Path("answers.jsonl").write_bytes(b"".join(lines[:5]))
    with open("answers.jsonl", "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="is written by another process"):
            sampled(model)
    assert Path("answers.jsonl").read_bytes() == b"".join(lines[:5])


def test_answers_do_not_depend_on_the_order_of_the_prompts(here: Path, model: str) -> None:
    sampled(model)
    write_rows(here / "turned.jsonl", ROWS[::-1])
    sampled(model, "turned.jsonl.answers", data="turned.jsonl")
    found = [
        {(row["columns"]["answer"], row["answer_number"]): row["completion_ids"] for row in rows_of(name)}
        for name in ("answers.jsonl", "turned.jsonl.answers")
    ]
    assert found[0] == found[1]


def test_a_prompt_of_token_ids_gives_pairs_of_token_ids(here: Path, model: str) -> None:
    write_rows(here / "ids.jsonl", [{"prompt_ids": [5, 6], "chosen_ids": [7], "rejected_ids": [8]}])
    pairing = Pairing("best-worst", "prefs.jsonl", keep_cut=True)
    sampled(model, data="ids.jsonl", rewards=["length:2 characters"], pairing=pairing)
    (pair,) = load_preferences("prefs.jsonl").train
    assert isinstance(pair, Pair) and pair.prompt == TokenIds((5, 6)) and isinstance(pair.chosen, TokenIds)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"temperature": 0.0}, "answers=4 at temperature 0 would all be the same"),
        ({"reward_weights": [1.0]}, "reward_weights has no effect without a reward"),
        ({"reward_timeout": 1.0}, "reward_timeout has no effect without a reward"),
        ({"pairing": Pairing("all", "prefs.jsonl")}, "no reward is named"),
        ({"pairing": Pairing(threshold=1.0)}, "threshold has no effect without pairs"),
        ({"pairing": Pairing(keep_cut=True)}, "keep_cut has no effect without pairs"),
        ({"rewards": ["json"], "pairing": Pairing("all")}, "give --pairs-output"),
        ({"rewards": ["json"], "pairing": Pairing("all", "p.jsonl", 1.0)}, "threshold has no effect on pairs=all"),
        ({"rewards": ["json"], "pairing": Pairing("threshold", "p.jsonl")}, "give --threshold"),
        ({"rewards": ["json"], "pairing": Pairing("all", "p.jsonl"), "answers": 1}, "raise --answers"),
        ({"rewards": ["exact:solution"]}, "solution"),
        ({"max_new_tokens": 4096}, "leaves no room for a prompt"),
        ({"asking": {"max_prompt_length": 4095}}, "more than the model's context"),
        ({"asking": {"chat": {"fold_system": True}}}, "fold_system has no effect"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(here: Path, model: str, more: Any, words: str) -> None:
    before = {path.name for path in here.iterdir()}
    with pytest.raises(ConfigError, match=words):
        sampled(model, **more)
    assert {path.name for path in here.iterdir()} - {"cache"} == before  # where a trial of the scorer is remembered


# --- pairs ---------------------------------------------------------------------------------------------------------


def answer(prompt: int, number: int, text: str, reward: float | None, stop: str = "eos") -> dict[str, Any]:
    asked = [{"role": "user", "content": f"ask {prompt}"}]
    return {
        "prompt": asked,
        "completion": [{"role": "assistant", "content": text}],
        "prompt_number": prompt,
        "answer_number": number,
        "source": "prompts.jsonl:1",
        "stop_reason": stop,
        "reward": reward,
    }


ANSWERS = [
    *(answer(1, number, text, reward) for number, (text, reward) in enumerate([("a", 1), ("b", 3), ("c", 2)], 1)),
    *(answer(2, number, text, 1.0) for number, text in enumerate("de", 1)),
    answer(3, 1, "f", 5.0),
    answer(3, 2, "g", None),
    answer(4, 1, "h", 2.0, "length"),
    answer(4, 2, "i", 0.5),
    answer(5, 1, " ", 9.0),
    answer(5, 2, "j", 3.0),
]


@pytest.mark.parametrize(
    ("how", "more", "found", "alone"),
    [
        ("best-worst", {}, ["ba"], 4),
        ("all", {}, ["ba", "bc", "ca"], 4),
        ("threshold", {"threshold": 2.0}, ["ba", "ca"], 4),
        ("best-worst", {"keep_cut": True}, ["ba", "hi"], 3),
    ],
)
def test_pairs_of_rewarded_answers(tmp_path: Path, how: Any, more: Any, found: list[str], alone: int) -> None:
    paired = make_pairs(ANSWERS, how, **more)
    told = paired.write(tmp_path / "prefs.jsonl")
    assert paired.ties == 1
    pairs = [record for record in load_preferences(str(tmp_path / "prefs.jsonl")).train if isinstance(record, Pair)]
    assert sorted(f"{one.chosen[0].content}{one.rejected[0].content}" for one in pairs) == found  # type: ignore[index]
    assert pairs[0].prompt == (Message("user", "ask 1"),)
    assert all(one.scores is not None and one.scores[0] > one.scores[1] for one in pairs)
    assert f"{len(found)} pairs of {5 - alone} prompts" in told
    assert "1 answers have no part (no verdict)" in told and "1 answers have no part (empty)" in told
    assert ("cut at max_new_tokens" in told) == ("keep_cut" not in more)
    assert "1 of 5 prompts give no pair (" in told


def test_no_pair_at_all_is_an_error_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"(?s)no pair can be made.*1 of 1 prompts give no pair \(all rewards are equal\)"
    ):
        make_pairs(ANSWERS[3:5], "best-worst").write(tmp_path / "prefs.jsonl")
    with pytest.raises(DataError, match="all on one side of the threshold"):
        make_pairs(ANSWERS[:3], "threshold", threshold=9.0).write(tmp_path / "prefs.jsonl")
    assert not (tmp_path / "prefs.jsonl").exists()
