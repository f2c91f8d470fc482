"""Questions that reasoning-gym makes up, and what judges the answers to them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from likelier.data.gym import read_metadata
from likelier.data.load import load_preferences
from likelier.data.options import DataSet
from likelier.data.prompts import Prompt, load_prompts
from likelier.data.records import Message
from likelier.online.rewards.load import load_reward
from likelier.online.rewards.reward import Answered
from likelier.utils.errors import ConfigError, LikelierWarning

gym: Any = pytest.importorskip("reasoning_gym")
factory: Any = pytest.importorskip("reasoning_gym.factory")
LEGS = "gym:leg_counting"


def texts(name: str, **more: Any) -> list[Any]:
    return [one.prompt for one in load_prompts(name, **more).train]


def answered(asked: Prompt, text: str) -> Answered:
    assert isinstance(asked.prompt, (str, tuple))
    return Answered(asked.prompt, text, (), asked.source, 1, "eos", asked.columns)


def test_the_questions_are_the_tasks_own_and_the_same_each_time() -> None:
    own = [row["question"] for row in gym.create_dataset("leg_counting", size=7, seed=0)]
    assert texts(f"{LEGS},size=7") == own == texts(f"{LEGS},size=7,seed=0")
    assert len(texts(LEGS)) == 500 and texts(LEGS)[:7] == own
    assert set(texts(f"{LEGS},size=7,seed=1000")).isdisjoint(own)
    few = load_prompts(f"{LEGS},size=3,min_animals=1,max_animals=1").train
    assert [str(one.source) for one in few][1] == f"{LEGS},size=3,min_animals=1,max_animals=1, question 2"
    assert all(len(json.loads(one.columns["metadata"])["animals"]) == 1 for one in few)


def test_settings_have_the_types_of_the_tasks_own() -> None:
    operators = load_prompts('gym:basic_arithmetic,size=20,operators=["+", "*"],allow_parentheses=false').train
    assert not any(mark in json.loads(one.columns["metadata"])["expression"] for one in operators for mark in "-/(")
    assert len(texts('gym:calendar_arithmetic,size=4,tasks=["weekday_of_date"]')) == 4  # whose own value is none


def test_messages_and_an_instruction_by_a_column_map() -> None:
    told = load_prompts(f"{LEGS},size=2", columns={"prompt": "{prompt}\nWrite <answer>.", "chat": True})
    first = told.train[0]
    assert isinstance(first.prompt, tuple) and isinstance(first.prompt[-1], Message)
    assert first.prompt[-1].content.endswith("Write <answer>.")
    assert load_reward(LEGS)([answered(first, f"<answer>{first.columns['answer']}</answer>")]).tolist() == [1]


def test_they_are_held_out_and_go_beside_others(tmp_path: Path) -> None:
    split = load_prompts(f"{LEGS},size=20", eval_fraction=0.25)
    assert (len(split.train), len(split.test)) == (15, 5)
    apart = load_prompts(f"{LEGS},size=20", eval_data=f"{LEGS},size=5,seed=100")
    assert (len(apart.train), len(apart.test)) == (20, 5)
    with pytest.warns(LikelierWarning, match="5 held-out prompts are trained on as well"):
        load_prompts(f"{LEGS},size=20", eval_data=f"{LEGS},size=5")
    (tmp_path / "own.jsonl").write_text('{"prompt": "ask", "answer": "4"}\n', encoding="utf-8")
    both = load_prompts([f"{LEGS},size=2", f"{LEGS},size=2,seed=5", str(tmp_path / "own.jsonl")]).train
    assert [one.source.data_set for one in both] == [f"{LEGS},size=2"] * 2 + [f"{LEGS},size=2,seed=5"] * 2 + ["own"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gym:leg_count", r"gym:leg_count: reasoning-gym has no task 'leg_count'; did you mean leg_counting\?"),
        (f"{LEGS},max_animal=3", r"has no setting 'max_animal'; did you mean max_animals\? \(known: min_animals, "),
        (f"{LEGS},max_animals=many", "max_animals=many is not what the task has there, such as 10"),
        (f"{LEGS},size=true", "size=true is not what the task has there, such as 500"),
        (f"{LEGS},size=0", "size=0 is out of range; it must be at least 1"),
        (f"{LEGS},size=2,size=3", "size stands twice; keep one"),
        (f"{LEGS},max_animals=2", "it cannot be made: AssertionError: max_animals must be >= min_animals"),
        (f"{LEGS},5", "reasoning-gym has no task 'leg_counting,5'"),
        (DataSet(LEGS, split="train"), "gym:leg_counting is made up here, so that split has no effect; drop it"),
    ],
)
def test_what_cannot_be_asked_is_said(name: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_prompts(name)


def test_where_there_is_nothing_to_learn_from_it_is_refused() -> None:
    for source in (LEGS, [LEGS], DataSet(LEGS)):
        with pytest.raises(ConfigError, match=r"gym:leg_counting asks questions and has no answers to learn from"):
            load_preferences(source)


def test_the_package_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("likelier.data.gym.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"gym:leg_counting needs a package .*: pip install 'likelier\[gym\]'"):
        load_prompts(LEGS)


def test_a_reward_takes_the_settings_that_its_verifier_looks_at() -> None:
    (sums,) = load_prompts("gym:puzzle24,size=1").train
    right = answered(sums, sums.columns["answer"])
    assert load_reward("gym:puzzle24")([right]).tolist() == [1]
    assert load_reward("gym:puzzle24,min_value=10")([right]).tolist() < [1]  # which holds smaller numbers to be foreign
    with pytest.raises(ConfigError, match=r"reward='gym:leg_counting,seed=3': seed has no effect here; drop it"):
        load_reward(f"{LEGS},seed=3")


def test_what_a_verifier_cannot_read_is_wrong_and_a_broken_row_an_error() -> None:
    (boxes,) = load_prompts("gym:boxnet,size=1").train
    assert load_reward("gym:boxnet")([answered(boxes, "0")]).tolist() == [0]  # where the package's own code raises
    broken = replace(boxes, columns={"answer": "0", "metadata": "{}"})
    with pytest.raises(ConfigError, match=r"reward='gym:boxnet': .*, question 1, answer 1: it raised "):
        load_reward("gym:boxnet")([answered(broken, "0")])


def own_score(score: Any, text: str, entry: Any) -> float:
    try:
        return score(text, entry)
    except Exception:
        return 0.0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # its files
@pytest.mark.parametrize("task", sorted(set(factory.DATASETS) - {"composite"}))  # which has no questions of its own
def test_every_task_judges_from_its_row_as_from_its_own_entry(task: str) -> None:
    rows, again = (load_prompts(f"gym:{task},size=3").train for _ in range(2))
    assert rows == again
    judge, score = load_reward(f"gym:{task}"), factory.get_score_answer_fn(task)
    for row in rows:
        columns = json.loads(json.dumps(row.columns))  # as files and other processes have them
        entry = {"question": row.prompt, "answer": columns["answer"], "metadata": read_metadata(columns["metadata"])}
        kept = replace(row, columns=columns)
        for text in (str(columns["answer"]), "0"):
            assert judge([answered(kept, text)]).tolist() == [pytest.approx(own_score(score, text, entry))]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "task", sorted(set(factory.DATASETS) - {"composite", "list_functions"})
)  # drawn anew each time
def test_every_task_judges_its_own_answers_as_the_package_does(task: str) -> None:
    own = gym.create_dataset(task, size=3, seed=0)
    rows = {one.prompt: one for one in load_prompts(f"gym:{task},size=3").train}
    judge = load_reward(f"gym:{task}")
    for entry in own:
        row, text = rows[entry["question"]], str(entry["answer"])
        assert judge([answered(row, text)]).tolist() == [pytest.approx(own.score_answer(text, entry))]
