"""A warm-up begins at learning rate 0: runs of which no step can move the weights, or none has."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from likelier import KTO, PreferenceTrainer, SimPO
from likelier.insight.diagnose import diagnose
from likelier.insight.diagnose.ending import UNCHANGED
from likelier.runs.reader import read_run
from likelier.training.movement import UNMOVED, Movement, _checksum, check_schedule, planned_rates
from likelier.training.options import TrainingOptions
from likelier.utils.distributed import ALONE
from likelier.utils.errors import ConfigError, LikelierWarning, TrainingError
from tests.helpers.small_runs import read_card
from tests.helpers.support import chat_pairs, labelled_rows, logged, lora_policy, tiny_policy
from tests.insight.test_diagnose import a_run

F32 = torch.float32


def trainer(folder: Path, **options: Any) -> PreferenceTrainer:
    """A run on 8 pairs in steps of 4."""
    policy = options.pop("policy", None) or tiny_policy(0, F32)
    more = {"objective": SimPO(), "train": chat_pairs(8), "batch_size": 4, "learning_rate": 1e-3} | options
    return PreferenceTrainer(policy, output_dir=folder, **more)


def names(folder: Path) -> list[str]:
    return [one.name for one in diagnose(read_run(folder))]


# --- before training -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "mend"),
    [
        ({"max_steps": 1}, "Give --warmup 0, or more steps: more --max-steps"),
        ({"batch_size": 32}, "Give --warmup 0, or more steps: a --batch-size below 8, more --epochs"),
        ({"epochs": 0.5, "batch_size": 8}, "a --batch-size below 8, more --epochs"),
        ({"epochs": 0.1, "scheduler": "linear"}, "a --batch-size below 4, more --epochs"),
        ({"max_steps": 1, "scheduler": "constant", "warmup": 0.01}, "the warm-up (0.01 of the steps, at least one)"),
    ],
)
def test_a_run_whose_every_step_has_rate_0_is_refused(tmp_path: Path, options: dict[str, Any], mend: str) -> None:
    with pytest.raises(ConfigError) as found:
        trainer(tmp_path / "run", **options).train()
    assert "no weight would change: the only step of the run would have learning rate 0" in str(found.value)
    assert mend in str(found.value) and not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"warmup": 0.0}, {"scheduler": "constant"}, {"warmup": 0, "scheduler": "linear"}])
def test_a_single_step_without_warm_up_trains(tmp_path: Path, options: dict[str, Any]) -> None:
    run = trainer(tmp_path / "run", max_steps=1, **options)
    run.train()
    assert [row["learning_rate"] for row in logged(run)] == [1e-3]
    assert "not-learning/unchanged-weights" not in names(tmp_path / "run")


def arguments(folder: Path, **options: Any) -> Any:
    return trainer(folder, **options).args


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", ["cosine", "linear", "constant"])
def test_planned_rates_are_those_of_the_steps(tmp_path: Path, scheduler: Any) -> None:
    run = trainer(tmp_path / "run", max_steps=5, scheduler=scheduler, warmup=0.3)
    planned = list(planned_rates(run.args, 5))
    run.train()
    assert planned == [row["learning_rate"] for row in logged(run)] and planned[0] == 0 < planned[1]


@pytest.mark.slow
def test_a_warm_up_that_takes_the_whole_run_is_named(tmp_path: Path) -> None:
    options = {"max_steps": 3, "warmup": 0.9, "scheduler": "linear"}
    args = arguments(tmp_path / "run", **options)
    with pytest.warns(LikelierWarning, match=r"takes all 3 steps: the learning rate never reaches 0\.001"):
        check_schedule(args, TrainingOptions(**options), 3, 8)  # type: ignore[arg-type]


def test_arguments_that_the_schedule_does_not_take_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"transformers refuses the training options: .*no_such"):
        trainer(tmp_path / "run", max_steps=4, trainer={"lr_scheduler_kwargs": {"no_such": 1}}).train()


# --- after training ------------------------------------------------------------------------------------------------


class Standing(TrainerCallback):
    """Sets the learning rate of every step."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any = None, **more: Any) -> None:
        for group in optimizer.param_groups:
            group["lr"] = self.rate


@pytest.mark.slow
@pytest.mark.parametrize(("policy", "held_out"), [(tiny_policy, 0), (lora_policy, 0), (tiny_policy, 4)])
@pytest.mark.parametrize(("rate", "why"), [(0.0, "the learning rate was 0 in every step"), (1e-60, "too small for")])
def test_a_run_that_changed_no_weight_ends_as_an_error(
    tmp_path: Path, policy: Any, held_out: int, rate: float, why: str
) -> None:
    if policy is lora_policy and rate:
        pytest.skip("the second half of a new adapter is 0, which any update changes")
    held = {"eval_data": chat_pairs(held_out, seed=1), "eval_prompts": 0} if held_out else {}
    run = trainer(tmp_path / "run", policy=policy(0, F32), callbacks=[Standing(rate)], max_steps=3, **held)
    with pytest.raises(TrainingError, match=f"{UNMOVED} in 3 steps: .*{why}"):
        run.train()
    card = read_card(tmp_path / "run")
    assert card["status"] == "failed" and why in card["error"]
    assert not list((tmp_path / "run").glob("*.safetensors"))
    assert names(tmp_path / "run") == ["not-learning/unchanged-weights"]


@pytest.mark.slow
def test_losses_and_gradients_of_0_are_the_cause(tmp_path: Path) -> None:
    nothing = KTO(desirable_weight=0.0, undesirable_weight=0.0)
    run = trainer(tmp_path / "run", objective=nothing, train=labelled_rows(16), batch_size=8, max_steps=3)
    with (
        pytest.warns(LikelierWarning, match="the first step's gradient is 0"),
        pytest.raises(TrainingError, match="the gradient was 0 in every step"),
    ):
        run.train()
    assert names(tmp_path / "run") == ["not-learning/zero-gradient"]


@pytest.mark.slow
def test_weights_in_16_bits_whose_updates_are_rounded_away(tmp_path: Path) -> None:
    policy = tiny_policy(0, F32)
    policy.model.to(torch.bfloat16)
    watch = Movement(policy.model, ALONE)
    optimizer = torch.optim.SGD(policy.model.parameters(), lr=1e-6)
    for _ in range(2):
        policy.model(torch.tensor([[1, 2, 3]])).logits.float().logsumexp(-1).sum().backward()
        watch.on_pre_optimizer_step()
        optimizer.step()
        watch.on_optimizer_step(optimizer=optimizer)
        watch.saw_gradient(1.0)
        optimizer.zero_grad()
    moved_by_rounding = watch.moved
    optimizer.param_groups[0]["lr"] = 10.0
    policy.model(torch.tensor([[1, 2, 3]])).logits.float().logsumexp(-1).sum().backward()
    optimizer.step()
    watch.on_optimizer_step(optimizer=optimizer)
    assert watch.moved and watch.anywhere()
    assert moved_by_rounding or "weights in bfloat16" in watch.why_not()


@pytest.mark.parametrize("kind", [torch.float64, F32, torch.bfloat16, torch.float8_e4m3fn])
def test_any_single_change_is_seen_and_a_frozen_weight_is_not_looked_at(kind: torch.dtype) -> None:
    model = torch.nn.ParameterList([torch.nn.Parameter(torch.ones(3, 5).to(kind)) for _ in range(2)])
    frozen = torch.nn.Parameter(torch.ones(2), requires_grad=False)
    model.append(frozen)
    before = _checksum(model)
    frozen.data += 1
    assert torch.equal(before, _checksum(model)) and len(before) == 2
    for place in range(15):
        held = model[1].data.clone()
        model[1].data.view(-1)[place] = 2.0
        assert not torch.equal(before, _checksum(model))
        model[1].data.copy_(held)
    model[0].data.view(-1)[:2] = torch.tensor([2.0, 0.5]).to(kind)  # changes of opposite sign
    assert not torch.equal(before, _checksum(model))


@pytest.mark.slow
def test_a_run_that_is_cut_knows_what_moved_before(tmp_path: Path) -> None:
    class Cut(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            if state.global_step == 2:
                raise RuntimeError("cut")

    with pytest.raises(RuntimeError, match="cut"):
        trainer(tmp_path / "run", max_steps=3, save_steps=1, callbacks=[Cut()]).train()
    trainer(tmp_path / "run", max_steps=3, save_steps=1, resume=True).train()  # from step 1, at rate 0
    assert read_card(tmp_path / "run")["status"] == "done"
    moved = [Standing(1e-3)]
    with pytest.raises(RuntimeError, match="cut"):
        trainer(tmp_path / "two", max_steps=3, save_steps=1, callbacks=[*moved, Cut()]).train()
    trainer(tmp_path / "two", max_steps=3, save_steps=1, resume=True, callbacks=[Standing(0.0)]).train()
    with pytest.raises(TrainingError, match=UNMOVED):
        trainer(tmp_path / "none", max_steps=3, callbacks=[Standing(0.0)]).train()


# --- what is said of it --------------------------------------------------------------------------------------------


def steps_of(*rates: float) -> list[dict[str, Any]]:
    zero = dict.fromkeys(("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"), 0.0)
    lengths = {"lengths/chosen": 9.0, "lengths/rejected": 9.0}
    return [
        {"step": number, "loss": 0.693, "grad_norm": 2.0, "learning_rate": rate, **zero, **lengths}
        for number, rate in enumerate(rates, 1)
    ]


def test_a_finished_run_at_rate_0_is_named_and_nobody_says_that_it_moves() -> None:
    for rates in ((0.0,), (0.0, 0.0, 0.0)):
        (found,) = [one for one in diagnose(a_run(steps_of(*rates))) if one.is_bad]
        assert found.name == "not-learning/unchanged-weights" and "moves" not in found.meaning
        assert ("learning rate", f"0 in all of {len(rates)} steps") in found.evidence


def test_where_only_the_last_step_can_move_nothing_is_said_of_its_effect() -> None:
    (found,) = [one for one in diagnose(a_run(steps_of(0.0, 1e-2))) if one.is_bad]
    assert found.name == "not-learning/too-few-steps" and "stands in none of them" in found.meaning
    assert ("steps at learning rate 0", "1 of 2") in found.evidence and "pace" not in str(found.evidence)
    (more,) = [one for one in diagnose(a_run(steps_of(0.0, 1e-2, 1e-2))) if one.is_bad]
    assert "The policy moves" in more.meaning or "too few steps" in more.title


def test_the_words_of_the_error_are_those_that_diagnose_knows() -> None:
    assert (UNMOVED,) == UNCHANGED
