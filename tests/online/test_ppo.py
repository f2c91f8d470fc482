"""PPO runs: policy and critic learn together, however a step is cut, and go on after a kill as if there was none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from likelier.models.policy import load_policy
from likelier.online.trainer import OnlineTrainer
from likelier.utils.errors import ConfigError
from tests.helpers.online_trainers import online_trainer, same, steps, weights
from tests.helpers.small_runs import save_tiny
from tests.helpers.support import lora_policy, tiny_policy

pytestmark = pytest.mark.slow


def ppo(folder: Path, policy: Any = None, **given: Any) -> OnlineTrainer:
    online = {"updates_per_rollout": 2, "truncated": "replace"} | given.pop("online", {})
    return online_trainer(folder, policy, "ppo", online=online, **given)


@pytest.mark.parametrize("critic", ["own", "shared"])
@pytest.mark.parametrize("make", [tiny_policy, lora_policy])
def test_policy_and_critic_learn(tmp_path: Path, make: Any, critic: str) -> None:
    trainer = ppo(
        tmp_path / "run", make(), changed={"critic": critic, "critic_warmup": 1}, max_steps=6, logging_steps=1
    )
    before = weights(trainer.policy)
    trainer.train()
    lines = steps(tmp_path / "run")
    assert {"value/loss", "value/mean", "value/clip_ratio", "kl", "clip_ratio/region_mean"} <= lines[-1].keys()
    assert {"returns", "kl_penalty", "value/explained_variance"} <= lines[-2].keys()  # of a rollout
    assert lines[0]["value/explained_variance"] == pytest.approx(0)  # a head that says 0 knows nothing
    assert lines[0]["value/mean"] == 0 and lines[-1]["value/mean"] != 0
    assert not same(before, weights(trainer.policy))
    if critic == "own":  # else the value head moves the trunk from the beginning
        assert lines[1]["ratio/mean"] == pytest.approx(1, abs=1e-9)
        assert lines[3]["ratio/mean"] != 1


def test_the_card_says_who_takes_part_and_what_each_holds(tmp_path: Path) -> None:
    ppo(tmp_path / "run", lora_policy(), max_steps=5).train()
    roles = {role["name"]: role for role in json.loads((tmp_path / "run" / "run.json").read_text())["roles"]}
    assert list(roles) == ["actor", "critic", "reference", "reward"]
    actor, critic = roles["actor"], roles["critic"]
    assert critic["weights"] * 3 == critic["training"] < actor["weights"] and actor["training"] > 0
    assert "adapter of its own on the policy's base" in critic["words"]
    assert roles["reference"]["weights"] == 0 and "switched off" in roles["reference"]["words"]


@pytest.mark.parametrize("critic", ["own", "shared"])
def test_how_a_step_is_cut_changes_nothing(critic: str, tmp_path: Path) -> None:
    found = []
    for budget in (40, 4096):
        trainer = ppo(tmp_path / str(budget), changed={"critic": critic, "critic_warmup": 0}, token_budget=budget)
        trainer.train()
        names = ("loss", "value/loss", "value/mean", "grad_norm", "value/explained_variance")
        lines = [[line.get(name) for name in names] for line in steps(tmp_path / str(budget))]
        found.append((weights(trainer.policy), [one for line in lines for one in line if one is not None]))
    assert same(found[0][0], found[1][0], 1e-9)
    assert found[0][1] == pytest.approx(found[1][1], abs=1e-9)


@pytest.mark.parametrize("make", [tiny_policy, lora_policy])
def test_a_run_that_goes_on_ends_where_one_without_a_break_ends(tmp_path: Path, make: Any) -> None:
    """Broken off between two updates on one rollout, with a price that is steered: critic, moments and all."""
    given: dict[str, Any] = {"save_steps": 3, "max_steps": 6, "changed": {"kl_target": 0.5, "kl_horizon": 20.0}}
    whole, broken, again = make(), make(), make()
    complete = ppo(tmp_path / "whole", whole, **given)
    complete.train()
    first = ppo(tmp_path / "broken", broken, **given)
    walk, calls = first._walker.walk, []

    def until_the_fifth(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) > 4:
            raise KeyboardInterrupt
        return walk(*arguments, **named)

    first._walker.walk = until_the_fifth  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        first.train()
    resumed = ppo(tmp_path / "broken", again, **given, resume=True)
    resumed.train()
    assert same(weights(whole), weights(again))
    critics = [trainer._walker.critic for trainer in (complete, resumed)]
    assert critics[0] is not None and critics[1] is not None
    assert all(torch.equal(one, critics[1].own[name]) for name, one in critics[0].own.items())
    kept = ("loss", "value/loss", "reward", "returns", "kl_coefficient", "grad_norm", "entropy")
    lines = [[{name: line.get(name) for name in kept} for line in steps(tmp_path / run)] for run in ("whole", "broken")]
    assert lines[0] == lines[1]
    assert len({line["kl_coefficient"] for line in lines[0] if line["kl_coefficient"]}) > 1


def test_an_answer_without_an_end_earns_what_takes_its_rewards_place(tmp_path: Path) -> None:
    online = {"max_new_tokens": 2, "missing_eos_reward": -7.0}
    ppo(tmp_path / "run", online=online, changed={"critic_warmup": 0}, max_steps=1).train()
    (line,) = steps(tmp_path / "run")
    assert line["completions/clipped_ratio"] > 0.5 and line["reward"] < -3
    (file,) = (tmp_path / "run" / "rollouts").iterdir()
    answers = [one for row in file.read_text().splitlines() for one in json.loads(row)["answers"]]
    cut = [one for one in answers if one["stop_reason"] == "length"]
    assert {one["reward"] for one in cut} == {-7.0}
    assert all(len(one["values"]) == len(one["token_advantages"]) == one["tokens"] for one in answers)


def test_a_reward_under_which_not_ending_pays_is_told(tmp_path: Path) -> None:
    """A reward that is always below what a cut answer is given: the best is then never to end."""
    (tmp_path / "low.py").write_text("def reward(completions, **more):\n    return [-13.0] * len(completions)\n")
    low = {"reward": f"{tmp_path / 'low.py'}:reward", "max_steps": 5}
    with pytest.warns(UserWarning, match=r"is given -1, and those that end earn -13 .* learn not to end") as told:
        ppo(tmp_path / "paid", online={"max_new_tokens": 60}, **low).train()
    assert sum("not to end" in str(one.message) for one in told) == 1
    punished = {"max_new_tokens": 60, "missing_eos_reward": -20.0}
    ppo(tmp_path / "punished", online=punished, **low).train()  # warnings are errors here


def test_entropy_is_worth_what_its_coefficient_says(tmp_path: Path) -> None:
    """The same first step with and without: the loss is less by the coefficient times the mean entropy."""
    losses, entropies = [], []
    for coefficient in (0.0, 0.5):
        changed = {"entropy_coefficient": coefficient, "critic_warmup": 0}
        trainer = ppo(tmp_path / str(coefficient), changed=changed, max_steps=2, logging_steps=1)
        trainer.train()
        losses.append(steps(tmp_path / str(coefficient))[0]["loss"])
        rollout = trainer._rollout
        assert rollout is not None
        entropies.append(exact_entropy(rollout))
    assert losses[0] - losses[1] == pytest.approx(0.5 * entropies[0], abs=1e-9)


def exact_entropy(rollout: Any) -> float:
    """Mean over the tokens, under the policy that wrote them."""
    model, found = tiny_policy().model.eval(), []
    for number, answer in enumerate(rollout.answers):
        prompt = rollout.asked[int(rollout.group_of[number])].ids
        ids = torch.tensor([*prompt.tolist(), *answer.ids.tolist()])[None]
        with torch.no_grad():
            logps = model(input_ids=ids).logits[0].log_softmax(-1)
        found.append(-(logps.exp() * logps).sum(-1)[len(prompt) - 1 : -1])
    return float(torch.cat(found).mean())


def test_the_critic_is_clipped_with_the_policy(tmp_path: Path) -> None:
    trainer = ppo(tmp_path / "run", changed={"critic_warmup": 0}, max_steps=1, trainer={"max_grad_norm": 1e-3})
    trainer.train()
    critic = trainer._walker.critic
    assert critic is not None
    both = [one.grad for one in (*trainer.policy.model.parameters(), *critic.own.values()) if one.grad is not None]
    assert float(torch.stack([one.norm() for one in both]).norm()) <= 1e-3 * (1 + 1e-6)


def test_a_reward_model_s_level_is_found_on_the_first_rollout(tmp_path: Path) -> None:
    """A critic that begins as one: of beginnings of answers it says something else than of whole ones."""
    policy = tiny_policy(dtype=torch.float32)
    save_tiny(tmp_path / "model")
    judge = load_policy(str(tmp_path / "model"), values=True, seed=3)
    with torch.no_grad():
        judge.model.score.weight.mul_(50)
    judge.model.save_pretrained(tmp_path / "judge")
    judge.tokenizer.save_pretrained(tmp_path / "judge")
    trainer = ppo(tmp_path / "run", policy, reward=f"model:{tmp_path / 'judge'}", max_steps=6, logging_steps=1)
    trainer.train()
    first = steps(tmp_path / "run")[0]
    critic, rollout = trainer._walker.critic, trainer._rollout
    assert critic is not None and rollout is not None and not critic.is_new and critic.offset != 0
    assert abs(first["value/mean"] - first["returns"]) < 0.2 * abs(critic.offset) + 0.2
    assert trainer.progress()["estimator"]["critic_offset"] == critic.offset


def test_gradients_are_not_clipped_unless_that_is_asked(tmp_path: Path) -> None:
    trainer = ppo(tmp_path / "run", changed={"critic_warmup": 0}, max_steps=1)
    assert trainer.args.max_grad_norm == 0 and trainer.args.adam_epsilon == 1e-5
    assert online_trainer(tmp_path / "grpo").args.max_grad_norm == 1


def test_the_critic_has_its_own_rate_and_activations_that_are_computed_again(tmp_path: Path) -> None:
    found = []
    for again in (False, True):
        changed = {"critic_warmup": 0, "critic_learning_rate": 3e-3}
        trainer = ppo(tmp_path / str(again), lora_policy(), changed=changed, activation_checkpointing=again)
        trainer.train()
        group = trainer.optimizer.param_groups[-1]
        assert (group["lr"], group["weight_decay"], group["eps"]) == (3e-3, 0.0, 1e-5)
        found.append([line["value/loss"] for line in steps(tmp_path / str(again))])
    assert found[0] == pytest.approx(found[1], abs=1e-9)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"kl_horizon": 5.0}, "kl_target"),
        ({"kl_target": 1.0, "kl_coefficient": 0.0}, "divergence to steer"),
        ({"gae_lambda": 1.5}, "from 0 to 1"),
        ({"critic": "none"}, "own, shared"),
        ({"value_coefficient": 0.0}, "above 0"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(changed: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        ppo(tmp_path / "run", changed=changed)


def test_a_run_in_which_the_critic_alone_would_learn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"critic_warmup=3 .* all 6 steps"):
        ppo(tmp_path / "run", changed={"critic_warmup": 3}, max_steps=6)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_reward_in_its_place_needs_the_option_that_puts_it_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="truncated=replace"):
        ppo(tmp_path / "run", online={"truncated": "keep", "missing_eos_reward": 0.0})
