"""The policy writes, rewards judge, a step learns: whatever is cut, stopped or gone on with."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from likelier.models.policy import Policy
from likelier.utils.errors import ConfigError, LikelierWarning, TrainingError
from tests.helpers.online_trainers import PROMPTS, online_options, same, steps, weights
from tests.helpers.online_trainers import online_trainer as trainer
from tests.helpers.support import lora_policy, tiny_policy


@pytest.mark.slow
@pytest.mark.parametrize("method", ["grpo", "dr_grpo", "rloo", "gspo", "cispo", "reinforce"])
@pytest.mark.parametrize("make", [tiny_policy, lora_policy])
def test_every_method_trains(method: str, make: Callable[[], Policy], tmp_path: Path) -> None:
    policy = make()
    before = weights(policy)
    trainer(tmp_path / "run", policy, method, reward="length:20 characters", held_out=3, max_steps=2).train()
    assert not same(before, weights(policy))
    first = steps(tmp_path / "run")[0]
    assert first["ratio/mean"] == pytest.approx(1, abs=1e-9)
    assert first["sampler/max_diff"] < 1e-9
    assert {"reward", "completions/mean_length", "entropy", "rewards/length/mean"} <= first.keys()


@pytest.mark.slow
@pytest.mark.parametrize("updates", [1, 2])
@pytest.mark.parametrize("method", ["grpo", "rloo", "online_dpo", "rebel"])
def test_how_a_step_is_cut_changes_nothing(method: str, updates: int, tmp_path: Path) -> None:
    found = []
    for budget in (40, 4096):
        policy = tiny_policy()
        trainer(
            tmp_path / str(budget), policy, method, online={"updates_per_rollout": updates}, token_budget=budget
        ).train()
        found.append((weights(policy), [line["loss"] for line in steps(tmp_path / str(budget))]))
    assert same(found[0][0], found[1][0], 1e-9)
    assert found[0][1] == pytest.approx(found[1][1], abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["grpo", "online_dpo", "rebel"])
@pytest.mark.parametrize("updates", [1, 3])
def test_a_run_that_goes_on_ends_where_one_without_a_break_ends(method: str, updates: int, tmp_path: Path) -> None:
    whole, broken = lora_policy(), lora_policy()
    online = {"updates_per_rollout": updates}
    trainer(tmp_path / "whole", whole, method, online=online, held_out=3, save_steps=2).train()
    first = trainer(tmp_path / "broken", broken, method, online=online, held_out=3, save_steps=2)
    walk, calls = first._walker.walk, []

    def until_the_third(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return walk(*arguments, **named)

    first._walker.walk = until_the_third  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        first.train()
    again = lora_policy()
    trainer(tmp_path / "broken", again, method, online=online, held_out=3, save_steps=2, resume=True).train()
    assert same(weights(whole), weights(again))
    kept = ("loss", "reward", "grad_norm", "entropy")
    lines = [[{name: line.get(name) for name in kept} for line in steps(tmp_path / run)] for run in ("whole", "broken")]
    assert lines[0] == lines[1]


@pytest.mark.slow
def test_activations_that_are_computed_again_change_nothing(tmp_path: Path) -> None:
    found = []
    for again in (False, True):
        policy = lora_policy()
        trainer(tmp_path / str(again), policy, max_steps=2, activation_checkpointing=again).train()
        found.append(weights(policy))
    assert same(*found, 1e-9)


@pytest.mark.slow
def test_every_prompt_is_asked_once_an_epoch(tmp_path: Path) -> None:
    asked: list[str] = []
    made = trainer(tmp_path / "run", max_steps=None, epochs=1, online={"updates_per_rollout": 2})
    make = made._maker.make

    def noted(prompts: Any, step: int) -> Any:
        asked.extend(str(one.prompt.source) for one in prompts)
        return make(prompts, step)

    made._maker.make = noted  # type: ignore[method-assign]
    made.train()
    assert sorted(asked) == sorted(str(prompt.source) for prompt in PROMPTS)
    assert len(steps(tmp_path / "run")) == 6


@pytest.mark.slow
@pytest.mark.parametrize(("place", "method"), [("loss", "grpo"), ("reward", "rloo")])
@pytest.mark.parametrize("make", [tiny_policy, lora_policy])
def test_the_divergence_from_where_it_began_is_measured(
    make: Callable[[], Policy], place: str, method: str, tmp_path: Path
) -> None:
    changed = {"kl_coefficient": 0.1, "kl_place": place}
    trainer(tmp_path / "run", make(), method, changed=changed, held_out=3).train()
    kl = [line["kl"] for line in steps(tmp_path / "run")]
    assert kl[0] == pytest.approx(0, abs=1e-9)
    assert all(value != pytest.approx(0, abs=1e-6) for value in kl[1:])


@pytest.mark.slow
def test_a_step_whose_answers_earn_the_same_says_so(tmp_path: Path) -> None:
    with (
        pytest.warns(LikelierWarning, match="gradient is 0: the answers that are compared earned the same"),
        pytest.raises(TrainingError, match="no weight has changed in 1 steps"),
    ):
        trainer(tmp_path / "run", reward="regex:.*", max_steps=1).train()
    assert steps(tmp_path / "run")[0]["frac_reward_zero_std"] == 1


@pytest.mark.slow
def test_groups_that_teach_nothing_are_replaced(tmp_path: Path) -> None:
    shares = {}
    for refill in (False, True):
        changed = {"refill": refill, "answers_per_prompt": 2}
        trainer(tmp_path / str(refill), method="dapo", changed=changed, reward="length:3..", max_steps=2).train()
        shares[refill] = [line["frac_reward_zero_std"] for line in steps(tmp_path / str(refill))]
    assert shares[True][0] < shares[False][0]
    first = steps(tmp_path / "True")[0]
    assert first["refill/prompts"] > 0
    rows = [
        json.loads(line)
        for line in (tmp_path / "True" / "rollouts" / "step-1.jsonl").read_text().rstrip("\n").split("\n")
    ]
    assert len({row["source"] for row in rows}) == 4  # as many groups as before, none twice


@pytest.mark.slow
def test_nothing_is_held_from_step_to_step(tmp_path: Path) -> None:
    held: list[int] = []

    class Counts(TrainerCallback):
        def on_step_end(self, *arguments: Any, **named: Any) -> None:
            gc.collect()
            tensors = [one for one in gc.get_objects() if type(one) in (torch.Tensor, torch.nn.Parameter)]
            held.append(sum(tensor.nbytes for tensor in tensors))

    made = trainer(tmp_path / "run", max_steps=8, online={"rollout_steps": 1})
    made.add_callback(Counts())
    made.train()
    answers = 4 * 8 * 8 * 100  # what a step's answers and figures may differ by, in bytes
    assert max(held[2:]) - min(held[2:]) < answers


@pytest.mark.slow
def test_answers_that_are_cut_leave_the_loss_where_they_are_masked(tmp_path: Path) -> None:
    policy = tiny_policy()
    policy.model.config.eos_token_id = policy.model.generation_config.eos_token_id = 1  # which is hardly ever written
    with pytest.raises(TrainingError, match=r"no answer of the step can be learnt from: .* reached max_new_tokens=2"):
        trainer(tmp_path / "run", policy, online={"max_new_tokens": 2, "truncated": "mask"}).train()


@pytest.mark.slow
def test_a_scorer_that_is_not_the_sampler_ends_the_run(tmp_path: Path) -> None:
    made = trainer(tmp_path / "run")
    made._walker.temperature = 0.5
    with pytest.raises(TrainingError, match="sampler and scorer differ by"):
        made.train()


@pytest.mark.parametrize(
    ("online", "words"),
    [
        ({"reward": ()}, "--reward is missing"),
        ({"temperature": 0.0}, "temperature=0 writes the same answer"),
        ({"truncated": "penalty"}, "truncated=penalty and missing_eos_penalty go together"),
        ({"reward_weights": (2.0,)}, "reward_weights has no effect on a single reward"),
        ({"updates_per_rollout": 0}, "updates_per_rollout=0 is out of range"),
        ({"max_new_tokens": 0}, "max_new_tokens=0 is out of range"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(online: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        online_options(**online)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_length": 9}, "max_length has no effect on grpo"),
        ({"use_votes": "soft"}, "use_votes has no effect on grpo"),
        ({"eval_steps": 2}, "eval_steps has no effect without evaluation data"),
        ({"eval_prompts": 0, "held_out": 3}, "eval_prompts=0 leaves nothing to evaluate"),
        ({"policy": lora_policy(lora_dropout=0.1)}, "lora_dropout=0.1 has no place in grpo"),
    ],
)
def test_options_about_answers_in_files_are_refused(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        trainer(tmp_path / "run", **options)
