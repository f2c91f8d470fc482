"""Runs that write their answers, in several processes: one process's numbers, whoever wrote and judged what."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.distributed.test_distributed import assert_equal_runs, run_worlds
from tests.helpers.services import allow_this_machine
from tests.helpers.vllm_double import VllmDouble

pytestmark = pytest.mark.slow


def test_several_processes_equal_one(tmp_path: Path) -> None:
    """Losses, rewards, evaluations and weights: with a reference and two updates a rollout, with refill, with an answer
    scored in many parts, with fewer prompts than processes, with pairs, with a critic of its own and one on the
    policy's trunk; and cut short in one world and gone on with in the other.
    """
    jobs = ["alone:learn_online:alone", "ddp-2:learn_online:ddp", "alone:online_go_on:whole"]
    cut = ["ddp-2:online_cut_short:cut", "alone:online_go_on:cut"]
    codes, said = run_worlds(tmp_path, *jobs, *cut)
    assert codes == [[0], [0, 0], [0], [0, 0], [0]], said[-3000:]
    pairs, critics = ("online_dpo", "rebel"), ("ppo-own", "ppo-shared")
    for name in ("grpo", "rloo", "dapo", "one", *pairs, *critics):
        assert_equal_runs(tmp_path / "alone" / name, tmp_path / "ddp" / name, 1e-9)
    assert_equal_runs(tmp_path / "whole", tmp_path / "cut", 1e-9)


def test_a_server_writes_for_all_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first process has the adapter loaded, gathered where it is split, and each asks for its share."""
    allow_this_machine(monkeypatch)
    double = VllmDouble()
    with double.running() as url:
        monkeypatch.setenv("SERVER_OF_THE_TEST", url)
        worlds = ("alone", "ddp-2", "fsdp-2")
        codes, said = run_worlds(tmp_path, *(f"{world}:served_online:{world}" for world in worlds))
    assert codes == [[0], [0, 0], [0, 0]], said[-3000:]
    for world in worlds[1:]:
        assert_equal_runs(tmp_path / "alone", tmp_path / world, 1e-9)
    assert not double.loaded
    assert len(double.adapters) == 3 * 4  # each run has begun with one, and moved three times
