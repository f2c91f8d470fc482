"""The plan of a run that writes its answers: what it holds while it writes, and while it learns. No clock decides."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from likelier.advice.beside import reward_bytes
from likelier.advice.fit import ways_of
from likelier.advice.online import fit_online
from likelier.advice.rollout_memory import OnlinePlanner, online_planner_for
from likelier.advice.trace import made_up_group
from likelier.cli import main as cli
from likelier.data.lengths import Row, tokens_of
from likelier.data.packing import packed_micro_batches
from likelier.models.options import LoraOptions
from likelier.objectives.online import ONLINE_METHODS, online_method
from likelier.online.options import OnlineOptions
from likelier.online.work import evaluation_interval, online_work
from likelier.training.options import TrainingOptions
from tests.helpers.small_runs import save_tiny, write_rows
from tests.helpers.support import shared_tokens, tiny_model

PROMPTS = [{"prompt": f"the cat sat on mat {number}"} for number in range(12)]


def planner(model: Any = None, method: str = "grpo", **more: Any) -> OnlinePlanner:
    objective = online_method(method, **more.pop("changed", {}))
    online = OnlineOptions(reward=more.pop("reward", ("json",)), max_new_tokens=more.pop("tokens", 16))
    given: dict[str, Any] = {"prompts": (10, 12, 8, 9), "device": "cpu", "dtype": "float32", "batch_size": 4} | more
    return online_planner_for(model or tiny_model(dtype=torch.float32).config, objective, online, **given)


@pytest.mark.slow
def test_the_peak_is_the_larger_of_two_moments_and_not_their_sum() -> None:
    plan = planner().plan(256)
    training, sampling = sum(plan.parts.values()), sum(plan.sampling.values())
    assert plan.peak == max(training, sampling, plan.scoring, plan.evaluating)
    assert plan.sampling["weights"] == plan.parts["weights"] and plan.sampling["optimizer"] == plan.parts["optimizer"]
    assert "gradients" not in plan.sampling and plan.together == 32
    many = planner(tokens=100, changed={"answers_per_prompt": 64}).plan(128)  # learnt from one after the other
    assert many.peak == sum(many.sampling.values()) > sum(many.parts.values())
    assert many.needed > many.peak + many.sampling["keys"]


@pytest.mark.slow
def test_models_beside_the_policy_are_counted_once_each(tmp_path: Path) -> None:
    alone, kl = planner().plan(256), {"kl_coefficient": 0.1}
    live = planner(changed=kl).plan(256)
    assert live.parts["reference"] == live.sampling["reference"] == alone.parts["weights"]
    adapter = planner(changed=kl, lora=LoraOptions(lora_r=4))
    assert adapter.plan(256).parts["reference"] == 0  # the adapter switched off
    other = str(save_tiny(tmp_path / "other"))
    size = sum(weight.nbytes for weight in tiny_model(dtype=torch.float32).parameters())
    beside = planner(changed=kl, lora=LoraOptions(lora_r=4), reference=other).plan(256)
    assert beside.parts["reference"] == pytest.approx(size, rel=0.01)
    assert reward_bytes("length:3") == reward_bytes("http://127.0.0.1:1/judge") == 0


@pytest.mark.slow
def test_a_reward_model_is_counted(tmp_path: Path) -> None:
    from transformers import LlamaForSequenceClassification

    config = tiny_model().config
    config.num_labels = 1
    model = LlamaForSequenceClassification(config)
    model.save_pretrained(tmp_path / "judge")
    size = sum(weight.nbytes for weight in model.parameters())
    assert reward_bytes(f"model:{tmp_path / 'judge'}") == size
    plan = planner(reward=(f"model:{tmp_path / 'judge'}",)).plan(256)
    assert plan.parts["rewards"] == plan.sampling["rewards"] == size


@pytest.mark.parametrize("budget", [60, 170, 300, 10_000])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_micro_batch_of_shorter_answers_is_fuller_than_the_planned_one(budget: int, seed: int) -> None:
    rng, found = np.random.default_rng(seed), planner()
    planned = tokens_of(found.micro_batch(budget).counted)
    whole = [
        made_up_group(Row(prompt, tuple(rng.integers(2, 17, 8).tolist())), number)
        for number, prompt in enumerate((10, 12, 8, 9))
    ]
    groups = [replace(group, answers=(answer,)) for group in whole for answer in group.answers]
    real = max(map(shared_tokens, packed_micro_batches(groups, budget)))
    assert real <= planned + 8 and planned <= max(budget, 2 * 12 + 15)  # but for the rounding of a shorter row


@pytest.mark.slow
def test_a_budget_that_fits_is_found_or_there_is_none() -> None:
    found = planner(prompts=(64,) * 4, changed={"answers_per_prompt": 2})
    whole = found.plan(4096)
    assert whole.needed > found.plan(256).needed
    middle = (whole.needed + found.plan(256).needed) // 2
    budget = found.fitting_budget(middle)
    assert budget > 0 and found.needed(budget) <= middle < whole.needed
    assert found.fitting_budget(10**6) == 0


@pytest.mark.slow
def test_the_way_that_fits_is_found_and_fewer_answers_where_none_does(model: str) -> None:
    ways = ways_of(model, "cpu", adapter_first=False)
    roomy = fit_online(model, [10] * 8, ways, "cpu", 24 * 10**9)
    assert roomy.fits and roomy.way.words == "full" and roomy.options == {}
    none = fit_online(model, [10] * 8, ways[-1:], "cpu", 10**8)
    assert not none.fits and none.options["answers_per_prompt"] == 2 and none.plan.needed < roomy.plan.needed


def work(method: str = "grpo", held: int = 0, **more: Any) -> Any:
    online = OnlineOptions(reward=("json",), max_new_tokens=16, updates_per_rollout=more.pop("updates", 1))
    objective = online_method(method, **more.pop("changed", {}))
    at_once = more.pop("at_once", 64)
    given: dict[str, Any] = {"batch_size": 4} | more
    options = TrainingOptions(**given)
    return online_work([10] * 20, [10] * held, objective, online, options, at_once=at_once, token_budget=1024)


def test_work_is_every_token_that_is_read_written_and_learnt_from() -> None:
    found, row = work(), 10 + 8 * 15
    assert (found.steps, found.training, found.statistics) == (5, 20 * row, 0)
    assert (found.sampling.scored, found.together) == (20 * 10, 32)
    assert found.sampling.written == 5 * 16  # each step's answers at once
    assert work(at_once=16).sampling.written == 5 * 2 * 16  # two prompts at a time
    twice = work(updates=2)
    assert twice.steps == 10 and twice.training == 2 * found.training and twice.statistics == 20 * row
    assert twice.sampling == found.sampling
    assert work(changed={"kl_coefficient": 0.1}).statistics == 20 * row
    assert work("rloo").statistics == 2 * 20 * (10 + 4 * 15)  # the reference, and the policy before it moves
    assert work(at_once=0).sampling.written == 0
    assert work(max_steps=2).training == 8 * row


def test_evaluations_answer_once_and_at_the_start_as_often_as_a_group() -> None:
    found = work(held=8)
    of_one = 8 * 16 / 32
    assert found.start.written == round(of_one) + round(of_one) + round(8 * of_one)  # drawn, greedy, best of n
    assert found.end.written == 2 * round(of_one) and found.between.written == round(of_one)
    assert found.intervals == 4 and work(held=8, eval_steps=0).intervals == 0
    assert work(held=8, eval_prompts=2).end.scored == 2 * 10 + 2 * 10
    assert [evaluation_interval(steps, None) for steps in (1, 6, 60)] == [None, 1, 10]


# --- the command ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny(tmp_path_factory.mktemp("rollouts") / "tiny"))


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = cli.main(["estimate", *words])
    both = capsys.readouterr()
    return code, " ".join((both.out + both.err).split())


def planned(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    capsys.readouterr()
    assert cli.main(["estimate", *words]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["rloo", "reinforce"])
def test_every_method_that_writes_is_planned(method: str, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--model", model, "--method", method, "--lora-r", "4", "--device", "cpu", "--memory", "24GB"]
    code, words = said(capsys, *asked, "--max-new-tokens", "8", "--max-prompt-length", "9", "--batch-size", "2")
    assert code == 0, words
    for part in ("keys and values", "logits and draws", "peak while writing", "peak while training", "fits into 24.00"):
        assert part in words
    assert f"{ONLINE_METHODS[method].answers_per_prompt} answers to each, of at most 8 tokens" in words


@pytest.mark.slow
def test_flags_and_a_run_file_give_one_plan(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = str(write_rows(tmp_path / "prompts.jsonl", [*PROMPTS, {"prompt": "word " * 80}]))
    options = {
        "method": "grpo",
        "model": model,
        "data": data,
        "answers_per_prompt": 2,
        "max_new_tokens": 8,
        "max_prompt_length": 40,
        "batch_size": 2,
        "lora_r": 4,
        "eval_fraction": 0.25,
    }
    more = {"output": "runs/x", "reward": "length:3", "learning_rate": 1e-5, "temperature": 0.9}
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(options | more), encoding="utf-8")
    flags = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    machine = ["--device", "cpu", "--format", "json"]
    by_flags, by_file = (planned(capsys, *words, *machine) for words in (flags, [str(file)]))
    assert by_flags["plans"] == by_file["plans"] and by_flags["data"] == by_file["data"]
    assert by_flags["data"]["read"] == 13 and by_flags["data"]["over_max_prompt_length"] == 1
    assert by_flags["time"]["LoRA r=4"]["parts"]["sampling"] > 0
    code, words = said(capsys, str(file), "--batch-size", "4", "--device", "cpu")
    assert code == 0 and "13 prompts: 12 kept" in words and "without what the rewards take" in words


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "grpo", "--gpus", "2", "--device", "cuda", "--memory", "24GB"], "that of one process"),
        (["--method", "grpo", "--max-length", "64"], "max_length has no effect on grpo"),
        (["--method", "grpo", "--reference", "base"], "reference has no effect with kl_coefficient=0"),
        (["--method", "grpo", "--answers-per-prompt", "1"], "must be at least 2"),
        (["--method", "grpo", "--rows", "0"], "at least 1 is needed"),
        (["--method", "grpo", "--epochs", "2"], "epochs has no effect without --data"),
        (["--method", "dpo", "--answers-per-prompt", "4"], "answers_per_prompt has no effect on the plan of dpo"),
    ],
)
def test_what_has_no_effect_is_refused(
    words: list[str], message: str, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = said(capsys, "--model", model, *words)
    assert code == 2 and message in text


def test_stages_and_missing_models_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("model: demo\nstages: []\n", encoding="utf-8")
    assert "one run is planned at a time" in said(capsys, str(file))[1]
    assert "--model is missing" in said(capsys, "--method", "grpo")[1]
