"""Small worlds of processes for the tests: the stack is imported once, then every rank is a fork.

`python -m tests.helpers.worlds WORLD:WORK:FOLDER...`, where a world is `alone`, `ddp-2`, `fsdp-4` and the like, and a
work one of `WORKS`, does one after the other, and prints each with the exit codes of its ranks.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from likelier import DPO, IPO, KTO, SimPO
from likelier.data.records import Record
from likelier.experiments.stages import parse_stages, train_stages
from likelier.models.layers import decoder_layers
from likelier.models.policy import Policy
from likelier.objectives import BCOPair, Objective, RewardModel
from likelier.training.stop_signals import Interrupted
from likelier.training.trainer import PreferenceTrainer
from likelier.utils.console import say_error
from likelier.utils.errors import OtherRankEndedError
from tests.helpers.online_trainers import online_trainer
from tests.helpers.support import (
    chat_pairs,
    labelled_rows,
    lora_policy,
    reward_lora_policy,
    reward_policy,
    tiny_policy,
)


@dataclass(frozen=True)
class Case:
    """A run that every world does."""

    objective: Objective
    data: Sequence[Record]
    policy: Callable[[], Policy]
    options: dict[str, Any] = field(default_factory=dict)

    def run(self, folder: Path, **more: Any) -> PreferenceTrainer:
        settings: dict[str, Any] = {"batch_size": 4, "learning_rate": 1e-2, "epochs": 2, "token_budget": 64}
        settings |= {"scheduler": "linear", "eval_prompts": 0} | self.options | more
        if self.objective.needs_reference:
            settings["reference_store"] = str(folder.with_name(f"{folder.name}-store"))
        if settings["eval_prompts"] == 0:
            settings.pop("eval_new_tokens", None)
        held_out = chat_pairs(5, seed=9) if self.objective.data == "pairs" else labelled_rows(5, seed=9)
        trainer = PreferenceTrainer(
            self.policy(), self.objective, self.data, eval_data=held_out, output_dir=folder, **settings
        )
        trainer.train()
        return trainer


def cases() -> dict[str, Case]:
    """Uneven data: ten rows in steps of four, so that the last step of an epoch has two."""
    pairs, rows = chat_pairs(10), labelled_rows(10)
    found = {
        f"{objective.method}-{str(dtype).removeprefix('torch.')}": Case(
            objective,
            rows if objective.data == "labels" else pairs,
            lambda dtype=dtype: tiny_policy(dtype=dtype),
            {"epochs": 2 if dtype == torch.float64 else 1},
        )
        for objective in (DPO(), IPO(tau=0.2), KTO(), SimPO())
        for dtype in (torch.float64, torch.float32)
    }
    more = {"eval_prompts": 2, "eval_new_tokens": 4}
    found["lora"] = Case(DPO(), pairs, lora_policy, more)
    found["plain"] = Case(
        DPO(), pairs, tiny_policy, {"scorer": "plain", "activation_checkpointing": True, "logging_steps": 2}
    )
    found["bfloat16"] = Case(DPO(), pairs, bfloat16_policy, {"epochs": 1})
    found["reward-float64"] = Case(RewardModel(), pairs, reward_policy)
    found["reward-lora-float64"] = Case(RewardModel(center_weight=0.01), pairs, reward_lora_policy)
    found["bco-float64"] = Case(BCOPair(beta=0.3), pairs, tiny_policy)
    found["one-row"] = Case(DPO(), pairs[:1], tiny_policy, more)
    return found


def bfloat16_policy() -> Policy:
    """Weights in float32, arithmetic in bfloat16."""
    policy = tiny_policy(dtype=torch.float32)
    policy.autocast = True
    return policy


class At(TrainerCallback):
    """Does something to one rank before a step."""

    def __init__(self, step: int, rank: int, action: Callable[[], object]) -> None:
        self.step, self.rank, self.action = step, rank, action

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step and os.environ.get("RANK", "0") == str(self.rank):
            self.action()


def to_itself(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def run_cases(folder: Path, more: dict[str, Any]) -> None:
    for name, case in cases().items():
        trainer = case.run(folder / name, **more)
        layers = decoder_layers(trainer.policy.model)
        split = [isinstance(weight, DTensor) for weight in trainer.policy.model.parameters()]
        assert all(split) == any(split) == ("shard" in more)  # on a CPU one may think so, and have DDP
        assert all(hasattr(layer, "reshard") == ("shard" in more) for layer in layers)


def cut_short(folder: Path, more: dict[str, Any]) -> None:
    """One rank gets a SIGTERM in the third step: all of them end after it, with a checkpoint."""
    last = int(os.environ.get("WORLD_SIZE", "1")) - 1
    with pytest.raises(Interrupted, match="ended after step 3, with a checkpoint"):
        cases()["dpo-float64"].run(folder, callbacks=[At(2, last, to_itself(signal.SIGTERM))], **more)


def go_on(folder: Path, more: dict[str, Any]) -> None:
    cases()["dpo-float64"].run(folder, resume=True, **more)


def reward_cut_short(folder: Path, more: dict[str, Any]) -> None:
    """An adapter with its head: one rank gets a SIGTERM in the third step."""
    last = int(os.environ.get("WORLD_SIZE", "1")) - 1
    with pytest.raises(Interrupted, match="ended after step 3, with a checkpoint"):
        cases()["reward-lora-float64"].run(folder, callbacks=[At(2, last, to_itself(signal.SIGTERM))], **more)


def reward_go_on(folder: Path, more: dict[str, Any]) -> None:
    cases()["reward-lora-float64"].run(folder, resume=folder.exists(), **more)


def moving_cut_short(folder: Path, more: dict[str, Any]) -> None:
    """A reference that moves: one rank gets a SIGTERM in the third step."""
    last = int(os.environ.get("WORLD_SIZE", "1")) - 1
    with pytest.raises(Interrupted, match="ended after step 3, with a checkpoint"):
        _moving().run(folder, callbacks=[At(2, last, to_itself(signal.SIGTERM))], **more)


def moving_go_on(folder: Path, more: dict[str, Any]) -> None:
    _moving().run(folder, resume=folder.exists(), **more)


def _moving() -> Case:
    return Case(DPO(), chat_pairs(10), tiny_policy, {"reference_moves": "soft", "reference_every": 2})


def whole(folder: Path, more: dict[str, Any]) -> None:
    cases()["dpo-float64"].run(folder, **more)


def lose_rank(folder: Path, more: dict[str, Any]) -> None:
    """What the folder's name says happens to the last rank in the third step, or to the first."""
    what, _, which = folder.name.partition("-")
    rank = 0 if which == "first" else int(os.environ["WORLD_SIZE"]) - 1
    actions: dict[str, Callable[[], object]] = {
        "killed": to_itself(signal.SIGKILL),
        "stopped": to_itself(signal.SIGSTOP),
        "failed": lambda: 1 / 0,
    }
    callbacks = [At(2, rank, actions[what])]
    try:
        cases()["dpo-float64"].run(folder, callbacks=callbacks, rank_timeout=6.0, save_steps=1, **more)
    except OtherRankEndedError as error:
        say_error(f"error: {error}")
        os._exit(4)


def in_stages(folder: Path, more: dict[str, Any]) -> None:
    """SFT, then DPO, on the model and rows beside the folder."""
    shared = {"model": str(folder.with_name("model")), "data": str(folder.with_name("pairs.jsonl")), **more}
    shared |= {"learning_rate": 1e-2, "batch_size": 4, "max_steps": 2, "token_budget": 64, "output": str(folder)}
    shared["reference_store"] = str(folder.with_name(f"{folder.name}-store"))
    train_stages(parse_stages({**shared, "stages": [{"method": "sft"}, {"method": "dpo"}]}))


def learn_online(folder: Path, more: dict[str, Any]) -> None:
    """Runs that write their answers: with two updates a rollout and a reference, with refill, with few prompts."""
    written = {"reward": "length:20 characters", "held_out": 3, "max_steps": 3, **more}
    two = {"online": {"updates_per_rollout": 2}, "changed": {"kl_coefficient": 0.1}}
    online_trainer(folder / "grpo", lora_policy(), **written, **two).train()
    online_trainer(folder / "rloo", tiny_policy(), "rloo", **written, token_budget=64).train()
    online_trainer(folder / "dapo", tiny_policy(), "dapo", **written).train()
    online_trainer(folder / "one", tiny_policy(), **written, batch_size=1).train()
    four = {"answers_per_prompt": 4}
    online_trainer(folder / "online_dpo", lora_policy(), "online_dpo", **written, changed=four, token_budget=64).train()
    online_trainer(folder / "rebel", tiny_policy(), "rebel", **written, online={"updates_per_rollout": 2}).train()
    taught = {"critic_warmup": 0, "kl_target": 0.5, "kl_horizon": 20.0}
    for critic in ("own", "shared"):
        changed = {"changed": {"critic": critic, **taught}, "online": {"updates_per_rollout": 2}, "token_budget": 64}
        online_trainer(folder / f"ppo-{critic}", lora_policy(), "ppo", **written, **changed).train()


def online_cut_short(folder: Path, more: dict[str, Any]) -> None:
    """One rank gets a SIGTERM in the second step, between two updates on one rollout."""
    last = int(os.environ.get("WORLD_SIZE", "1")) - 1
    trainer = online_trainer(folder, lora_policy(), online={"updates_per_rollout": 3}, max_steps=4, **more)
    trainer.add_callback(At(1, last, to_itself(signal.SIGTERM)))
    with pytest.raises(Interrupted, match="ended after step 2, with a checkpoint"):
        trainer.train()


def online_go_on(folder: Path, more: dict[str, Any]) -> None:
    more = {"resume": folder.exists(), "online": {"updates_per_rollout": 3}, "max_steps": 4, **more}
    online_trainer(folder, lora_policy(), **more).train()


def served_online(folder: Path, more: dict[str, Any]) -> None:
    served = {"sampler": "vllm", "sampler_url": os.environ["SERVER_OF_THE_TEST"]}
    reward = "length:20 characters"
    online_trainer(folder, lora_policy(), online=served, reward=reward, held_out=3, max_steps=3, **more).train()


_REWARD = (reward_cut_short, reward_go_on)
_ONLINE = (served_online, learn_online, online_cut_short, online_go_on)
_MOVING = (moving_cut_short, moving_go_on)
_OFFLINE = (run_cases, cut_short, go_on, whole, lose_rank, in_stages)
WORKS = {work.__name__: work for work in (*_OFFLINE, *_MOVING, *_REWARD, *_ONLINE)}


def run_world(folder: Path, name: str, work: Callable[[Path, dict[str, Any]], None]) -> list[int]:
    """Fork the ranks of a world, let each do the work, and wait for all of them but one that was stopped. Returns their
    exit codes, or minus the signal that killed them.
    """
    kind, _, size = name.partition("-")
    count, port = int(size or 1), free_port()
    ranks = []
    for rank in range(count):
        child = os.fork()
        if child == 0:
            _be_rank(folder, rank, count, port, {"shard": True} if kind == "fsdp" else {}, work)
        ranks.append(child)
    stopped = {"stopped": count - 1, "stopped-first": 0}.get(folder.name)
    codes = {rank: _ended(child) for rank, child in enumerate(ranks) if rank != stopped}
    if stopped is not None:
        os.kill(ranks[stopped], signal.SIGKILL)
        codes[stopped] = _ended(ranks[stopped])
    return [codes[rank] for rank in range(count)]


def _ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _be_rank(
    folder: Path, rank: int, size: int, port: int, more: dict[str, Any], work: Callable[[Path, dict[str, Any]], None]
) -> None:
    torch.set_num_threads(1)
    if size > 1:
        named = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_PORT": port}
        os.environ |= {name: str(value) for name, value in named.items()} | {"MASTER_ADDR": "127.0.0.1"}
    code = 1
    try:
        warnings.simplefilter("ignore")
        work(folder, more)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


if __name__ == "__main__":
    gc.freeze()  # what is imported: a run's collections need not look through it in every rank
    for job in sys.argv[1:]:
        world, work_name, path = job.split(":")
        print(job, *run_world(Path(path), world, WORKS[work_name]), flush=True)
