"""Runs that learn from pairs of their own answers: the engine's step is that of a plain loop, ties cost nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from likelier.models.policy import Policy
from likelier.online.rollout import Rollout
from likelier.online.trainer import OnlineTrainer
from likelier.utils.errors import LikelierWarning, TrainingError
from tests.helpers.online_trainers import online_trainer as trainer
from tests.helpers.online_trainers import same, steps, weights
from tests.helpers.support import lora_policy, tiny_policy

pytestmark = pytest.mark.slow
METHODS = pytest.mark.parametrize("method", ["online_dpo", "rebel"])
FOUR = {"answers_per_prompt": 4}


def rolled_out(made: OnlineTrainer, updates: int = 1) -> Rollout:
    """Of the first four prompts, with all that its method needs."""
    made._prepare_reference()
    made._maker.options = replace(made._maker.options, updates_per_rollout=updates)
    return made._maker.make(made._asked[:4], 0)[0]


def plain_logp(policy: Policy, prompt: Any, answer: Any) -> Tensor:
    """Of one answer, by a forward pass of the model alone."""
    ids = torch.tensor([[*prompt.tolist(), *answer.tolist()]])
    logps = policy.model.base_model(input_ids=ids).last_hidden_state @ policy.model.get_output_embeddings().weight.T
    return logps[0].log_softmax(-1)[len(prompt) - 1 : -1].gather(1, ids[0, len(prompt) :, None]).sum()


@METHODS
def test_a_step_is_that_of_a_plain_loop(method: str, tmp_path: Path) -> None:
    """Best against worst of four answers, row by row, without the engine; the policy has moved since it wrote them."""
    policy = tiny_policy()
    made = trainer(tmp_path / "run", policy, method, reward="length:20 characters", changed=FOUR)
    rollout = rolled_out(made, updates=2)
    for weight in policy.model.parameters():
        weight.data += 0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)).to(weight)
    done = made._walker.walk(policy.model, rollout, lambda loss: loss.backward())
    found = {name: weight.grad.clone() for name, weight in policy.model.named_parameters() if weight.grad is not None}
    policy.model.zero_grad()
    charged = rollout.rewards.clone()
    assert rollout.old is not None and rollout.ref is not None
    if method == "rebel":
        charged -= 0.05 * torch.tensor([float((a - b).sum()) for a, b in zip(rollout.old, rollout.ref, strict=True)])
    losses = []
    for prompt, asked in enumerate(rollout.asked):
        own = (rollout.group_of == prompt).nonzero()[:, 0].tolist()
        best, worst = max(own, key=lambda one: charged[one]), min(own, key=lambda one: charged[one])
        if charged[best] == charged[worst]:
            continue
        base = rollout.old if method == "rebel" else rollout.ref
        chosen, rejected = (
            plain_logp(policy, asked.ids, rollout.answers[one].ids) - float(base[one].sum()) for one in (best, worst)
        )
        gap = float(charged[best] - charged[worst])
        distance = chosen - rejected
        losses.append((distance - gap) ** 2 if method == "rebel" else torch.log(1 + torch.exp(-0.1 * distance)))
    assert len(losses) > 1
    expected = torch.stack(losses).mean()
    expected.backward()
    assert float(done.losses.sum()) == pytest.approx(float(expected.detach()), abs=1e-10)
    for name, weight in policy.model.named_parameters():
        assert torch.allclose(found[name], weight.grad, rtol=0, atol=1e-10), name


@METHODS
@pytest.mark.parametrize("make", [tiny_policy, lora_policy])
def test_both_train_with_a_known_beginning(method: str, make: Callable[[], Policy], tmp_path: Path) -> None:
    policy = make()
    before = weights(policy)
    made = trainer(tmp_path / "run", policy, method, reward="length:20 characters", held_out=3, max_steps=2)
    made.train()
    assert not same(before, weights(policy))
    first, second = steps(tmp_path / "run")
    if method == "online_dpo":
        assert first["loss"] == pytest.approx(math.log(2))
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-9) and first["sampler/max_diff"] < 1e-9
    assert first["kl"] == pytest.approx(0, abs=1e-9) and second["kl"] != pytest.approx(0, abs=1e-6)
    assert {"reward", "pairs/count", "pairs/ties", "pairs/reward_gap", "logps/chosen", "sampler/kl"} <= first.keys()
    assert first["pairs/count"] + first["pairs/ties"] == 4


def test_a_file_of_answers_says_which_make_a_pair(tmp_path: Path) -> None:
    trainer(tmp_path / "run", None, "online_dpo", reward="length:20 characters", changed=FOUR, max_steps=1).train()
    rows = [json.loads(line) for line in (tmp_path / "run/rollouts/step-1.jsonl").read_text().splitlines()]
    for row in rows:
        sides = {one["side"]: one["reward"] for one in row["answers"] if "side" in one}
        rewards = [one["reward"] for one in row["answers"]]
        assert sides == {"chosen": max(rewards), "rejected": min(rewards)}
        assert [one["counts"] for one in row["answers"]] == ["side" in one for one in row["answers"]]


REWARD = """
from pathlib import Path

def reward(prompts, completions, **columns):
    seen = Path(__file__).with_name("seen")
    if seen.exists():
        return [float(len(one[-1]["content"])) for one in completions]
    seen.touch()
    return [0.0 for _ in completions]
"""


def test_a_step_of_nothing_but_ties_moves_nothing_and_the_run_goes_on(tmp_path: Path) -> None:
    (tmp_path / "rewards.py").write_text(REWARD)
    policy = tiny_policy()
    with pytest.warns(LikelierWarning, match="gradient is 0: the answers that are compared earned the same"):
        trainer(tmp_path / "run", policy, "online_dpo", reward=f"{tmp_path}/rewards.py:reward", max_steps=3).train()
    lines = steps(tmp_path / "run")
    assert lines[0]["pairs/count"] == 0 and lines[0]["pairs/ties"] == 4
    assert lines[0]["loss"] == 0 == lines[0]["grad_norm"] and "rewards/margins" not in lines[0]
    assert lines[1]["loss"] == pytest.approx(math.log(2)) and lines[1]["grad_norm"] > 0


def test_a_run_of_nothing_but_ties_says_so(tmp_path: Path) -> None:
    with (
        pytest.warns(LikelierWarning, match="gradient is 0: the answers that are compared earned the same"),
        pytest.raises(TrainingError, match="no weight has changed in 1 steps"),
    ):
        trainer(tmp_path / "run", None, "online_dpo", reward="regex:.*", max_steps=1).train()


def test_an_answer_that_is_cut_is_in_no_pair_where_it_is_masked(tmp_path: Path) -> None:
    made = trainer(
        tmp_path / "run",
        None,
        "online_dpo",
        reward="length:20 characters",
        changed={"answers_per_prompt": 16},
        online={"truncated": "mask", "max_new_tokens": 80},
    )
    rollout = rolled_out(made)
    whole = [answer.is_whole for answer in rollout.answers]
    assert any(whole) and not all(whole)
    numbers = [number for pair in rollout.pairs() for number in pair]
    assert numbers and all(whole[number] for number in numbers)


def test_two_answers_with_one_verdict_are_no_pair(tmp_path: Path) -> None:
    found = "[None if at % 2 else 1.0 for at in range(len(prompts))]"
    (tmp_path / "rewards.py").write_text(f"def reward(prompts, completions, **columns):\n    return {found}\n")
    made = trainer(tmp_path / "run", None, "online_dpo", reward=f"{tmp_path}/rewards.py:reward")
    with pytest.raises(
        TrainingError, match=r"no answer of the step can be learnt from: of 8 answers 4 have no verdict"
    ):
        made.train()
