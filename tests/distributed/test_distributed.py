"""Several processes: DDP and FSDP2 on a CPU give one process's numbers, go on in other worlds, end when one dies."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from likelier.cli import main as cli
from tests.helpers.small_runs import pair_rows, save_tiny, write_rows
from tests.helpers.support import numbers

pytestmark = pytest.mark.slow

TOLERANCE = {"float64": 1e-10, "float32": 1e-5}


def run_worlds(root: Path, *jobs: str) -> tuple[list[list[int]], str]:
    """Do one `WORLD:WORK:FOLDER` after the other, folders below root. Returns the exit codes of each one's ranks, and
    all that was said.
    """
    words = [f"{world}:{work}:{root / folder}" for world, work, folder in (job.split(":") for job in jobs)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.worlds", *words],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=Path(__file__).parents[2],
        env=environment(),
    )
    told = [line.split() for line in done.stdout.splitlines() if line.startswith(tuple(words))]
    assert len(told) == len(jobs), done.stderr[-3000:]
    return [[int(code) for code in line[1:]] for line in told], done.stderr


def environment() -> dict[str, str]:
    launched = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    kept = {name: value for name, value in os.environ.items() if name not in launched}
    return {**kept, "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(next(iter(sorted(run.glob("*model*.safetensors")))))


def metrics(run: Path) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [numbers(json.loads(line)) for line in lines]


def assert_equal_runs(one: Path, other: Path, tolerance: float) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    for name, weight in first.items():
        torch.testing.assert_close(second[name], weight, rtol=0, atol=tolerance)
    assert_equal_metrics(metrics(one), metrics(other), tolerance)


def assert_equal_metrics(one: list[dict[str, Any]], other: list[dict[str, Any]], tolerance: float) -> None:
    assert [row.keys() for row in one] == [row.keys() for row in other]
    for row, its in zip(one, other, strict=True):
        for name, value in row.items():
            assert its[name] == pytest.approx(value, rel=tolerance, abs=tolerance), (row["step"], name)


@pytest.mark.parametrize("size", [2, 4])
def test_several_processes_equal_one(size: int, tmp_path: Path) -> None:
    """Losses, metrics, evaluations and weights of DPO, IPO, KTO, SimPO, BCO and reward models, packed and with padding,
    with activation checkpointing, with an uneven last step, and with fewer rows than ranks.
    """
    worlds = ["alone", f"ddp-{size}", f"fsdp-{size}"]
    codes, said = run_worlds(tmp_path, *(f"{world}:run_cases:{world}" for world in worlds))
    assert codes == [[0], [0] * size, [0] * size], said[-3000:]
    runs = [path for path in (tmp_path / "alone").iterdir() if (path / "run.json").exists()]
    assert len(runs) == 15
    shifts = [json.loads((tmp_path / world / "bco-float64" / "run.json").read_text("utf-8")) for world in worlds]
    for one in shifts[1:]:  # what BCO carries from step to step is every answer's, whoever computed it
        for side, (total, count) in one["objective_state"].items():
            assert [total, count] == pytest.approx(shifts[0]["objective_state"][side], rel=1e-10) and count == 20
    for run in runs:
        if run.name == "bfloat16":  # gathered weights are rounded elsewhere than autocast's
            ends = [metrics(tmp_path / world / run.name)[-1]["eval_loss"] for world in worlds]
            assert ends == pytest.approx([ends[0]] * 3, abs=0.02)
            continue
        tolerance = TOLERANCE.get(run.name.rpartition("-")[2], TOLERANCE["float64"])
        for world in worlds[1:]:
            assert_equal_runs(run, tmp_path / world / run.name, tolerance)
    for world in worlds[1:]:
        assert (
            len(list((tmp_path / world / "dpo-float64-store").rglob("*.scores"))) == size
        )  # each rank wrote its share


def test_a_signal_to_one_rank_ends_all_with_a_checkpoint_that_any_world_goes_on_from(tmp_path: Path) -> None:
    cut = ["fsdp-2:cut_short:fsdp", "ddp-2:cut_short:ddp"]
    codes, said = run_worlds(tmp_path, "alone:whole:alone", "fsdp-2:whole:sharded", *cut)
    assert codes == [[0], [0, 0], [0, 0], [0, 0]], said[-3000:]
    assert not list((tmp_path / "fsdp").glob("*.safetensors"))
    again = {"fsdp": ["fsdp-2", "fsdp-4", "ddp-2", "alone"], "ddp": ["alone", "ddp-4"]}
    jobs = []
    for origin, worlds in again.items():
        for world in worlds:
            shutil.copytree(tmp_path / origin, tmp_path / f"{origin}-in-{world}")
            jobs.append(f"{world}:go_on:{origin}-in-{world}")
    codes, said = run_worlds(tmp_path, *jobs)
    assert all(code == 0 for ranks in codes for code in ranks), said[-3000:]
    for job in jobs:
        assert_equal_runs(tmp_path / "alone", tmp_path / job.split(":")[2], 1e-10)
    same = weights(tmp_path / "sharded"), weights(tmp_path / "fsdp-in-fsdp-2")
    assert all(torch.equal(weight, same[1][name]) for name, weight in same[0].items())  # bit for bit


def test_a_reward_model_goes_on_in_any_world(tmp_path: Path) -> None:
    """One that is an adapter with its head, with the mean score of training answers that `model:FOLDER` takes off."""
    jobs = ["alone:reward_go_on:whole", "ddp-2:reward_cut_short:ddp", "fsdp-2:reward_cut_short:fsdp"]
    codes, said = run_worlds(tmp_path, *jobs)
    assert all(code == 0 for ranks in codes for code in ranks), said[-3000:]
    again = ["ddp-2:reward_go_on:ddp", "alone:reward_go_on:fsdp"]
    codes, said = run_worlds(tmp_path, *again)
    assert all(code == 0 for ranks in codes for code in ranks), said[-3000:]
    for world in ("ddp", "fsdp"):
        assert_equal_runs(tmp_path / "whole", tmp_path / world, 1e-10)
        one, other = (json.loads((tmp_path / run / "run.json").read_text("utf-8")) for run in ("whole", world))
        assert other["reward_offset"] == pytest.approx(one["reward_offset"], abs=1e-6)


def test_a_reference_that_moves_is_the_same_in_two_processes_and_goes_on_from_their_checkpoint(tmp_path: Path) -> None:
    jobs = ["alone:moving_go_on:whole", "ddp-2:moving_cut_short:ddp", "ddp-2:moving_go_on:ddp"]
    codes, said = run_worlds(tmp_path, *jobs)
    assert codes == [[0], [0, 0], [0, 0]], said[-3000:]
    assert_equal_runs(tmp_path / "whole", tmp_path / "ddp", 1e-10)
    assert metrics(tmp_path / "whole")[-1]["step"] == 6
    one, other = (json.loads((tmp_path / run / "run.json").read_text("utf-8")) for run in ("whole", "ddp"))
    assert other["reference_at_end"]["updates"] == one["reference_at_end"]["updates"] == 3


def test_stages_are_the_same_in_several_processes(tmp_path: Path) -> None:
    save_tiny(tmp_path / "model")
    write_rows(tmp_path / "pairs.jsonl", pair_rows())
    codes, said = run_worlds(tmp_path, "alone:in_stages:alone", "ddp-2:in_stages:ddp", "fsdp-2:in_stages:fsdp")
    assert codes == [[0], [0, 0], [0, 0]], said[-3000:]
    for world in ("ddp", "fsdp"):
        for stage in ("1-sft", "2-dpo"):
            assert_equal_runs(tmp_path / "alone" / stage, tmp_path / world / stage, 1e-5)
        card = json.loads((tmp_path / world / "run.json").read_text(encoding="utf-8"))
        assert [stage["status"] for stage in card["stages"]] == ["done", "done"]


def test_a_sweep_runs_in_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    words = ["sweep", "--model", "demo", "--data", "demo", "--output", str(tmp_path / "out"), "--eval-fraction", "0.2"]
    assert cli.main([*words, "--vary", "dpo.beta=0.1,0.2"]) == 2
    assert "a sweep runs in one process; start it without torchrun" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("what", "code", "words"),
    [("killed", -9, "is gone"), ("stopped", -9, "gave no sign of life for 6 seconds"), ("failed", 1, "failed: Zero")],
)
def test_a_rank_that_dies_ends_the_others_by_name(what: str, code: int, words: str, tmp_path: Path) -> None:
    codes, said = run_worlds(tmp_path, f"ddp-3:lose_rank:{what}")
    assert codes == [[4, 4, code]], said[-3000:]
    told = [line for line in said.splitlines() if line.startswith("error: rank 2 (process ")]
    assert len(told) == 1 and words in told[0] and "start it again with --resume" in told[0], said[-3000:]
    card = json.loads((tmp_path / what / "run.json").read_text(encoding="utf-8"))
    assert card["status"] == "failed" and words in card["error"]
    assert (tmp_path / what / "checkpoints" / "step-2").is_dir()


def test_a_first_rank_that_stops_with_what_keeps_the_others_together_ends_them_too(tmp_path: Path) -> None:
    codes, said = run_worlds(tmp_path, "ddp-2:lose_rank:stopped-first")
    assert codes == [[-9, 4]], said[-3000:]
    words = "rank 1: error: rank 0, or the launcher that keeps the ranks together, gave no sign of life for 6 seconds"
    assert words in said, said[-3000:]
