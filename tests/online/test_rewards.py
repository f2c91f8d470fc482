"""Functions as rewards: what they are given, what they may return, and how each failure is named."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from fractions import Fraction
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from likelier.data.records import Message, Source
from likelier.online.rewards.load import load_reward, load_rewards
from likelier.online.rewards.reward import Answered, FunctionReward
from likelier.utils.errors import ConfigError

TALK = (Message("system", "be brief"), Message("user", "how much?"))


def answered(text: str, row: int = 1, number: int = 1, prompt: Any = "how much?", **columns: Any) -> Answered:
    ids = (*range(5, 5 + len(text.split())), 2)
    return Answered(prompt, text, ids, Source("prompts.jsonl", row), number, columns=columns)


TWO = [answered("one two", answer="two"), answered("three", row=4, number=2, answer="3")]


def of(function: Callable[..., Any], name: str = "f") -> FunctionReward:
    return FunctionReward(name, f"x.py:{name}", function)


def both(value: object) -> Callable[..., object]:
    return lambda completions: value


# --- what a function is given ----------------------------------------------------------------------------------------


def test_a_function_gets_what_it_names() -> None:
    def reward(completions: list[str], answer: list[str], other: int = 3) -> list[float]:
        return [float(right in text) for text, right in zip(completions, answer, strict=True)]

    assert of(reward)(TWO).tolist() == [1.0, 0.0]


def test_one_with_keywords_gets_everything_as_in_trl() -> None:
    seen = {}

    def reward(prompts: Any, completions: Any, completion_ids: Any, **kwargs: Any) -> list[float]:
        seen.update(kwargs, prompts=prompts, completions=completions, completion_ids=completion_ids)
        return [0.0, 0.0]

    of(reward)([TWO[0], answered("x", prompt=TALK, more=1)])
    assert seen == {
        "prompts": ["how much?", [{"role": "system", "content": "be brief"}, {"role": "user", "content": "how much?"}]],
        "completions": ["one two", [{"role": "assistant", "content": "x"}]],
        "completion_ids": [[5, 6, 2], [5, 2]],
        "stop_reasons": ["eos", "eos"],
        "answer": ["two", None],
        "more": [None, 1],
    }


def test_one_that_names_no_completions_gets_prompts_and_answers() -> None:
    assert of(lambda questions, texts: [len(text) for text in texts])(TWO).tolist() == [7, 5]
    assert of(lambda prompts, answers, scale=2: [scale for _ in answers])(TWO).tolist() == [2, 2]


def test_rewards_of_trl_are_taken_as_they_are() -> None:
    trl = pytest.importorskip("trl.rewards")
    talks = [answered("<think>a</think>b", prompt=TALK), answered("b", prompt=TALK)]
    assert of(trl.think_format_reward)(talks).tolist()[1] == 0.0


def test_an_async_function_is_awaited() -> None:
    async def reward(completions: list[str]) -> list[float]:
        return [1.0 for _ in completions]

    assert of(reward)(TWO).tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (
            lambda completions, solution: [],
            r"it takes 'solution', which is no column of the prompts \(columns: answer\)",
        ),
        (lambda completions, answers: [], "it takes 'answers', which is no column of the prompts; did you mean answer"),
        (lambda text: [], "it must take prompts and completions"),
        (lambda prompts, answer: [], "it names the column 'answer' and no completions"),
    ],
)
def test_one_that_cannot_be_called_is_told_before_anything_is_sampled(function: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=f"reward='x.py:f': {words}"):
        of(function).require(["answer"])
    with pytest.raises(ConfigError, match=words):
        of(function)(TWO)


# --- what it may return ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([1, 0.5], [1, 0.5]),
        ((True, False), [1, 0]),
        ([None, 2], [nan, 2]),
        ([None, None], [nan, nan]),
        (np.array([1.5, 2], dtype=np.float32), [1.5, 2]),
        ([np.float16(1), np.bool_(True)], [1, 1]),
        (torch.tensor([1.0, 2.0], dtype=torch.bfloat16), [1, 2]),
        ([torch.tensor(1.0), torch.tensor(2)], [1, 2]),
        (iter([1, 2]), [1, 2]),
        ([Fraction(1, 2), np.int64(3)], [0.5, 3]),
    ],
)
def test_numbers_of_every_kind_and_none(found: Any, expected: list[float]) -> None:
    rewards = of(both(found))(TWO)
    assert rewards.dtype == torch.float64
    torch.testing.assert_close(rewards, torch.tensor(expected, dtype=torch.float64), equal_nan=True)


LAST = r"prompts\.jsonl:4, answer 2 got"


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ([1, nan], f"{LAST} nan; it must give one number an answer .*, and None where it has no verdict"),
        ([1, inf], f"{LAST} inf"),
        ([1, "good"], f"{LAST} 'good'"),
        ([1, [1]], rf"{LAST} \[1\]"),
        (torch.tensor([[1.0], [2.0]]), r"prompts\.jsonl:1, answer 1 got \[1\.0\]"),
        ([1, 1j], f"{LAST} 1j"),
        ([1, Decimal("NaN")], LAST),
        ([1], r"2 answers got 1 rewards \(prompts\.jsonl:1, answer 1 to prompts\.jsonl:4, answer 2\)"),
        ([1, 2, 3], "2 answers got 3 rewards"),
        (None, "it returned None; it must give one number an answer, in a list"),
        (1.0, "it returned 1.0"),
        ("12", "it returned '12'"),
        ({"a": 1, "b": 2}, "it returned {'a': 1"),
        (torch.tensor(1.0), "it returned 1.0"),
    ],
)
def test_what_is_no_number_an_answer_is_named(found: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=f"reward='x.py:f': {words}"):
        of(both(found))(TWO)


def test_the_answer_at_which_it_raises_is_found() -> None:
    def reward(completions: Sequence[str]) -> list[float]:
        return [1 / (len(text) - 5) for text in completions]

    with pytest.raises(ConfigError, match=r"'x.py:f': prompts\.jsonl:4, answer 2: it raised ZeroDivisionError: .*zero"):
        of(reward)(TWO)

    def together(completions: Sequence[str]) -> list[float]:
        raise RuntimeError("too many") if len(completions) > 1 else SystemExit

    def generator(completions: Sequence[str]) -> Any:
        yield 1 / 0

    with pytest.raises(ConfigError, match=r"prompts\.jsonl:1, answer 1: it raised SystemExit"):
        of(together)(TWO)
    with pytest.raises(ConfigError, match="it raised ZeroDivisionError"):
        of(generator)(TWO)
    several = of(lambda completions: [0.0] if len(completions) < 2 else 1 / 0)
    with pytest.raises(ConfigError, match=r"answer 1 to prompts\.jsonl:4, answer 2: it raised ZeroDivisionError"):
        several(TWO)


def test_no_answers_have_no_rewards() -> None:
    assert of(both("never asked"))([]).shape == (0,)


# --- by name ---------------------------------------------------------------------------------------------------------


def test_a_function_of_a_file_or_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_rewards.py").write_text("def short(completions):\n    return [-len(one) for one in completions]\n")
    monkeypatch.syspath_prepend(tmp_path)
    for spec in (f"{tmp_path}/my_rewards.py:short", "my_rewards:short"):
        reward = load_reward(spec)
        assert reward.name == "short" and reward(TWO).tolist() == [-7, -5]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("jsn", r"reward='jsn' is unknown; did you mean json\? \(known: exact, contains"),
        ("modell:runs/a", "is unknown; did you mean model"),
        ("", "reward='' is unknown"),
        ("no_such_module:f", "no module no_such_module; install it, or name a file.py:function"),
        ("here:f", re.escape("no module here; name the file: here.py:...")),
        ("here.py:shrt", re.escape("here.py has no function 'shrt'; did you mean short")),
        ("gone.py:f", "no such file: gone.py"),
        ("stop.py:f", "stop.py fails: SystemExit: 3"),
        ("slow.py:f", "its time_limit is -1; it must be seconds above 0"),
        ("regex:(", "no regular expression: missing"),
        ("regex", "needs a pattern"),
        ("length:0", "give a length"),
        ("length:..", "give a length"),
        ("length:4 miles", "give a length"),
        ("model:", "names no folder; give model:FOLDER"),
        ("implicit", "names no run; give implicit:FOLDER"),
        ("http://", "no address"),
    ],
)
def test_a_name_of_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, words: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here.py").write_text("def short(completions): ...\n")
    Path("stop.py").write_text("raise SystemExit(3)")
    Path("slow.py").write_text("def f(completions): ...\nf.time_limit = -1\n")
    with pytest.raises(ConfigError, match=words):
        load_reward(spec)


# --- several ---------------------------------------------------------------------------------------------------------


def test_several_give_a_matrix_and_names_of_their_own() -> None:
    several = load_rewards(["exact", "regex:one", "regex:e$"], [1, 0.5, 0])
    assert several.names == ("exact", "regex", "regex_2") and several.weights == (1, 0.5, 0)
    several.require(["answer"])
    found = several([*TWO, answered("3", answer=None)])
    expected = torch.tensor([[0, 1, 0], [0, 0, 1], [nan, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(found, expected, equal_nan=True)
    with pytest.raises(ConfigError, match="reward='exact': it takes 'answer', which is no column"):
        several.require(["solution"])


@pytest.mark.parametrize(
    ("specs", "weights", "timeout", "words"),
    [
        ([], None, None, "no reward is named"),
        (["json", "json"], None, None, "reward='json' stands twice"),
        (["json", "exact"], [1], None, "2 rewards have 1 reward_weights"),
        (["json"], [nan], None, "must be finite"),
        (["json"], [0], None, "not all 0"),
        (["json"], None, 0, "reward_timeout=0 is out of range"),
        (["model:a"], None, 3, "reward_timeout has no effect"),
    ],
)
def test_rewards_that_do_not_fit_together(specs: Any, weights: Any, timeout: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_rewards(specs, weights, timeout=timeout)
