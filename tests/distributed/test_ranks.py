"""What several processes share, tried without them: who takes which part, what is refused, how slices are put back."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import distributed

from likelier.cli import main as cli
from likelier.data.groups import Group
from likelier.data.packing import packed_micro_batches, padded_micro_batches, padded_tokens
from likelier.data.records import Source
from likelier.models.sharding import ShardedCheckpoint, is_sharded, save_shards, shard_policy
from likelier.objectives import DPO
from likelier.objectives.metrics import MetricSums
from likelier.scoring import attach_scorer
from likelier.scoring.engine import own_micro_batches, score_groups
from likelier.training.heartbeat import Heartbeat, speaks_of
from likelier.training.launcher import take_over_precision, with_launcher
from likelier.training.options import TrainingOptions, refuse_process_options
from likelier.training.trainer import PreferenceTrainer
from likelier.utils.console import say, say_error
from likelier.utils.distributed import ALONE, Ranks, join_ranks
from likelier.utils.errors import ConfigError, RunFolderError
from tests.helpers.slices import recut
from tests.helpers.support import chat_pairs, lora_policy, shared_tokens, tiny_model, tiny_policy


def sized(length: int, number: int) -> Group:
    """A pair of two answers of `length` tokens under a prompt of its own."""
    answers = tuple(np.full(length, side, dtype=np.int32) for side in (3, 4))
    return Group(np.asarray([number + 5], dtype=np.int32), answers, Source("rows", number, "row"))


# --- shares --------------------------------------------------------------------------------------------------------


@settings(max_examples=100)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=30),
    size=st.integers(1, 9),
    budget=st.integers(10, 200),
    cut=st.sampled_from([padded_micro_batches, packed_micro_batches]),
)
def test_every_rank_has_as_many_micro_batches_and_every_group_is_in_one(
    lengths: list[int], size: int, budget: int, cut: Any
) -> None:
    groups = [sized(length, number) for number, length in enumerate(lengths)]
    parts = cut(groups, budget, ranks=size)
    assert len(parts) % size == 0
    assert sorted(group.source.number for part in parts for group in part) == list(range(len(groups)))
    held = padded_tokens if cut is padded_micro_batches else shared_tokens
    assert all(len(part) <= 1 or held(part) <= budget for part in parts)
    assert len(parts) - len(cut(groups, budget)) < size + (cut is packed_micro_batches) * len(groups)


@pytest.mark.parametrize(("rows", "size"), [(1, 4), (3, 4), (10, 4), (10, 1)])
def test_a_rank_without_work_keeps_step_with_a_filler_that_does_not_count(rows: int, size: int) -> None:
    model = tiny_model()
    attach_scorer(model, scorer="plain")
    groups = [sized(3 + number, number) for number in range(rows)]
    shares = [own_micro_batches(model, groups, 20, Ranks(rank, size)) for rank in range(size)]
    assert len({len(share) for share in shares}) == 1
    counted = [group.source.number for share in shares for part in share if part.counts for group in part.groups]
    assert sorted(counted) == list(range(rows))
    places = [(part.place, len(part.groups)) for share in shares for part in share if part.counts]
    taken = [number for place, count in places for number in range(place.first, place.first + count)]
    assert sorted(taken) == list(range(rows)) and {place.total for place, _ in places} == {rows}
    fillers = [part for share in shares for part in share if not part.counts]
    assert all([group.source.number for group in part.groups] == [0] for part in fillers)  # the shortest
    assert bool(fillers) == (rows < size or len(counted) % size != 0)


def test_many_groups_are_planned_in_windows_the_largest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    attach_scorer(model)
    groups = [sized(2 + number * 7 % 23, number) for number in range(23)]
    settings: dict[str, Any] = {"token_budget": 30, "device": "cpu"}

    def scores() -> dict[int, list[float]]:
        parts = list(score_groups(model, groups, **settings))
        sizes.append([sum(group.tokens for group in part.groups) for part in parts])
        return {
            group.source.number: part.scores.logps[numbers].tolist()
            for part in parts
            for group, numbers in zip(part.groups, part.batch.answers_of_groups(), strict=True)
        }

    sizes: list[list[int]] = []
    at_once = scores()
    monkeypatch.setattr("likelier.scoring.engine._WINDOW", 5)
    in_windows = scores()
    assert at_once.keys() == in_windows.keys()
    for number, values in at_once.items():
        assert in_windows[number] == pytest.approx(values, abs=1e-10)
    assert max(sizes[1]) == max(sizes[1][:5]) and sizes[0] != sizes[1]


def test_sums_over_ranks_hold_names_that_a_rank_added_nothing_to() -> None:
    own = MetricSums()
    own.add("loss", torch.tensor([1.0, 2.0]))
    filler = own.zeros()
    assert filler.means() == {}
    both = own.over_ranks(lambda values: values + torch.tensor([[4.0], [1.0]], dtype=torch.double))
    assert both.means() == {"loss": 7 / 3}
    assert filler.over_ranks(lambda values: values).means() == {}


def test_one_process_exchanges_nothing() -> None:
    assert join_ranks() == ALONE and ALONE.is_first and not ALONE.several
    values = torch.tensor([1.0])
    assert ALONE.total(values) is values and ALONE.lowest(values) is values
    assert ALONE.highest(3) == 3 and ALONE.all(True) and not ALONE.all(False)
    assert ALONE.text_of_first("words") == "words"
    ALONE.require_same("data", "hash")
    with ALONE.first_before_others():
        ALONE.wait()


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"shard": True}, "shard"),
        ({"rank_timeout": 30.0}, "rank_timeout"),
        ({"trainer": {"ddp_timeout": 60}}, "trainer.ddp_timeout"),
        ({"trainer": {"ddp_bucket_cap_mb": 60}}, "trainer.ddp_bucket_cap_mb"),
    ],
)
def test_options_about_processes_have_no_effect_in_one(options: dict[str, Any], name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"^{name} has no effect in one process; start several with torchrun"):
        PreferenceTrainer(tiny_policy(), DPO(), chat_pairs(4), output_dir=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_what_does_not_go_with_sharding_is_refused() -> None:
    several = Ranks(0, 2)
    refuse_process_options(TrainingOptions(shard=True), several)
    with pytest.raises(ConfigError, match="take stored scores"):
        refuse_process_options(TrainingOptions(shard=True, reference_scores="live"), several)
    with pytest.raises(ConfigError, match="drop one of them"):
        refuse_process_options(TrainingOptions(shard=True, compile=True), several)
    policy = tiny_policy(dtype=torch.bfloat16)
    with pytest.raises(ConfigError, match="dtype=pure-bfloat16"):
        shard_policy(policy, torch.device("cpu"), several)
    policy.model.requires_grad_(False)
    policy.model.lm_head.bias = torch.nn.Parameter(torch.zeros(384, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(ConfigError, match="weights in 4 bits"):
        shard_policy(policy, torch.device("cpu"), several)


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ({"fsdp": True}, "use shard: true"),
        ({"fsdp_config": {}}, "use shard: true"),
        ({"deepspeed": "ds.json"}, "is not supported: several processes run as DDP, or with shard: true as FSDP2"),
        ({"ddp_find_unused_parameters": True}, "has no effect"),
    ],
)
def test_other_engines_are_refused_by_name(block: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        TrainingOptions(trainer=block)


def test_accelerates_config_is_said_in_our_options(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = TrainingOptions()
    assert with_launcher(plain) is plain
    monkeypatch.setenv("LIKELIER_SHARDS", "")  # and unset at the end
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ConfigError, match="fsdp_version is 1; only 2"):
        with_launcher(plain)
    monkeypatch.setenv("FSDP_VERSION", "2")
    for name, words in [("FSDP_OFFLOAD_PARAMS", "offload"), ("FSDP_ACTIVATION_CHECKPOINTING", "activation")]:
        monkeypatch.setenv(name, "true")
        with pytest.raises(ConfigError, match=words):
            with_launcher(plain)
        monkeypatch.setenv(name, "false")
    assert with_launcher(plain).shard
    assert "ACCELERATE_USE_FSDP" not in os.environ  # accelerate is told nothing of it
    assert with_launcher(plain).shard  # the next stage is
    monkeypatch.setenv("LIKELIER_SHARDS", "")
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ConfigError, match="DeepSpeed is not supported; take FSDP2"):
        with_launcher(plain)


def test_accelerates_precision_must_be_the_policys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with pytest.raises(ConfigError, match="mixed_precision is bf16, and this run computes otherwise; set mixed_prec"):
        take_over_precision(autocast=False)
    take_over_precision(autocast=True)  # the run's own
    take_over_precision(autocast=True)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    with pytest.raises(ConfigError, match="mixed_precision is fp16"):
        take_over_precision(autocast=True)


def test_a_launcher_that_does_not_say_where_the_others_are_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in [("WORLD_SIZE", "2"), ("RANK", "0")]:
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.delenv("MASTER_PORT", raising=False)
    with pytest.raises(ConfigError, match="without MASTER_ADDR, MASTER_PORT; start them with torchrun or accelerate"):
        join_ranks()


# --- who speaks ----------------------------------------------------------------------------------------------------


def test_the_first_process_speaks_and_every_one_tells_its_own_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    say("begun")
    monkeypatch.setenv("RANK", "3")
    say("alone, whatever a cluster says of RANK")
    monkeypatch.setenv("WORLD_SIZE", "4")
    say("begun")
    say_error("error: gone")
    assert capsys.readouterr().err == "begun\nalone, whatever a cluster says of RANK\nrank 3: error: gone\n"
    assert cli.main(["audit", "no such file"]) == 2
    assert capsys.readouterr().err.startswith("rank 3: error: ")


def test_one_rank_tells_of_anothers_end() -> None:
    first, second, third = (Ranks(rank, 3) for rank in range(3))
    for told, rank in [("rank 2 (process 7) is gone", first), ("rank 0, or the launcher, is gone", second)]:
        assert [speaks_of(told, one) for one in (first, second, third)] == [
            one is rank for one in (first, second, third)
        ]
    assert speaks_of("rank 0 (process 7) failed: DataError: empty", first)  # it has told itself


def test_a_vigil_of_one_watches_nothing() -> None:
    heartbeat = Heartbeat(ALONE, 1.0, pytest.fail)
    heartbeat.start()
    assert heartbeat.failed(RuntimeError("gloo")) is None
    heartbeat.close()


# --- slices --------------------------------------------------------------------------------------------------------


def stepped(model: Any) -> torch.optim.Optimizer:
    """An optimizer that has made a step."""
    optimizer = torch.optim.AdamW([w for w in model.parameters() if w.requires_grad], lr=0.1, betas=(0.8, 0.9))
    model(input_ids=torch.arange(8)[None]).logits.square().mean().backward()
    optimizer.step()
    return optimizer


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 3, 40])
def test_slices_are_put_back_bit_for_bit(tmp_path: Path, size: int) -> None:
    """Of one process, and cut as so many ranks write them (torch.chunk's rows, some ranks with none)."""
    for number, make in enumerate((tiny_model, lambda seed=0: lora_policy(seed).model)):
        model, other = make(), make(1)
        optimizer = stepped(model)
        folder = tmp_path / str(number)
        save_shards(folder, model, optimizer, ALONE)
        recut(folder, size)
        fresh = torch.optim.AdamW([weight for weight in other.parameters() if weight.requires_grad])
        slices = ShardedCheckpoint(folder)
        slices.load_weights(other)
        slices.load_optimizer(other, fresh)
        assert not is_sharded(other)
        for (_, mine), (_, theirs) in zip(model.named_parameters(), other.named_parameters(), strict=True):
            if mine.requires_grad:
                assert torch.equal(mine, theirs)
                assert optimizer.state[mine].keys() == fresh.state[theirs].keys()
                assert all(
                    torch.equal(optimizer.state[mine][key], fresh.state[theirs][key]) for key in fresh.state[theirs]
                )
        settings_of = [
            {key: value for key, value in one.param_groups[0].items() if key != "params"} for one in (optimizer, fresh)
        ]
        assert settings_of[0] == settings_of[1]


@pytest.mark.slow
def test_slices_that_do_not_fit_or_are_broken_are_refused(tmp_path: Path) -> None:
    model = tiny_model()
    folder = tmp_path / "slices"
    save_shards(folder, model, stepped(model), ALONE)
    with pytest.raises(RunFolderError, match=r"does not fit the model: .* are in one of them only"):
        ShardedCheckpoint(folder).load_weights(lora_policy().model)
    with pytest.raises(
        RunFolderError, match=r"embed_tokens.weight has the shape \[384, 32\], the model's is \[400, 32\]"
    ):
        ShardedCheckpoint(folder).load_weights(tiny_model(vocab_size=400))
    (file,) = folder.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(RunFolderError, match="cannot be read"):
        ShardedCheckpoint(folder).load_weights(model)
    for content in ("{", "[]", json.dumps({"size": "many", "shapes": {}})):
        (folder / "index.json").write_text(content, encoding="utf-8")
        with pytest.raises(RunFolderError, match=r"index.json cannot be read"):
            ShardedCheckpoint(folder)
    assert not distributed.is_initialized()
