"""Rewards that models give."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import Mock

import pytest
import torch

from likelier.data.records import Message, Source
from likelier.models.policy import load_policy
from likelier.online.rewards.load import RewardSet, load_reward
from likelier.online.rewards.models import ModelReward
from likelier.online.rewards.reward import Answered, FunctionReward
from likelier.utils.errors import ConfigError, LikelierWarning, ModelError
from tests.models.test_classifier import saved
from tests.online.test_rewards import answered

if TYPE_CHECKING:
    from tests.helpers.small_runs import SmallRuns


def test_a_model_scores_plain_answers_and_conversations(tmp_path: Path) -> None:
    saved(tmp_path / "judge", chat=True)
    reward = load_reward(f"model:{tmp_path}/judge/")
    talk = answered("yes", prompt=(Message("user", "how much?"),))
    cut = replace(answered("sat on"), stop_reason="length")
    found = reward([answered("sat on"), cut, talk])
    assert reward.name == "judge" and len(set(found.tolist())) == 3
    torch.testing.assert_close(
        found, torch.cat([reward([one]) for one in (answered("sat on"), cut, talk)]), rtol=0, atol=1e-6
    )


def test_a_folder_that_is_no_reward_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="reward='model:gone'"):
        load_reward("model:gone")


def test_only_reward_models_are_held_against_one_another() -> None:
    named = [ModelReward(name, f"model:{name}", Mock()) for name in ("one", "other")]
    function = FunctionReward("length", "length", Mock())
    parts = torch.tensor([[1.0, 9.0, 2.0], [3.0, 9.0, float("nan")]], dtype=torch.float64)
    several = RewardSet((named[0], function, named[1]), (1.0, 5.0, 2.0))
    found = several.spread(parts)
    assert found is not None and found[0] == pytest.approx(0.5**0.5) and found[1].isnan()
    assert RewardSet((named[0], function), (1.0, 1.0)).spread(parts[:, :2]) is None


def logp(policy: object, ids: list[int], start: int) -> float:
    with torch.no_grad():
        logps = policy.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)  # type: ignore[attr-defined]
    return sum(float(logps[place - 1, ids[place]]) for place in range(start, len(ids)))


def test_the_implicit_reward_of_a_run(runs: SmallRuns) -> None:
    """With its own tokenizer and template; an answer that was cut gets no end."""
    reward = load_reward(f"implicit:{runs.adapter}")
    talk = (Message("user", "the cat"),)
    whole = Answered(talk, "sat on", (9, 9), Source("prompts.jsonl", 1))
    found = reward([whole, replace(whole, number=2, stop_reason="length")]).tolist()
    policy = load_policy(runs.adapter)
    start = policy.tokenizer("<|im_start|>user\nthe cat<|im_end|>\n<|im_start|>assistant\n")["input_ids"]
    answer = policy.tokenizer("sat on<|im_end|>\n")["input_ids"]
    cut = answer[: answer.index(2)]
    for value, ids in zip(found, (answer, cut), strict=True):
        own = logp(policy, [*start, *ids], len(start))
        with policy.model.disable_adapter():
            other = logp(policy, [*start, *ids], len(start))
        assert value == pytest.approx(0.3 * (own - other), abs=1e-5) and value != 0


def test_what_the_run_cannot_read_has_no_verdict_and_is_told_once(runs: SmallRuns) -> None:
    reward = load_reward(f"implicit:{runs.adapter}")
    talk = (Message("user", "the cat"),)
    long = [Answered(talk, "sat on " * 4096, (9,), Source("prompts.jsonl", 7), number) for number in (1, 2)]
    with pytest.warns(LikelierWarning, match=r"prompts\.jsonl:7, answer 1 has no verdict.*over-max-length") as told:
        found = reward([long[0], Answered(talk, "", (9,), Source("prompts.jsonl", 8)), long[1]])
        assert reward(long).isnan().all()
    assert len(told) == 1 and found.isnan().tolist() == [True, False, True]


def test_a_run_without_a_reference_has_no_implicit_reward(runs: SmallRuns) -> None:
    with pytest.raises(ConfigError, match="the run has no reference"):
        load_reward(f"implicit:{runs.simpo}")
