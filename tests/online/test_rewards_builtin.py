"""The rewards that come along, and the verifiers of other packages."""

from __future__ import annotations

from math import isnan
from typing import Any

import pytest

from likelier.online.rewards.load import load_reward
from likelier.utils.errors import ConfigError
from tests.online.test_rewards import TALK, answered


def one(spec: str, text: str, **columns: Any) -> float:
    """Of a plain answer and of one in a conversation, which must be the same."""
    plain, talk = load_reward(spec)([answered(text, **columns), answered(text, prompt=TALK, **columns)]).tolist()
    assert plain == talk or (isnan(plain) and isnan(talk))
    return plain


@pytest.mark.parametrize(
    ("spec", "text", "columns", "expected"),
    [
        ("exact", " 42\n", {"answer": "42"}, 1),
        ("exact", "42", {"answer": 42}, 1),
        ("exact", "42.", {"answer": "42"}, 0),
        ("exact:gold", "b", {"gold": ["a", "b"]}, 1),
        ("contains:the gold", "it is 42.", {"the gold": "42"}, 1),
        ("contains", "it is 41.", {"answer": ["42", "43"]}, 0),
        ("regex:^\\d+:\\d\\d$", "12:30", {}, 1),
        ("regex:^\\d+$", "about 12", {}, 0),
        ("json", ' {"a": [1, null]}\n', {}, 1),
        ("json", '{"a": 1} done', {}, 0),
        ("json", '{"a": 1, "a": 2}', {}, 0),
        ("json:a,b", '{"a": 1, "b": 2, "c": 3}', {}, 1),
        ("json:a,b", '{"a": 1}', {}, 0),
        ("json:a", '["a"]', {}, 0),
        ("length:4", "one two three", {}, -0.25),
        ("length:4", "1 2 3 4", {}, 0),
        ("length:..3", "one two three", {}, 1),
        ("length:..3 words", "one two three four", {}, 0),
        ("length:2..", "one", {}, 0),
        ("length:3..4 tokens", "one two", {}, 1),
        ("length:7 characters", "one two", {}, 0),
    ],
)
def test_a_verdict(spec: str, text: str, columns: dict[str, Any], expected: float) -> None:
    assert one(spec, text, **columns) == pytest.approx(expected)


def test_a_row_without_a_value_has_no_verdict() -> None:
    assert isnan(one("exact", "42", answer=None)) and isnan(one("contains", "42", answer=None))


def test_an_empty_text_that_every_answer_holds_is_an_error_of_its_row() -> None:
    with pytest.raises(ConfigError, match=r"prompts.jsonl:7, answer 1: it raised ValueError: .* holds an empty text"):
        load_reward("contains")([answered("a", answer="a"), answered("b", row=7, answer=" ")])


def test_what_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("likelier.online.rewards.verifiers", "likelier.data.gym"):
        monkeypatch.setattr(f"{module}.find_spec", lambda name: None)
    for spec, extra in (("math", "math"), ("gym:leg_counting", "gym")):
        with pytest.raises(ConfigError, match=rf"reward='{spec}' needs a package .* pip install 'likelier\[{extra}\]'"):
            load_reward(spec)


@pytest.mark.parametrize(
    ("gold", "text", "expected"),
    [
        ("72", "so it is 72.", 1),
        ("1/2", "The answer is $\\frac{2}{4}$", 1),
        ("\\frac{1}{2}", "\\boxed{0.5}", 1),
        ("$x^2 + 1$", "we get $1 + x^2$", 1),
        ("first 3, then 4 #### 1,234", "1234", 1),
        ("72", "so it is 73.", 0),
        ("72", "I do not know", 0),
        (None, "72", None),
    ],
)
def test_mathematics(gold: Any, text: str, expected: float | None) -> None:
    pytest.importorskip("math_verify")
    found = one("math", text, answer=gold)
    assert isnan(found) if expected is None else found == expected


def test_a_task_of_reasoning_gym_by_its_own_verifier() -> None:
    gym: Any = pytest.importorskip("reasoning_gym")
    (row,) = gym.create_dataset("leg_counting", size=1, seed=3)
    columns = {"answer": row["answer"], "metadata": row["metadata"]}
    right = f"I count.\n<answer>{row['answer']}</answer>"
    assert one("gym:leg_counting", right, **columns) == one("gym:leg_counting", row["answer"], **columns) == 1
    assert one("gym:leg_counting", "<answer>-1</answer>", **columns) < 1
    with pytest.raises(ConfigError, match="reasoning-gym has no task 'leg_count'; did you mean leg_counting"):
        load_reward("gym:leg_count")
