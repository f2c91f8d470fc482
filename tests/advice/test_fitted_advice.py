"""What `recommend` fits to the case: length, rate, rank, memory to spare, soft labels; and what it says will happen."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from likelier.advice import speed
from likelier.advice.choice import lora_rank, rate_factor, settings_of
from likelier.advice.evidence import gather
from likelier.advice.fit import enough, fit
from likelier.advice.memory import planner_for
from likelier.advice.recommend import Recommendation, recommend
from likelier.cli.main import main
from likelier.data.lengths import Row
from likelier.objectives.advice import Subject
from likelier.training.config import parse
from likelier.training.duration import Speed
from tests.helpers.shapes import llama, save_shape
from tests.helpers.small_runs import save_tiny, write_rows

SPEED = Speed(trained_token=2.0, scored_token=1.0, written=3.0, update=5.0, off=0.3, words="made up")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("fitted") / "tiny")


def rows(count: int) -> list[dict[str, Any]]:
    return [{"prompt": f"say {one}", "chosen": f"yes {one}", "rejected": f"no {one}"} for one in range(count)]


def advise(model: Path, folder: Path, found: list[dict[str, Any]], **more: Any) -> Recommendation:
    path = str(write_rows(folder / "pairs.jsonl", found))
    return recommend(
        gather([path]), str(model), memory=24 * 10**9, device="cpu", speed_of=lambda planner, work: SPEED, **more
    )


def test_rates_are_those_of_the_papers_for_large_models_and_more_for_small_ones() -> None:
    large = Subject("llama", True, 100_000, adapter=False, weights=8 * 10**9)
    assert rate_factor(large) == (1.0, "") and settings_of("dpo", large)[-1].value == 1e-6
    small = Subject("llama", True, 100_000, adapter=True, weights=135 * 10**6)
    rate = settings_of("dpo", small)[-1]
    assert 2e-4 < rate.value < 5e-4 and "135M" in rate.source and "ours" in rate.source
    few = settings_of("dpo", Subject("llama", True, 138, adapter=True, weights=135 * 10**6))[-1]
    assert few.value == pytest.approx(1.5 * rate.value, rel=0.01) and "fewer than 50 steps" in few.source
    middle = rate_factor(Subject("llama", True, 100_000, adapter=False, weights=10**9))[0]
    assert 1 < middle < rate_factor(small)[0]


@pytest.mark.parametrize(("count", "rank"), [(100, 16), (10_000, 16), (20_000, 32), (500_000, 64)])
def test_more_rows_get_a_larger_adapter(count: int, rank: int) -> None:
    assert lora_rank(count) == rank


def test_rows_length_steps_and_time_are_said(model: Path, tmp_path: Path) -> None:
    blank = {"prompt": "say", "chosen": "", "rejected": ""}
    found = advise(model, tmp_path, [*rows(60), blank, blank])
    told = "\n".join(found.run_lines())
    assert "62 rows: 60 kept" in told and "2 x empty-answer" in told and "steps, about" in told
    assert any("62 rows, 60 can be used; left out: 2 x empty-answer" in line for line in found.evidence.lines())
    known = found.as_json()
    assert known["data"][0]["left_out"] == {"empty-answer": 2} and known["time"][0]["steps"] > 0
    assert found.options["max_length"] == found.rows[0].max_length == known["data"][0]["proposed_max_length"]
    assert parse(found.options).training.max_length == found.options["max_length"]


def test_what_is_given_stands_in_the_run_file(model: Path, tmp_path: Path) -> None:
    held = str(write_rows(tmp_path / "held.jsonl", rows(9)))
    found = advise(model, tmp_path, rows(60), given={"eval_data": held, "max_length": 32, "truncation": "drop"})
    assert found.options["eval_data"] == held and "eval_fraction" not in found.options
    assert found.options["max_length"] == 32 and found.rows[0].held_count == 9
    parse(found.options)


@pytest.mark.parametrize("ties", [0, 6])
def test_ties_lead_to_soft_labels(ties: int, model: Path, tmp_path: Path) -> None:
    voted = [row | {"votes": [2, 2, 0] if number < ties else [5, 0, 0]} for number, row in enumerate(rows(600))]
    assert "use_votes" not in advise(model, tmp_path, voted[6:]).options
    many = [row | {"votes": [2, 2, 0]} for row in rows(5 * ties)]
    found = advise(model, tmp_path, [*voted, *({**row, "prompt": f"tie {row['prompt']}"} for row in many)])
    assert (found.options.get("use_votes") == "soft") == bool(ties)
    assert found.evidence.undecided == 6 * ties
    plan = found.rows[0]
    assert plan.read == 600 + 5 * ties == plan.kept + sum(plan.left_out.values())
    assert plan.train_count == plan.read - plan.held_count - plan.left_out.get("undecided-pair", 0)
    assert (plan.left_out.get("undecided-pair", 0) < 6 * ties) == bool(ties)  # soft labels train on them
    parse(found.options)


def test_ties_that_convert_keeps_lead_to_soft_labels(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "measured", lambda planner, work: SPEED)
    judged = [
        {"prompt": f"say {one}", "first": f"yes {one}", "second": "no", "winner": "tie" if one % 4 == 0 else "first"}
        for one in range(80)
    ]
    file, kept = write_rows(tmp_path / "judged.jsonl", judged), tmp_path / "kept.jsonl"
    assert main(["convert", str(file), str(kept), "--keep-undecided"]) == 0
    capsys.readouterr()
    for data in (file, kept):
        asked = ["recommend", str(data), "--model", str(model), "--memory", "24GB", "--device", "cpu"]
        assert main([*asked, "--format", "json"]) == 0
        assert json.loads(capsys.readouterr().out)["run"]["use_votes"] == "soft", data.name


def test_a_plan_within_a_tenth_of_the_memory_is_not_taken(model: Path) -> None:
    more: dict[str, Any] = {"device": "cpu", "rows": [Row(8, (40, 40))] * 64, "batch_size": 8, "adapter_first": False}
    full = fit(str(model), "dpo", memory=64 * 10**9, **more)
    assert full.way.words == "full" and not full.tight
    least = full.planner.needed(1)
    close = fit(str(model), "dpo", memory=round(1.02 * least), **more)
    assert (close.fits and close.way.words != "full") or close.tight
    assert len(close.tried) > 1


@pytest.mark.slow
def test_a_gpu_is_not_left_with_micro_batches_of_a_row(tmp_path: Path) -> None:
    """8B on 24 GB: LoRA without checkpointing holds one short row, and waits; with it a whole step."""
    more: dict[str, Any] = {"device": "cuda", "rows": [Row(40, (40, 40))] * 64, "batch_size": 16}
    found = fit(str(save_shape(llama(), tmp_path)), "dpo", memory=24 * 10**9, adapter_first=True, **more)
    assert found.way.words == "LoRA, checkpointing" and (found.tried["LoRA"].fitting_budget or 0) < 1024
    assert enough(found.planner) == 8 * (40 + 39 + 39)  # as many rows as 1024 tokens hold


@pytest.mark.slow
def test_several_gpus_split_what_one_cannot_hold(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more: dict[str, Any] = {"device": "cuda", "rows": [Row(200, (200, 200))] * 64, "batch_size": 64}
    found = fit(
        str(save_shape(llama(), tmp_path / "8b")), "dpo", memory=80 * 10**9, adapter_first=False, gpus=8, **more
    )
    assert found.way.words == "full, sharded, checkpointing" and not found.tight
    assert found.way.options() == {"activation_checkpointing": True, "shard": True}
    data, out = write_rows(tmp_path / "pairs.jsonl", rows(60)), tmp_path / "run.yaml"
    asked = ["recommend", str(data), "--model", str(model), "--gpu", "h100-80gb", "--gpus", "8", "--output", str(out)]
    assert main(asked) == 0
    assert f"torchrun --standalone --nproc-per-node 8 -m likelier train {out}" in capsys.readouterr().err
    assert "torchrun" in out.read_text().splitlines()[2]
    parse(yaml.safe_load(out.read_text()))


def test_recommend_takes_the_data_flags_of_a_run(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "measured", lambda planner, work: SPEED)
    mine = [{"q": f"say {one}", "good": f"yes {one}", "bad": f"no {one}"} for one in range(60)]
    data = write_rows(tmp_path / "mine.jsonl", mine)
    asked = ["recommend", str(data), "--model", str(model), "--memory", "24GB", "--device", "cpu"]
    asked += ["--columns", "prompt=q", "chosen=good", "rejected=bad", "--eval-fraction", "0.3", "--max-length", "48"]
    assert main(asked) == 0
    said = capsys.readouterr().out
    assert "what will happen" in said and "60 rows: 60 kept" in said
    assert main([*asked, "--format", "json"]) == 0
    run = json.loads(capsys.readouterr().out)["run"]
    assert (run["eval_fraction"], run["max_length"]) == (0.3, 48) and run["columns"]["prompt"] == "q"


def test_a_gpu_is_reckoned_from_its_figures(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_rows(tmp_path / "pairs.jsonl", rows(60))
    asked = ["estimate", "--model", str(model), "--data", str(data), "--format", "json"]
    assert main([*asked, "--gpu", "h100-80gb"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["time"]) == {"full", "LoRA r=16", "QLoRA r=16"} and found["plans"]["full"]["device"] == "cuda"
    assert found["time"]["full"]["off"] == 0.5 and "h100-80gb" in found["time"]["full"]["from"]
    assert found["plans"]["full"]["memory"] == 80 * 10**9
    assert main([*asked, "--gpu", "a100"]) == 2
    assert "known: rtx-3090" in capsys.readouterr().err
    assert main([*asked, "--gpu", "l4", "--device", "cpu"]) == 2
    planner = planner_for(str(model), method="dpo", device="cuda", memory=10**9, max_length=32)
    work: Any = SimpleNamespace(micro_batch=(Row(8, (8, 8)),), together=0)
    slow, fast = (speed.reckoned(planner, work, gpu) for gpu in ("l4", "h100-80gb"))
    assert slow.trained_token / fast.trained_token == pytest.approx(989 / 121)
    assert slow.trained_token == 3 * slow.scored_token


def test_what_is_tight_is_answered_with_what_saves_memory(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["estimate", "--model", str(model), "--device", "cuda", "--max-length", "64", "--memory"]
    assert main([*asked, "64GB"]) == 0
    assert "to spare" not in capsys.readouterr().out
    assert main([*asked, "100MB"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "does not fit; take" in said and "--activation-checkpointing" in said
    assert "--dtype pure-bfloat16" in said and "--load-in-4bit" in said
