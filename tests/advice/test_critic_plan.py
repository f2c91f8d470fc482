"""What a critic and the models around it hold, planned and as a run holds them. No clock decides."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from likelier.advice.memory import planner_for
from likelier.advice.rollout_memory import OnlinePlanner, online_planner_for
from likelier.cli import main as cli
from likelier.data.lengths import Row
from likelier.models.layers import met_weights
from likelier.models.options import LoraOptions
from likelier.models.policy import load_policy
from likelier.objectives.online import online_method
from likelier.online.critic import critic_for, hold_once, reward_models
from likelier.online.options import OnlineOptions
from likelier.online.outlook import OnlineOutlook
from likelier.online.rewards.load import load_rewards
from likelier.online.work import critic_share, online_work
from likelier.scoring import attach_scorer
from likelier.training.options import TrainingOptions
from tests.helpers.clocks import Clock
from tests.helpers.online_trainers import online_trainer
from tests.helpers.small_runs import save_tiny
from tests.helpers.support import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
LORA = LoraOptions(lora_r=4)
SPECS = {"function": "length:3", "adapter": "model:{}/adapter", "whole": "model:{}/whole"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy, a reward model and an adapter that is one, both on the policy as it was saved."""
    folder = tmp_path_factory.mktemp("critic-plan")
    save_tiny(folder / "model")
    for name, lora in {"whole": LoraOptions(), "adapter": LORA}.items():
        made = load_policy(str(folder / "model"), values=True, lora=lora, seed=3)
        for weight in made.model.parameters():  # after training none is the policy's any more
            if weight.requires_grad:
                torch.nn.init.normal_(weight, std=0.1)
        made.model.save_pretrained(folder / name)
        made.tokenizer.save_pretrained(folder / name)
    return folder


def planner(folder: Path, reward: str = "function", lora: bool = False, **more: Any) -> OnlinePlanner:
    spec = SPECS[reward].format(folder)
    online = OnlineOptions(reward=(spec,), max_new_tokens=more.pop("tokens", 16))
    objective = online_method(more.pop("method", "ppo"), **more.pop("changed", {}))
    given: dict[str, Any] = {"prompts": (10, 12, 8, 9), "device": "cpu", "dtype": "float32", "batch_size": 4} | more
    how = {"lora": LORA if lora else None}
    return online_planner_for(str(folder / "model"), objective, online, **how, **given)


@pytest.mark.parametrize("reward", SPECS)
@pytest.mark.parametrize("critic", ["own", "shared"])
@pytest.mark.parametrize("lora", [False, True])
def test_what_stands_is_what_a_run_holds(folder: Path, reward: str, critic: str, lora: bool) -> None:
    policy = load_policy(str(folder / "model"), lora=LORA if lora else None, dtype="float32")
    attach_scorer(policy.model)
    rewards = load_rewards([SPECS[reward].format(folder)])
    made = critic_for(online_method("ppo", critic=critic), policy, rewards)
    assert made is not None
    hold_once(policy, made, rewards)
    known = {id(weight) for weight in policy.model.parameters()}
    own = {id(one): one for one in made.model.parameters() if id(one) not in known}
    judging = {id(one): one for judge in reward_models(rewards).values() for one in judge.model.parameters()}
    trained = sum(weight.numel() for weight in made.own.values())

    found = planner(folder, reward, lora, changed={"critic": critic})
    parts, beside = found.plan(256).parts, found.rollouts.beside
    head = 4 * policy.model.config.hidden_size  # of an adapter's: peft keeps the one that it took the place of
    assert beside.critic is not None and beside.critic.own == trained
    assert parts["critic"] == pytest.approx(sum(one.nbytes for one in own.values()), abs=head)
    assert parts["optimizer"] == 8 * (found.weights.trained + trained)
    alone = sum(one.nbytes for key, one in judging.items() if key not in own and key not in known)
    if (reward, lora) != ("whole", True):  # equal embeddings of a whole reward model are not known beforehand
        assert parts["rewards"] == pytest.approx(alone, abs=2 * head)
    assert parts["reference"] == (0 if lora else parts["weights"])


def test_one_base_is_loaded_several_times_and_held_once(folder: Path) -> None:
    found = planner(folder, "adapter", lora=True)
    base = found.weights.frozen_bytes
    assert 1.9 * base < found.rollouts.beside.loading < 2.5 * base  # mapped from files, and looked at one by one
    assert planner(folder, "adapter", lora=True, device="cuda", memory=10**9).rollouts.beside.loading > 2.9 * base
    plan = found.plan(256)
    assert plan.parts["critic"] + plan.parts["rewards"] < base / 2
    assert plan.scoring > found.rollouts.beside.loading > plan.parts["weights"] + plan.parts["critic"]
    full = planner(folder, "adapter")  # a policy that trains its base shares it with nobody, critic and judge do
    critic = full.rollouts.beside.critic
    assert critic is not None and critic.bytes > critic.weights.frozen_bytes
    assert full.rollouts.beside.rewards < base / 2
    other = planner(folder, "adapter", lora=True, method="grpo", changed={"answers_per_prompt": 2})
    assert other.rollouts.beside.rewards < base / 2


def test_the_critic_goes_before_the_policy_and_its_activations_are_gone(folder: Path) -> None:
    with_critic, without = planner(folder), planner(folder, method="reinforce", changed={"answers_per_prompt": 1})
    critic = with_critic.rollouts.beside.critic
    assert critic is not None and with_critic.of_critic is not None
    whole, one = with_critic.plan(10_000), with_critic.plan(30)
    assert not whole.several and one.several
    assert one.parts["gradients"] == with_critic.weights.trained_bytes + critic.gradients
    alone = without.plan(30)
    assert one.parts["activations"] + one.parts["head"] == alone.parts["activations"] + alone.parts["head"]
    trace = with_critic.of_critic.trace((Row(12, (16,)),))
    assert trace.forward.total < with_critic.tracer.trace((Row(12, (16,)),)).forward.total  # no head for words
    assert one.sampling["gradients"] == critic.own_gradients  # which wait for the next step
    shared = planner(folder, changed={"critic": "shared"}).plan(30)
    assert shared.parts["gradients"] == pytest.approx(shared.parts["weights"], rel=0.1)
    assert shared.sampling["gradients"] < shared.parts["gradients"] / 10


def test_a_reward_model_is_planned_without_a_head_for_words() -> None:
    config = tiny_model(dtype=torch.float32).config
    more: dict[str, Any] = {"device": "cpu", "max_length": 64, "batch_size": 4}
    judge, pairs = (planner_for(config, method=method, **more) for method in ("reward", "simpo"))
    assert judge.weights.count == pairs.weights.count + config.hidden_size  # the head for words is the embedding here
    assert judge.plan(256).parts["head"] < pairs.plan(256).parts["head"]
    assert judge.plan(256).evaluating < pairs.plan(256).evaluating
    assert judge.for_method("simpo").plan(256).parts == pairs.plan(256).parts
    assert pairs.for_method("reward").plan(256).parts == judge.plan(256).parts


def test_the_critics_passes_take_time(folder: Path) -> None:
    objective, online = online_method("ppo"), OnlineOptions(reward=("json",), max_new_tokens=16, updates_per_rollout=4)
    how: dict[str, Any] = {"at_once": 64, "token_budget": 1024}
    alone, beside = (
        online_work([10] * 20, [], objective, online, TrainingOptions(batch_size=4), critic=share, **how)
        for share in (0.0, 0.5)
    )
    assert beside.training == 1.5 * alone.training == 1.5 * 4 * 20 * (10 + 15)
    assert alone.statistics == 2 * 20 * 25 and beside.statistics == 2.5 * 20 * 25  # the reference, the policy, values
    assert beside.sampling == alone.sampling and beside.micro_batch == alone.micro_batch
    assert critic_share(100, 100, 50, prompt=10, answers=1, most=15) == 100 / (100 + 50 * 15 / 24)

    found, policy = planner(folder), load_policy(str(folder / "model"))
    critic = found.rollouts.beside.critic
    assert critic is not None
    assert critic.passed == pytest.approx(met_weights(policy.model), rel=0.01)
    assert 0 < found.critic_share(10.0) < 1 and found.updated == pytest.approx(2, rel=0.35)
    none = planner(folder, method="grpo", changed={"answers_per_prompt": 2})
    assert none.critic_share(10.0) == 0 and none.updated == 1


def test_the_line_at_a_runs_start_counts_the_critic(tmp_path: Path) -> None:
    made = online_trainer(tmp_path / "run", method="ppo", changed={"critic_warmup": 0})
    critic, given = made._walker.critic, (made.run, made._maker.sampler, 256, torch.device("cpu"))
    with_critic, without = (OnlineOutlook(*given, critic=one, clock=Clock()) for one in (critic, None))
    ratio = with_critic._work.training / without._work.training
    assert 1.2 < ratio < 2
    assert made._outlook._work.training == with_critic._work.training


def test_the_commands_name_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, reward = str(folder / "model"), SPECS["adapter"].format(folder)
    asked = ["estimate", "--model", model, "--method", "ppo", "--reward", reward, "--device", "cpu", "--lora-r", "4"]
    capsys.readouterr()
    assert cli.main([*asked, "--max-new-tokens", "8", "--max-prompt-length", "9", "--batch-size", "2"]) == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "critic (what it alone holds)" in words
    assert "the critic begins as the reward model" in words and "with an adapter of its own" in words


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [13, 14])
def test_the_plan_holds_in_a_real_run(number: int, tmp_path: Path) -> None:
    """Two rollouts of a random model of 21 million weights, in a process of its own."""
    sizes = {"vocab_size": 8192, "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 6}
    tiny_model(0, torch.float32, **sizes, num_attention_heads=8, initializer_range=0.02).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    script, judge = str(ROOT / "benchmarks" / "memory_plan.py"), str(tmp_path / "judge")
    words = [sys.executable, script, "--model", str(tmp_path)]
    if number == 14:
        subprocess.run([*words, "--judge", "adapter", judge], check=True, capture_output=True)
    blocks = {"MALLOC_MMAP_THRESHOLD_": "131072"}  # freed blocks go back at once: see the script
    run = [*words, "--only", str(number), "--folder", judge]
    done = subprocess.run(run, capture_output=True, text=True, check=False, env=os.environ | blocks)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["planned"] == pytest.approx(found["measured"], rel=0.15)
