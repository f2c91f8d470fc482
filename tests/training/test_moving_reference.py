"""Runs whose reference moves: equal to a fixed one until it does, told in the card, and resumed bit for bit."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from likelier import DPO, IPO, KTO, PreferenceTrainer
from likelier.models.policy import Policy
from likelier.objectives import LDDPO, Objective
from likelier.scoring.reference.moving import FILE, MovingReference, MovingRule
from likelier.training.options import TrainingOptions, refuse_inert_options
from likelier.training.reference import MoveReference
from likelier.utils.errors import ConfigError, RunFolderError
from tests.helpers.support import chat_pairs, labelled_rows, logged, lora_policy, numbers, tiny_policy

SETTINGS: dict[str, Any] = {
    "batch_size": 4,
    "learning_rate": 1e-2,
    "scheduler": "constant",
    "max_steps": 6,
    "token_budget": 200,
    "eval_prompts": 0,
}


def trained(folder: Path, policy: Policy | None = None, objective: Objective | None = None, **more: Any) -> Any:
    objective = objective or DPO()
    rows = chat_pairs(8) if objective.data == "pairs" else labelled_rows(8)
    settings: dict[str, Any] = {"reference_store": str(folder.parent / "store")} | SETTINGS | more
    held_out = settings.pop("eval_data", rows[:3])
    if "reference_scores" in settings:
        del settings["reference_store"]
    if not held_out:
        del settings["reference_store"], settings["eval_prompts"]
    trainer = PreferenceTrainer(
        policy or tiny_policy(), objective, rows, eval_data=held_out, output_dir=folder, **settings
    )
    trainer.train()
    return trainer


def steps(trainer: Any) -> list[dict[str, Any]]:
    return [numbers(row) for row in logged(trainer) if "loss" in row]


def card_of(trainer: Any) -> dict[str, Any]:
    return json.loads((trainer.folder.path / "run.json").read_text())


# --- until it moves, and after ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:KTO with 4 rows a step")
@pytest.mark.parametrize(
    ("objective", "policy"), [(LDDPO(), tiny_policy), (IPO(tau=0.2), lora_policy), (KTO(), lora_policy)]
)
def test_until_it_moves_every_loss_is_that_of_a_fixed_reference(
    tmp_path: Path, objective: Objective, policy: Callable[[], Policy]
) -> None:
    fixed = steps(trained(tmp_path / "fixed", policy(), objective, reference_scores="live"))
    hard = steps(trained(tmp_path / "hard", policy(), objective, reference_moves="hard", reference_every=3))
    assert [row.pop("reference/updates") for row in hard] == [0, 0, 1, 1, 1, 2]
    assert hard[:3] == fixed[:3]
    assert all(one["loss"] != other["loss"] for one, other in zip(hard[3:], fixed[3:], strict=True))


@pytest.mark.slow
def test_a_reference_that_moves_by_a_share_of_0_is_a_fixed_one_in_every_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed = trained(tmp_path / "fixed", reference_scores="live")
    monkeypatch.setattr("likelier.training.reference.rule_of", lambda options: MovingRule("soft", 1, 0.0))
    still = trained(tmp_path / "still", reference_moves="soft")
    assert [{**row, "reference/updates": row["step"]} for row in steps(fixed)] == steps(still)


@pytest.mark.slow
def test_right_after_a_hard_update_training_begins_anew_and_evaluation_does_not(tmp_path: Path) -> None:
    trainer = trained(tmp_path / "run", reference_moves="hard", reference_every=1, eval_steps=2)
    for row in steps(trainer):
        assert row["loss"] == pytest.approx(math.log(2), abs=1e-12) and row["rewards/margins"] == 0
    held = [row for row in logged(trainer) if "eval_loss" in row]
    assert held[0]["eval_rewards/margins"] == 0
    assert all(row["eval_rewards/margins"] > 0.01 for row in held[1:])  # against where it began


# --- what the files say ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_card_names_the_start_the_rule_and_the_last_version(tmp_path: Path) -> None:
    fixed = card_of(trained(tmp_path / "fixed"))
    moved = trained(tmp_path / "hard", reference_moves="hard", reference_every=2, max_steps=5)
    card = card_of(moved)
    for name in ("identity", "weights", "equals_policy"):
        assert card["reference"][name] == fixed["reference"][name]
    assert card["reference"]["words"] == (
        "the policy itself as it was loaded; it moves: after every 2 steps it becomes the policy as it is then; "
        "held-out rows and KL are measured against where it began"
    )
    assert card["reference"]["moves"] == {"how": "hard", "every": 2, "mix": 1.0}
    assert card["reference"]["scores"] == "asked at every step"
    assert card["reference"]["held_out_scores"] == "0 computed, 6 found in the store"  # of the run before
    assert "log-ratios are those to a reference that moves" in card["explained"]
    assert card["reference_at_end"]["updates"] == 2
    assert card["reference_at_end"]["weights"] != card["reference"]["weights"]
    assert card_of(trained(tmp_path / "soft", reference_moves="soft"))["reference"]["moves"]["mix"] == 0.6


@pytest.mark.slow
def test_nothing_that_a_moved_reference_says_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIKELIER_CACHE", str(tmp_path / "cache"))
    trainer = trained(tmp_path / "run", reference_moves="soft", eval_data=())
    assert steps(trainer)[-1]["reference/updates"] == 6
    assert not (tmp_path / "cache" / "reference").exists()


# --- checkpoints -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_that_was_cut_goes_on_bit_for_bit(tmp_path: Path) -> None:
    from transformers import TrainerCallback

    class Cut(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 3:
                raise KeyboardInterrupt

    moves = {"reference_moves": "bema", "reference_every": 2, "save_steps": 3, "max_steps": 5}
    whole = trained(tmp_path / "whole", lora_policy(), **moves)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "cut", lora_policy(), callbacks=[Cut()], **moves)
    assert (tmp_path / "cut" / "checkpoints" / "step-3" / FILE).exists()
    again = trained(tmp_path / "cut", lora_policy(), resume=True, **moves)
    assert steps(again) == steps(whole)
    kept: list[dict[str, Tensor]] = [run._moving.weights for run in (whole, again)]
    assert all(torch.equal(weight, kept[1][name]) for name, weight in kept[0].items())
    assert card_of(again)["reference_at_end"] == card_of(whole)["reference_at_end"]
    with pytest.raises(RunFolderError, match="reference_every: was 2, is 1"):
        trained(tmp_path / "cut", lora_policy(), resume=True, **{**moves, "reference_every": 1})


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"reference_mix": 0.5}, "reference_mix has no effect on a reference that stays"),
        ({"reference_every": 5}, "reference_every has no effect on a reference that stays"),
        ({"reference_moves": "hard", "reference_mix": 0.5}, "no effect with reference_moves=hard"),
        ({"reference_moves": "soft", "reference_mix": 0.0}, "reference_mix=0.0 is out of range"),
        ({"reference_moves": "soft", "reference_mix": 1.5}, "reference_mix=1.5 is out of range"),
        ({"reference_moves": "hard", "reference_every": 0}, "reference_every=0 is out of range"),
        ({"reference_moves": "slowly"}, "reference_moves='slowly' is unknown; known: soft, hard, bema"),
        ({"reference_moves": "soft", "reference_scores": "live"}, "always asked at every step"),
    ],
)
def test_options_that_contradict_each_other_are_errors(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        TrainingOptions(**options)


def test_a_reference_that_would_never_move_in_the_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"it moves after every 512 steps, and the run has 6\. Give a smaller"):
        trained(tmp_path / "run", reference_moves="hard")


def test_small_shares_of_weights_in_16_bits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="which would lose them; take hard"):
        trained(tmp_path / "run", tiny_policy(dtype=torch.bfloat16), reference_moves="soft")


def test_without_held_out_rows_there_is_nothing_to_store(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    with pytest.raises(ConfigError, match="reference_store has no effect without evaluation data where the reference"):
        PreferenceTrainer(
            tiny_policy(),
            DPO(),
            chat_pairs(8),
            output_dir=tmp_path / "run",
            reference_moves="soft",
            reference_store=store,
        )


def test_a_model_that_is_named_cannot_move(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="begins where the policy begins; drop reference"):
        trained(tmp_path / "run", reference=tiny_policy(seed=3), reference_moves="soft")


def test_a_mean_of_training_rewards_would_be_of_another_reference_than_evaluations(tmp_path: Path) -> None:
    carries: Any = SimpleNamespace(method="carrier", needs_reference=True, state={"mean": torch.zeros(())})
    refuse_inert_options(carries, TrainingOptions(), named_reference=False)
    with pytest.raises(ConfigError, match="carrier carries what it saw of training rewards into evaluations"):
        refuse_inert_options(carries, TrainingOptions(reference_moves="soft"), named_reference=False)


def test_the_callback_moves_it_by_the_step_that_was_made() -> None:
    model = torch.nn.Linear(2, 2)
    moving = MovingReference(model, MovingRule("hard", 2))
    with torch.no_grad():
        model.weight.add_(1)
    callback: Any = MoveReference(moving)
    callback.on_step_end(None, SimpleNamespace(global_step=1), None)
    assert not torch.equal(moving.weights["weight"], model.weight)
    callback.on_step_end(None, SimpleNamespace(global_step=2), None)
    assert torch.equal(moving.weights["weight"], model.weight)
