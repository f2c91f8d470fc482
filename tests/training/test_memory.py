"""The memory plan, `likelier estimate`, and what happens when memory runs out."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from likelier import DPO, KTO, PreferenceTrainer
from likelier.advice.estimate import bytes_of
from likelier.advice.memory import MemoryPlan, planner_for
from likelier.cli import main as cli
from likelier.data.lengths import Row
from likelier.models.options import LoraOptions
from likelier.models.policy import Policy, load_policy
from likelier.training.within_memory import advice_when_memory_runs_out, moments_of
from likelier.utils.errors import ConfigError, LikelierWarning, TrainingError
from tests.helpers.small_runs import save_tiny
from tests.helpers.support import chat_pairs, lora_policy, tiny_model, tiny_policy, tiny_tokenizer

ROOT = Path(__file__).resolve().parents[2]
BASIC: dict[str, Any] = {"batch_size": 8, "max_steps": 3, "learning_rate": 1e-3, "token_budget": 512}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("memory") / "tiny")


# --- the plan ------------------------------------------------------------------------------------------------------


def plan(model: Any, token_budget: int | None = 1024, **more: Any) -> MemoryPlan:
    planner = planner_for(model, **{"method": "dpo", "device": "cpu", "max_length": 256, **more})
    return planner.plan(token_budget, fit=more.get("memory") is not None)


@pytest.mark.slow
def test_what_is_kept_is_counted_exactly(model: Path) -> None:
    policy = load_policy(model, dtype="float32")
    weights = sum(weight.nbytes for weight in policy.model.parameters())
    found = plan(model).parts
    assert (found["weights"], found["gradients"], found["optimizer"]) == (weights, weights, 2 * weights)
    adapted = load_policy(model, dtype="float32", lora=LoraOptions(lora_r=4)).model
    trained = sum(weight.nbytes for weight in adapted.parameters() if weight.requires_grad)
    lora = plan(model, lora=LoraOptions(lora_r=4)).parts
    assert (lora["gradients"], lora["optimizer"]) == (trained, 2 * trained)


@pytest.mark.slow
def test_what_changes_the_plan_and_how(model: Path) -> None:
    plain = plan(model, method="dpo")
    assert plan(model, activation_checkpointing=True).parts["activations"] < plain.parts["activations"]
    assert plan(model, token_budget=4096).parts["activations"] > 2 * plain.parts["activations"]
    assert plan(model, reference_scores="live").parts["reference"] == plain.parts["weights"]
    assert plan(model, reference_scores="live", lora=LoraOptions(lora_r=4)).parts["reference"] == 0
    assert plain.parts["reference"] == 0
    assert plan(model, method="simpo").parts == plain.parts  # the stored reference takes the argument away


@pytest.mark.slow
def test_a_known_row_needs_less_than_one_at_the_limit(model: Path) -> None:
    short = plan(model, rows=[Row(20, (10, 12))] * 3, batch_size=4)
    assert short.tokens == 3 * 40 and not short.several and short.peak < plan(model).peak


@pytest.mark.slow
def test_the_budget_that_fits_fits_and_a_larger_one_does_not(model: Path) -> None:
    planner = planner_for(model, method="dpo", device="cpu", max_length=256, memory=700 * 10**6, batch_size=4096)
    budget = planner.plan(fit=True).fitting_budget
    assert budget
    assert planner.plan(budget, fit=True).fits and not planner.plan(round(1.2 * budget), fit=True).fits
    small = planner_for(model, method="dpo", device="cpu", max_length=256, memory=10**6)
    assert small.plan(fit=True).fitting_budget == 0


def test_methods_of_a_kind_share_what_was_traced(model: Path) -> None:
    planner = planner_for(model, method="dpo", device="cpu", max_length=256)
    assert planner.for_method("ipo").plan(1024).parts == planner.plan(1024).parts
    assert planner.for_method("sft").asked.method == "sft"


@pytest.mark.slow
def test_cuda_is_planned_without_one_and_says_what_was_not_compared(model: Path) -> None:
    quantized = LoraOptions(lora_r=4, load_in_4bit=True)
    whole, adapter, four = (plan(model, device="cuda", lora=lora) for lora in (None, LoraOptions(lora_r=4), quantized))
    assert four.weights.bytes < adapter.weights.bytes < whole.weights.bytes
    assert any("no GPU" in note for note in whole.notes)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="say how much memory it has"):
            plan(model, device="cuda", token_budget=None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "dpoo"}, "did you mean dpo"),
        ({"method": "simpo", "reference_scores": "live"}, "uses no reference"),
        ({"lora": LoraOptions(lora_r=4, load_in_4bit=True)}, "needs CUDA"),
        ({"lora": LoraOptions(lora_r=4), "dtype": "pure-bfloat16"}, "for training all weights"),
        ({"max_length": 10**6}, "beyond the model's context"),
    ],
)
def test_options_without_effect_or_out_of_range(model: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(model, **options)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_plan_holds_in_a_real_run(tmp_path: Path) -> None:
    """Two steps of a random model of 21 million weights, in a process of its own."""
    sizes = {"vocab_size": 8192, "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 6}
    tiny_model(0, torch.float32, **sizes, num_attention_heads=8, initializer_range=0.02).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    words = [sys.executable, str(ROOT / "benchmarks" / "memory_plan.py"), "--model", str(tmp_path), "--only", "0"]
    blocks = {"MALLOC_MMAP_THRESHOLD_": "131072"}  # freed blocks go back at once: see the script
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=os.environ | blocks)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["planned"] == pytest.approx(found["measured"], rel=0.15)


# --- the command ---------------------------------------------------------------------------------------------------


def estimate(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = cli.main(["estimate", *words])
    said = capsys.readouterr()
    return code, said.out + said.err


@pytest.mark.slow
def test_the_table(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = estimate(capsys, "--model", str(model), "--memory", "24GB", "--device", "cuda", "--max-length", "128")
    assert code == 0
    for words in ("QLoRA r=16", "optimizer state", "head (logits", "largest token budget that fits", "4 models: PPO"):
        assert words in said


def test_json_and_data(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "pairs.jsonl"
    data.write_text('{"prompt": "the cat", "chosen": "sat on", "rejected": "ran fast"}\n' * 3, encoding="utf-8")
    asked = ["--model", str(model), "--data", str(data), "--lora-r", "4", "--device", "cpu", "--format", "json"]
    assert cli.main(["estimate", *asked]) == 0
    found = json.loads(capsys.readouterr().out)["plans"]["LoRA r=4"]
    assert found["peak"] == max(sum(found["parts"].values()), found["peak_scoring"], found["peak_evaluating"])
    assert found["longest_micro_batch"]["rows"] == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--token-budget", "0"], "must be at least 1"),
        (["--memory", "lots"], "is no size"),
        (["--load-in-4bit"], "no effect without lora_r"),
        (["--method", "kkto"], "did you mean kto"),
    ],
)
def test_what_estimate_refuses(model: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = estimate(capsys, "--model", str(model), "--device", "cpu", *words)
    assert code == 2 and message in said


def test_sizes() -> None:
    assert [bytes_of(text) for text in ("24GB", "24 GiB", "512mb", "1e9")] == [
        24 * 10**9,
        24 * 2**30,
        512 * 10**6,
        10**9,
    ]


# --- when memory runs out ------------------------------------------------------------------------------------------


def trained(folder: Path, policy: Policy, objective: Any, **more: Any) -> PreferenceTrainer:
    trainer = PreferenceTrainer(policy, objective, chat_pairs(24), output_dir=folder, **{**BASIC, **more})
    trainer.train()
    return trainer


def out_of_memory_in(monkeypatch: pytest.MonkeyPatch, policy: Policy, tokens: int, *, trial: bool = False) -> list[int]:
    """From now on a backward pass over rows of more tokens than that runs out of memory, late: when every gradient but
    the last few is there. The trial before the first step, which accumulates no gradients, runs out if `trial` says so.
    """
    tried: list[int] = []
    held = 0
    from likelier.training import step as steps
    from likelier.training import within_memory

    collate = steps.collate

    def measured(part: Any, **more: Any) -> Any:
        nonlocal held
        held = sum(group.tokens for group in part)
        return collate(part, **more)

    def late(gradient: torch.Tensor) -> None:
        if held > tokens:
            tried.append(held)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    for module in (steps, within_memory):
        monkeypatch.setattr(module, "collate", measured)
    first = next(weight for weight in policy.model.parameters() if weight.requires_grad)
    if trial:
        first.register_hook(late)
    first.register_post_accumulate_grad_hook(late)
    return tried


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "make"), [(DPO(), tiny_policy), (KTO(), tiny_policy), (DPO(), lora_policy)])
def test_a_step_that_does_not_fit_is_done_again_in_smaller_parts(
    objective: Any, make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = trained(tmp_path / "whole", make(), objective)
    policy = make()
    monkeypatch.setattr("likelier.training.within_memory.can_retry", lambda device, ranks: True)
    tried = out_of_memory_in(monkeypatch, policy, 200)
    with pytest.warns(LikelierWarning, match=r"memory ran out .*done again with micro-batches of"):
        found = trained(tmp_path / "cut", policy, objective)
    assert tried and all(held > 200 for held in tried)
    for name in ("loss", "grad_norm", "rewards/margins"):
        values = [[step[name] for step in run.folder.read_metrics() if name in step] for run in (expected, found)]
        assert values[0] and values[0] == pytest.approx(values[1], abs=1e-9)
    weights = dict(policy.model.named_parameters())
    for name, weight in expected.policy.model.named_parameters():
        torch.testing.assert_close(weight, weights[name], atol=1e-10, rtol=0, msg=name)


@pytest.mark.slow
def test_a_row_that_does_not_fit_alone_ends_the_run_with_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = tiny_policy()
    monkeypatch.setattr("likelier.training.within_memory.can_retry", lambda device, ranks: True)
    out_of_memory_in(monkeypatch, policy, 1)
    with pytest.raises(TrainingError, match=r"a single row.*--activation-checkpointing"), warnings.catch_warnings():
        warnings.simplefilter("ignore", LikelierWarning)
        trained(tmp_path / "run", policy, DPO())


@pytest.mark.slow
def test_elsewhere_it_ends_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny_policy()
    out_of_memory_in(monkeypatch, policy, 200)
    with pytest.raises(TrainingError, match=r"memory ran out.*likelier estimate"):
        trained(tmp_path / "run", policy, DPO())
    with pytest.raises(TrainingError, match="memory ran out"), advice_when_memory_runs_out():
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.")
    with pytest.raises(RuntimeError, match="something else"), advice_when_memory_runs_out():
        raise RuntimeError("something else")


def test_the_proof_leaves_no_trace(tmp_path: Path) -> None:
    policy = lora_policy()
    trainer = PreferenceTrainer(policy, DPO(), chat_pairs(24), output_dir=tmp_path / "run", **BASIC)
    policy.model.eval()
    before = {name: weight.clone() for name, weight in policy.model.named_parameters()}
    state = torch.get_rng_state()
    trainer._walker.prove_it_fits(trainer.train_groups, 8, moments_of(policy.model, "adamw_torch_fused"))
    assert torch.equal(state, torch.get_rng_state()) and not policy.model.training
    assert all(weight.grad is None for weight in policy.model.parameters())
    assert all(torch.equal(before[name], weight) for name, weight in policy.model.named_parameters())
    assert trainer.optimizer is None and trainer._walker.token_budget == BASIC["token_budget"]
    trainer.folder.close()


@pytest.mark.slow
def test_the_proof_finds_the_budget_that_fits_and_the_run_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = trained(tmp_path / "whole", tiny_policy(), DPO())
    policy = tiny_policy()
    trainer = PreferenceTrainer(policy, DPO(), chat_pairs(24), output_dir=tmp_path / "run", **BASIC)
    monkeypatch.setattr("likelier.training.within_memory.can_retry", lambda device, ranks: True)
    out_of_memory_in(monkeypatch, policy, 200, trial=True)
    with pytest.warns(LikelierWarning, match="memory ran out"):
        trainer._walker.prove_it_fits(trainer.train_groups, 8, 0)
    assert trainer._walker.token_budget < BASIC["token_budget"]
    trainer.train()
    losses = [[step["loss"] for step in run.folder.read_metrics() if "loss" in step] for run in (expected, trainer)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-12)


def test_the_optimizers_state_is_counted() -> None:
    model = tiny_model(dtype=torch.float32)
    weights = sum(weight.nbytes for weight in model.parameters())
    assert moments_of(model, "adamw_torch_fused") == 2 * weights
    assert moments_of(model, "adamw_torch_8bit") == 0 == moments_of(model, "sgd")
    assert moments_of(model.bfloat16(), "adamw_torch") == 3 * weights // 2
