"""How a reference follows its policy: the formulas, against TRL's callbacks, and what a checkpoint holds of it."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from likelier.scoring.reference.moving import FILE, Moves, MovingReference, MovingRule
from likelier.utils.errors import RunFolderError
from tests.helpers.support import lora_policy, tiny_model


def two_weights(seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(3, 2, dtype=torch.float64)


def walk(model: nn.Module, step: int) -> None:
    """A step of training: noise, the same for all models of these shapes."""
    torch.manual_seed(1000 + step)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn(weight.shape, dtype=torch.float64).to(weight.dtype), alpha=0.01)


def trace(model: nn.Module, rule: MovingRule, steps: int) -> tuple[list[Tensor], list[Tensor]]:
    """The first weight of the policy and of its reference, before training and after each step."""
    moving = MovingReference(model, rule)
    name, weight = next((name, one) for name, one in model.named_parameters() if one.requires_grad)
    policy, reference = [weight.detach().clone()], [moving.weights[name].clone()]
    for step in range(1, steps + 1):
        walk(model, step)
        moving.after_step(step)
        policy.append(weight.detach().clone())
        reference.append(moving.weights[name].clone())
    return policy, reference


def test_soft_is_a_weighted_mean_of_all_policies_so_far() -> None:
    policy, reference = trace(two_weights(), MovingRule("soft", 1, 0.6), 5)
    for step in range(6):
        expected = 0.4**step * policy[0] + sum(0.6 * 0.4 ** (step - k) * policy[k] for k in range(1, step + 1))
        torch.testing.assert_close(reference[step], expected, rtol=0, atol=1e-15)


def test_soft_moves_only_when_it_is_time() -> None:
    policy, reference = trace(two_weights(), MovingRule("soft", 2, 0.25), 5)
    assert torch.equal(reference[1], policy[0]) and torch.equal(reference[3], reference[2])
    torch.testing.assert_close(reference[2], 0.25 * policy[2] + 0.75 * policy[0], rtol=0, atol=1e-15)
    torch.testing.assert_close(reference[5], 0.25 * policy[4] + 0.75 * reference[2], rtol=0, atol=1e-15)


def test_hard_is_the_policy_as_it_was_at_the_last_update() -> None:
    policy, reference = trace(two_weights(), MovingRule("hard", 3), 7)
    for step in range(8):
        assert torch.equal(reference[step], policy[step // 3 * 3])


def test_a_mix_of_0_is_a_fixed_reference_and_of_1_a_hard_one() -> None:
    policy, reference = trace(two_weights(), MovingRule("soft", 1, 0.0), 4)
    assert all(torch.equal(one, policy[0]) for one in reference)
    policy, reference = trace(two_weights(), MovingRule("soft", 2, 1.0), 5)
    assert all(torch.equal(reference[step], policy[step // 2 * 2]) for step in range(6))


def test_bema_is_the_average_with_its_lag_taken_off() -> None:
    policy, reference = trace(two_weights(), MovingRule("bema", 2), 5)
    average = policy[0]
    for step in (2, 4):
        share, bias = (10 + step) ** -0.5, (10 + step) ** -0.2
        average = (1 - share) * average + share * policy[step]
        expected = average + bias * (policy[step] - policy[0])
        torch.testing.assert_close(reference[step], expected, rtol=0, atol=1e-15)
    assert torch.equal(reference[1], policy[0]) and torch.equal(reference[3], reference[2])


def test_the_version_counts_updates_and_the_words_say_what_happens() -> None:
    rule = MovingRule("hard", 4)
    assert [rule.updates(step) for step in (0, 3, 4, 9)] == [0, 0, 1, 2]
    assert rule.words == "after every 4 steps it becomes the policy as it is then"
    assert MovingRule("soft", 1, 0.6).words == "after every step it becomes 0.6 of the policy and 0.4 of itself"
    assert "bias-corrected average" in MovingRule("bema", 400).words


# --- against TRL -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("how", "mix", "every"), [("soft", 0.6, 1), ("soft", 0.3, 2), ("hard", 1.0, 2)])
def test_every_weight_is_what_trl_makes_of_it(how: Moves, mix: float, every: int, monkeypatch: Any) -> None:
    from trl.trainer import callbacks

    monkeypatch.setattr(callbacks, "AcceleratorState", lambda: SimpleNamespace(deepspeed_plugin=None))
    policy = tiny_model(dtype=torch.float32)
    theirs = deepcopy(policy)
    callback: Any = callbacks.SyncRefModelCallback(ref_model=theirs, accelerator=None)
    arguments = SimpleNamespace(ref_model_sync_steps=every, ref_model_mixup_alpha=mix)
    moving = MovingReference(policy, MovingRule(how, every, mix))
    for step in range(1, 5):
        walk(policy, step)
        moving.after_step(step)
        callback.on_step_end(arguments, SimpleNamespace(global_step=step), None, model=policy)
        own = dict(theirs.named_parameters())
        assert all(torch.equal(weight, own[name]) for name, weight in moving.weights.items())
        assert moving.weights.keys() == own.keys()


@pytest.mark.slow
def test_bema_is_what_trl_makes_the_reference_when_both_its_intervals_are_one() -> None:
    from trl.experimental.bema_for_ref_model import BEMACallback

    policy = tiny_model(dtype=torch.float32)
    theirs = deepcopy(policy)
    callback = BEMACallback(update_freq=2, update_ref_model=True, ref_model_update_freq=2)
    given: Any = (None, SimpleNamespace(global_step=0), None)
    callback.on_train_begin(*given, model=policy)
    moving = MovingReference(policy, MovingRule("bema", 2))
    for step in range(1, 6):
        walk(policy, step)
        moving.after_step(step)
        given[1].global_step = step
        callback.on_step_end(*given, model=policy, ref_model=theirs)
        for name, weight in theirs.named_parameters():
            torch.testing.assert_close(moving.weights[name], weight, rtol=0, atol=0)


# --- as a model ------------------------------------------------------------------------------------------------------


def test_of_an_adapter_only_its_own_weights_are_kept_and_the_policy_is_left_as_it_is() -> None:
    policy = lora_policy()
    model, ids = policy.model.eval(), torch.arange(5, 15)[None]
    moving = MovingReference(model, MovingRule("hard", 2))
    assert moving.weights and all("lora" in name for name in moving.weights)

    def logits() -> Tensor:
        with torch.no_grad():
            return model(input_ids=ids).logits

    start = logits()
    walk(model, 1)
    moving.after_step(1)
    first = logits()
    with moving.use() as reference:
        assert reference is model and torch.equal(logits(), start)
    assert torch.equal(logits(), first) and not torch.equal(first, start)
    walk(model, 2)
    moving.after_step(2)
    second = logits()
    walk(model, 3)
    with moving.use():
        assert torch.equal(logits(), second)


# --- checkpoints -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [MovingRule("soft", 1, 0.6), MovingRule("hard", 2), MovingRule("bema", 2)])
def test_what_was_saved_goes_on_bit_for_bit(rule: MovingRule, tmp_path: Path) -> None:
    model, again = two_weights(), two_weights()
    whole, cut = MovingReference(model, rule), MovingReference(again, rule)
    for step in range(1, 8):
        walk(model, step)
        whole.after_step(step)
        if step == 3:
            whole.save(tmp_path)
            cut.load(tmp_path)
        with torch.no_grad():
            again.load_state_dict(model.state_dict())
        if step > 3:
            cut.after_step(step)
            assert all(torch.equal(weight, cut.weights[name]) for name, weight in whole.weights.items())


def test_a_checkpoint_of_other_weights_is_refused(tmp_path: Path) -> None:
    MovingReference(two_weights(), MovingRule("soft", 1, 0.6)).save(tmp_path)
    for model, rule in ((nn.Linear(4, 2), MovingRule("soft", 1, 0.6)), (two_weights(), MovingRule("bema", 2))):
        with pytest.raises(RunFolderError, match=rf"{FILE} holds other weights than the policy trains"):
            MovingReference(model, rule).load(tmp_path)
