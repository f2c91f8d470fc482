"""Where a critic comes from, what it shares with the policy, and what it keeps to itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from likelier.data.groups import Group
from likelier.data.records import Source
from likelier.models.options import LoraOptions
from likelier.models.policy import Policy, load_policy
from likelier.models.sharing import share_frozen
from likelier.objectives.online import online_method
from likelier.online.critic import Critic, critic_for, hold_once
from likelier.online.rewards.load import RewardSet, load_rewards
from likelier.scoring import attach_scorer, collate
from likelier.utils.errors import RunFolderError
from tests.helpers.small_runs import save_tiny

pytestmark = pytest.mark.slow
LORA = LoraOptions(lora_r=4)
FUNCTION = load_rewards(["length:3"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy, a reward model and an adapter that is one, all on one base."""
    folder = tmp_path_factory.mktemp("critic")
    save_tiny(folder / "model")
    for name, lora in {"whole": LoraOptions(), "adapter": LORA}.items():
        made = load_policy(str(folder / "model"), values=True, lora=lora, seed=3)
        for weight in made.model.parameters():
            if weight.requires_grad:
                torch.nn.init.normal_(weight, std=0.1)
        made.model.save_pretrained(folder / name)
        made.tokenizer.save_pretrained(folder / name)
    return folder


def policy_of(folder: Path, lora: bool = False) -> Policy:
    policy = load_policy(str(folder / "model"), lora=LORA if lora else None)
    attach_scorer(policy.model)
    return policy


def made(policy: Policy, rewards: RewardSet, shared: bool) -> Critic:
    critic = critic_for(online_method("ppo", critic="shared" if shared else "own"), policy, rewards)
    assert critic is not None
    hold_once(policy, critic, rewards)
    return critic


def batch() -> Any:
    def ids(*numbers: int) -> np.ndarray:
        return np.array(numbers, dtype=np.int32)

    place = Source("made up", 1)
    groups = [
        Group(ids(3, 4, 5, 6), (ids(7, 8, 9), ids(7, 8, 3, 2)), place),
        Group(ids(9, 4), (ids(5), ids(6, 6, 6)), place),
    ]
    return collate(groups)


def bytes_beside(policy: Policy, critic: Critic) -> int:
    own = {id(weight) for weight in policy.model.parameters()}
    return sum(weight.nbytes for weight in critic.model.parameters() if id(weight) not in own)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("lora", [False, True])
def test_a_new_head_says_nothing_and_learns(folder: Path, lora: bool, shared: bool) -> None:
    policy = policy_of(folder, lora)
    critic = made(policy, FUNCTION, shared)
    values = critic(batch())
    assert critic.is_new and not bool(values.token_logps.any())
    ((values.token_logps - 1) ** 2).sum().backward()
    heads = [name for name, weight in critic.own.items() if weight.grad is not None and bool(weight.grad.any())]
    assert heads == [name for name in critic.own if name.endswith("score.weight")]
    before = policy.model(batch=batch()).logps
    with torch.no_grad():
        for name, weight in critic.own.items():
            weight.add_(0.1 if name in heads or not shared else 0)
    assert bool(critic(batch()).token_logps.any())
    torch.testing.assert_close(policy.model(batch=batch()).logps, before, rtol=0, atol=0)  # none of it is the policy's


def test_what_is_held_twice(folder: Path) -> None:
    trained = policy_of(folder, lora=True).parameters["trainable"] * 4
    sizes = {
        (lora, shared): bytes_beside(policy := policy_of(folder, lora), made(policy, FUNCTION, shared))
        for lora in (False, True)
        for shared in (False, True)
    }
    width = policy_of(folder).model.config.hidden_size
    head = 4 * width
    assert sizes[True, True] == sizes[False, True] == head
    assert sizes[True, False] == trained + head
    assert sizes[False, False] > policy_of(folder).parameters["all"] * 3  # all but the head for words


@pytest.mark.parametrize("name", ["whole", "adapter"])
@pytest.mark.parametrize("lora", [False, True])
def test_it_begins_as_the_reward_model(folder: Path, name: str, lora: bool) -> None:
    policy, rewards = policy_of(folder, lora), load_rewards([f"model:{folder / name}"])
    critic = made(policy, rewards, False)
    assert not critic.is_new and str(folder / name) in critic.words
    judge = load_policy(str(folder / name), values=True)
    attach_scorer(judge.model)
    with torch.no_grad():
        found, wanted = critic(batch()), judge.model(batch=batch())
    for own, theirs in zip(*(one.token_logps.split(one.lengths.tolist()) for one in (found, wanted)), strict=True):
        torch.testing.assert_close(own[1:], theirs[:-1], rtol=0, atol=1e-5)
    trained = [weight for weight in critic.own.values() if weight.requires_grad]
    if name == "adapter" and lora:  # one base for the policy, the critic and the reward model
        head = 4 * policy.model.config.hidden_size  # peft keeps the one that it took the place of
        assert bytes_beside(policy, critic) == sum(weight.nbytes for weight in trained) + head
        theirs = {id(weight) for weight in policy.model.parameters()}
        classifier: Any = rewards.rewards[0]
        alone = [one for one in classifier.classifier.model.parameters() if id(one) not in theirs]
        assert sum(weight.nbytes for weight in alone) < policy.parameters["all"]


def test_it_drops_nothing(folder: Path, tmp_path: Path) -> None:
    dropping = load_policy(str(folder / "model"), values=True, lora=LoraOptions(lora_r=4, lora_dropout=0.5), seed=3)
    dropping.model.save_pretrained(tmp_path / "judge")
    dropping.tokenizer.save_pretrained(tmp_path / "judge")
    critic = made(policy_of(folder, lora=True), load_rewards([f"model:{tmp_path / 'judge'}"]), False)
    critic.model.train()
    with torch.no_grad():
        for weight in critic.own.values():
            weight.normal_(std=0.1)
    one, other = critic(batch()).token_logps, critic(batch()).token_logps
    assert critic.model.training and bool(one.any())
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_scores_do_not_change_by_sharing(folder: Path) -> None:
    policy, judge = policy_of(folder, lora=True), load_policy(str(folder / "adapter"), values=True)
    judge.model.requires_grad_(False)
    attach_scorer(judge.model)
    before = judge.model(batch=batch()).logps
    freed = share_frozen(judge.model, [policy.model])
    assert freed > policy.parameters["all"] * 3
    torch.testing.assert_close(judge.model(batch=batch()).logps, before, rtol=0, atol=0)
    assert share_frozen(judge.model, [policy_of(folder).model]) == 0  # which trains all of its weights


def test_it_is_saved_and_found_again(folder: Path, tmp_path: Path) -> None:
    policy = policy_of(folder, lora=True)
    critic, other = (made(policy, FUNCTION, False) for _ in range(2))
    with torch.no_grad():
        for weight in critic.own.values():
            weight.normal_()
    critic.save(tmp_path)
    other.load(tmp_path)
    torch.testing.assert_close(critic(batch()).token_logps, other(batch()).token_logps, rtol=0, atol=0)
    with pytest.raises(RunFolderError, match="other weights"):
        made(policy, FUNCTION, True).load(tmp_path)
    (tmp_path / "critic.safetensors").write_bytes(b"nothing")
    with pytest.raises(RunFolderError, match="damaged"):
        other.load(tmp_path)
