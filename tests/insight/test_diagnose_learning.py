"""Runs that do not learn, and why; wrong references; instability. Each disease is a short real training."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from likelier import DPO, IPO, KTO, SFT, SimPO
from likelier.insight.diagnose import live_warnings
from likelier.models.options import LoraOptions
from likelier.models.policy import add_lora
from likelier.runs.reader import read_run
from likelier.scoring.reference import Reference, start_reference
from tests.helpers.diagnosis_world import bad, names, numbers, plain_pairs, the, train, writer
from tests.helpers.support import tiny_policy

pytestmark = pytest.mark.slow

# --- not learning --------------------------------------------------------------------------------------------------


def test_a_learning_rate_near_0_is_named_and_a_higher_one_proposed(tmp_path: Path) -> None:
    run = train(tmp_path / "run", held_out=plain_pairs(40, 2), eval_prompts=0, learning_rate=1e-9)
    assert bad(run) == ["not-learning/learning-rate"]
    verdict = the(run, "not-learning/learning-rate")
    assert "loss: 0.693 at first, 0.693 at the end" in numbers(verdict)
    assert "--learning-rate 1e-7" in verdict.advice[0] and "leave --learning-rate out" in verdict.advice[1]


def test_so_it_is_without_held_out_data(tmp_path: Path) -> None:
    run = train(tmp_path / "run", KTO(), learning_rate=1e-8, max_steps=24)
    assert bad(run) == ["not-learning/learning-rate"]


@pytest.mark.parametrize("objective", [SimPO(), SFT()], ids=["simpo", "sft"])
def test_and_without_a_reference_where_held_out_data_show_it(tmp_path: Path, objective: Any) -> None:
    run = train(
        tmp_path / "run", objective, held_out=plain_pairs(40, 2), eval_prompts=0, learning_rate=1e-8, max_steps=24
    )
    assert bad(run) == ["not-learning/learning-rate"]


def test_too_few_steps_are_told_from_steps_that_are_too_small(tmp_path: Path) -> None:
    run = train(tmp_path / "run", max_steps=3, learning_rate=2e-4)
    assert bad(run) == ["not-learning/too-few-steps"]
    verdict = the(run, "not-learning/too-few-steps")
    assert "--batch-size 2" in verdict.advice[0] and "200 steps would move an answer by" in numbers(verdict)


@pytest.mark.parametrize(
    ("objective", "option", "proposed"),
    [(DPO(beta=1000.0), "beta: 1000", "--beta 0.1"), (IPO(tau=1000.0), "tau: 1000", "--tau")],
    ids=["dpo", "ipo"],
)
def test_a_huge_beta_is_satisfied_at_once(tmp_path: Path, objective: Any, option: str, proposed: str) -> None:
    run = train(tmp_path / "run", objective, held_out=plain_pairs(40, 2), eval_prompts=0, learning_rate=1e-5)
    assert bad(run) == ["not-learning/beta"]
    verdict = the(run, "not-learning/beta")
    assert option in numbers(verdict) and proposed in verdict.advice[0]


class Meddler(TrainerCallback):
    """Does something to the model after the reference was scored and before the first step."""

    def __init__(self, work: Callable[[Any], object]) -> None:
        self.work = work

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **more: Any) -> None:
        with torch.no_grad():
            self.work(model)


def test_frozen_weights_are_named(tmp_path: Path) -> None:
    """What may be trained has no effect."""
    policy = writer()
    policy.model.requires_grad_(False)
    policy.model.register_parameter("useless", torch.nn.Parameter(torch.ones(1)))
    policy.model.model.norm.register_forward_hook(lambda _, inputs, out: out + 0 * policy.model.useless)
    run = train(tmp_path / "run", policy=policy, max_steps=6)
    assert bad(run) == ["not-learning/frozen-weights"]
    assert "0 in all of 6 logged steps" in numbers(the(run, "not-learning/frozen-weights"))
    assert [one.name for one in live_warnings(run)] == ["not-learning/frozen-weights"]


def test_so_are_weights_of_which_none_may_be_trained(tmp_path: Path) -> None:
    policy = writer()
    policy.model.requires_grad_(False)
    policy.model.register_parameter("unused", torch.nn.Parameter(torch.ones(1)))
    run = train(tmp_path / "run", policy=policy, max_steps=6)
    assert bad(run) == ["not-learning/frozen-weights"]


def test_so_is_a_policy_that_is_frozen_as_a_whole(tmp_path: Path) -> None:
    policy = writer()
    policy.model.requires_grad_(False)
    run = train(tmp_path / "run", policy=policy, max_steps=6)
    assert names(run) == ["not-learning/frozen-weights"]
    assert "weights that may be trained: 0 of" in numbers(the(run, "not-learning/frozen-weights"))


def test_an_adapter_whose_second_half_is_frozen_is_named(tmp_path: Path) -> None:
    policy = writer()
    policy.model = add_lora(policy.model, LoraOptions(lora_r=4), 0)
    halves = [weights for name, weights in policy.model.named_parameters() if "lora_B" in name]
    freeze = Meddler(lambda model: [weights.requires_grad_(False) for weights in halves])
    run = train(tmp_path / "run", policy=policy, max_steps=6, callbacks=[freeze])
    assert bad(run) == ["not-learning/frozen-weights"]


def test_rows_that_count_nothing_are_told_from_frozen_weights(tmp_path: Path) -> None:
    run = train(tmp_path / "run", KTO(desirable_weight=0.0, undesirable_weight=0.0), max_steps=6)
    assert bad(run) == ["not-learning/zero-gradient"]


# --- wrong reference -----------------------------------------------------------------------------------------------


def _stale(model: torch.nn.Module, **options: Any) -> Reference:
    """The reference of another model."""
    other = writer().model
    with torch.no_grad():
        other.model.layers[0].mlp.up_proj.weight.mul_(2.0)
    from likelier.scoring import attach_scorer

    attach_scorer(other)
    return replace(start_reference(model, **options), use=lambda: nullcontext(other))


def test_a_run_that_the_step_0_check_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("likelier.training.reference.start_reference", _stale)
    run = train(tmp_path / "run")
    assert bad(run) == ["wrong-reference"]
    verdict = the(run, "wrong-reference")
    assert verdict.severity == "error" and "nats a token" in numbers(verdict)
    assert "--reference start" in verdict.advice[0]


def test_a_policy_that_changed_after_the_check(tmp_path: Path) -> None:
    change = Meddler(lambda model: model.model.layers[0].mlp.up_proj.weight.mul_(1.5))
    run = train(tmp_path / "run", callbacks=[change])
    assert bad(run) == ["wrong-reference"]
    assert "in the first step" in numbers(the(run, "wrong-reference"))


def test_a_wrong_reference_that_no_check_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rewards that are not 0 before the first step, although the run claims that they must be."""
    monkeypatch.setattr("likelier.training.reference.start_reference", _stale)
    _no_checks(monkeypatch)
    for held_out in ((), plain_pairs(40, 2)):
        run = train(tmp_path / f"run{len(held_out)}", held_out=held_out)
        assert "wrong-reference" in bad(run)
        assert "and should be 0" in numbers(the(run, "wrong-reference"))


def _no_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"step0_largest_difference_per_token": 0.0, "step0_loss": 0.0, "step0_loss_expected": 0.0}
    monkeypatch.setattr("likelier.scoring.reference.proof.check_start", lambda *args: told)
    monkeypatch.setattr("likelier.training.reference.check_first_step", lambda *args: None)


def test_a_reference_that_moves_along_with_the_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trap of one model object for both: every reward stays 0 while the policy changes."""

    def same(model: torch.nn.Module, **options: Any) -> Reference:
        return replace(start_reference(model, **options), use=lambda: nullcontext(model))

    monkeypatch.setattr("likelier.training.reference.start_reference", same)
    run = train(tmp_path / "run", held_out=plain_pairs(40, 2), reference_scores="live", eval_prompts=0)
    assert "wrong-reference" in bad(run)
    verdict = the(run, "wrong-reference")
    assert verdict.title == "The reference moves along" and "0 in all 30 logged steps" in numbers(verdict)


def test_another_model_as_reference_is_a_remark(tmp_path: Path) -> None:
    other = replace(tiny_policy(5, torch.float32), name="elsewhere")
    run = train(tmp_path / "run", reference=other, max_steps=12)
    verdict = the(run, "distant-reference")
    assert verdict.severity == "info" and "the model elsewhere" in numbers(verdict)


# --- instability ---------------------------------------------------------------------------------------------------


def test_a_number_that_is_not_finite_stops_a_run_and_is_named(tmp_path: Path) -> None:
    run = train(tmp_path / "run", learning_rate=1e30, scheduler="constant")
    assert bad(run)[0] == "unstable" and the(run, "unstable").severity == "error"
    assert "the gradient norm is" in numbers(the(run, "unstable")) and "failed" not in names(run)


def test_a_rate_that_is_far_too_high_is_named(tmp_path: Path) -> None:
    run = train(tmp_path / "run", learning_rate=10.0, max_steps=40)
    assert "unstable" in bad(run)
    assert "loss: 0.693 at first" in numbers(the(run, "unstable"))


def test_jumps_of_loss_and_gradient(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert "unstable" not in bad(train(folder, learning_rate=1e-4, max_steps=40))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        if line["step"] in (12, 25) and "grad_norm" in line:
            line |= {"loss": 100 * line["loss"], "grad_norm": 100 * line["grad_norm"]}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    card = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({name: value for name, value in card.items() if name != "files"}))
    found = numbers(the(read_run(folder), "unstable"))
    assert "gradient norm, jumps" in found and "loss, jumps" in found and "at steps 12, 25" in found
