"""Plans for several GPUs: what each holds, held against the arithmetic of docs/scale.md."""

import json
import sys
from dataclasses import replace
from importlib import util
from pathlib import Path
from typing import Any

import pytest

from likelier.advice.memory import MemoryPlan, planner_for
from likelier.advice.spread import Spread
from likelier.advice.tables import proposals
from likelier.advice.timing import made_up_rows, time_of
from likelier.cli.main import main
from likelier.models.options import LoraOptions
from likelier.training.duration import Speed
from likelier.training.options import TrainingOptions
from likelier.utils.errors import ConfigError
from tests.helpers.shapes import llama
from tests.helpers.small_runs import save_tiny

ROOT = Path(__file__).resolve().parents[2]
ALONE, EIGHT = Spread(), Spread(8, shard=True)
SMALL = llama(vocab_size=32_768)  # the "7B" of docs/scale.md
SPEED = Speed(trained_token=2.0, scored_token=1.0, written=3.0, update=8.0, off=0.3, words="made up", link=1e9)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("spread") / "tiny")


@pytest.fixture(scope="module")
def arithmetic() -> Any:
    spec = util.spec_from_file_location("spread_arithmetic", ROOT / "benchmarks" / "scale_arithmetic.py")
    assert spec is not None and spec.loader is not None
    module = util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def planned(model: Any, spread: Spread = ALONE, **more: Any) -> MemoryPlan:
    settings = {"method": "dpo", "device": "cuda", "max_length": 128, "memory": 80 * 10**9} | more
    return planner_for(model, spread=spread, **settings).plan(1024, fit=True)


def state(plan: MemoryPlan) -> int:
    return sum(plan.parts[name] for name in ("weights", "gradients", "optimizer"))


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, LoraOptions(16)], ids=["full", "lora"])
def test_what_a_gpu_of_eight_holds_is_the_arithmetic_of_the_page(lora: LoraOptions | None, arithmetic: Any) -> None:
    plan = planned(SMALL, EIGHT, lora=lora, activation_checkpointing=True)
    way = arithmetic.Way(arithmetic.SMALL, lora is not None, 8, True)
    several = state(plan) + (0 if plan.several or lora is None else plan.weights.trained_bytes / 8)
    assert several == pytest.approx(way.state, rel=0.01)
    assert plan.parts["together"] == pytest.approx(way.gathered, rel=0.02)
    assert plan.fits and not planned(SMALL, Spread(8), activation_checkpointing=True).fits


@pytest.mark.slow
def test_splitting_divides_what_stays_and_ddp_adds_what_is_sent(model: Path) -> None:
    alone, split, whole = (planned(str(model), spread) for spread in (Spread(), Spread(4, shard=True), Spread(4)))
    for name in ("weights", "gradients", "optimizer"):
        assert split.parts[name] == pytest.approx(alone.parts[name] / 4, abs=4)
        assert whole.parts[name] == alone.parts[name]
    assert (alone.parts["together"], whole.parts["together"]) == (0, alone.weights.trained_bytes)
    assert split.rows <= alone.rows and split.scoring < whole.scoring and split.evaluating < whole.evaluating
    assert alone.weights.layer.trained > 0
    layers = 2 * alone.weights.layer.trained  # of the tiny model
    assert alone.weights.outside.trained + layers == alone.weights.count


@pytest.mark.parametrize(
    ("spread", "more", "words"),
    [
        (Spread(1, shard=True), {}, "shard has no effect in one process"),
        (Spread(8), {"device": "cpu"}, "gpus has no effect on a CPU"),
        (Spread(0), {}, "gpus=0"),
        (EIGHT, {"dtype": "pure-bfloat16"}, "pure-bfloat16"),
        (EIGHT, {"lora": LoraOptions(4, load_in_4bit=True)}, "4 bits"),
        (EIGHT, {"reference_scores": "live"}, "second model"),
        (EIGHT, {"reference_moves": "soft"}, "second weights"),
    ],
)
def test_what_a_run_on_several_would_refuse_is_refused(
    spread: Spread, more: dict[str, Any], words: str, model: Path
) -> None:
    with pytest.raises(ConfigError, match=words):
        planned(str(model), spread, **more)


@pytest.mark.slow
def test_estimate_plans_for_several_gpus(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["estimate", "--model", str(model), "--max-length", "64", "--gpu", "h100-80gb", "--gpus", "8", "--shard"]
    assert main(asked) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "8 GPUs, split between them (FSDP2)" in said and "put together or sent" in said
    assert "the first process alone holds all of it in the host's memory" in said and "QLoRA" not in said
    assert main([*asked, "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)["plans"]["full"]
    assert (found["gpus"], found["shard"]) == (8, True) and found["parts"]["together"] > 0


@pytest.mark.slow
def test_only_what_can_fit_is_proposed() -> None:
    def said(**more: Any) -> str:
        return " ".join(proposals({"one": planned(SMALL, **more)}))

    small = said(memory=24 * 10**9)
    assert "--activation-checkpointing" not in small and "pure-bfloat16" not in small and "--max-length" not in small
    assert "--gpus 8 --shard" in small and "--lora-r 16" in small and "--load-in-4bit" in small
    assert "--gpus 4 --shard" in said(memory=48 * 10**9) and "--gpus 2 --shard" in said(memory=80 * 10**9)
    assert said(memory=10**9).endswith("take a smaller model, or GPUs with more memory")
    assert "--shard" in said(spread=Spread(8), memory=60 * 10**9) and "--gpus" not in said(
        spread=Spread(8), memory=60 * 10**9
    )


@pytest.mark.slow
def test_gpus_share_the_work_and_wait_for_the_slower_of_exchange_and_computation(model: Path) -> None:
    def seconds(spread: Spread, **more: Any) -> dict[str, float]:
        settings: dict[str, Any] = {"method": "dpo", "device": "cuda", "max_length": 64, "memory": 10**9}
        planner = planner_for(str(model), spread=spread, batch_size=32, **settings)
        rows, options = made_up_rows(64, 64, "dpo"), TrainingOptions(batch_size=32)
        return dict(time_of(planner, rows, options, 1024, lambda planner, work: replace(SPEED, **more)).seconds)

    alone, split, whole = seconds(ALONE), seconds(Spread(4, shard=True)), seconds(Spread(4))
    tokens = 64 * (32 + 2 * 31)  # a prompt once, no answer's last token
    assert alone["training"] == 2 * tokens + 2 * 8
    assert alone["reference"] == tokens == 4 * split["reference"]
    assert split["training"] == pytest.approx(2 * tokens / 4 + 2 * 8 / 4)
    weights = planner_for(str(model), method="dpo", device="cuda", memory=10**9, max_length=64).weights.count
    assert whole["training"] == pytest.approx(2 * tokens / 4 + 2 * (8 + 2 * 4 * weights * 3 / 4 / 1e9))
    waiting = seconds(Spread(4, shard=True), link=1.0)  # a byte a second: twice bfloat16 and once float32, of 3 others
    micro_batches = 2 * 1  # of 8 rows in 1024 tokens
    assert waiting["training"] - 2 * 8 / 4 == pytest.approx(micro_batches * weights * (2 * 2 + 4) * 3 / 4, rel=0.02)


@pytest.mark.slow
def test_a_number_of_rows_is_enough_for_a_time(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["estimate", "--model", str(model), "--gpu", "l4", "--max-length", "64", "--lora-r", "4"]
    for method, more in (("dpo", []), ("kto", ["--eval-fraction", "0.1", "--eval-prompts", "4"])):
        assert main([*asked, "--method", method, "--rows", "5000", "--batch-size", "50", *more]) == 0
        steps = 100 if method == "dpo" else 90
        assert f"LoRA r=4: {steps} steps, about" in " ".join(capsys.readouterr().out.split())
    for wrong in (["--rows", "0"], ["--rows", "5", "--truncation", "drop"], ["--rows", "5", "--eval-prompts", "4"]):
        assert main([*asked, *wrong]) == 2
    assert main([*asked, "--rows", "5", "--data", "x.jsonl"]) == 2
