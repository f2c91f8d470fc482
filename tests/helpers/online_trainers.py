"""Small online runs, as tests of several rooms begin them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from likelier.data.prompts import Prompt
from likelier.models.policy import Policy
from likelier.objectives.online import online_method
from likelier.online.options import OnlineOptions
from likelier.online.rewards.load import load_rewards
from likelier.online.trainer import OnlineTrainer
from likelier.training.options import TrainingOptions
from tests.helpers.support import chat_pairs, tiny_policy

PROMPTS = [Prompt(pair.prompt, pair.source, {"answer": "cat"}) for pair in chat_pairs(12)]
OPTIONS: dict[str, Any] = {"batch_size": 4, "max_steps": 4, "learning_rate": 1e-2, "scheduler": "constant"}


def online_options(**given: Any) -> OnlineOptions:
    defaults: dict[str, Any] = {"reward": ("json",), "max_new_tokens": 8}
    return OnlineOptions(**(defaults | given))


def online_trainer(
    folder: Path,
    policy: Policy | None = None,
    method: str = "grpo",
    *,
    changed: dict[str, Any] | None = None,
    online: dict[str, Any] | None = None,
    reward: str = "length:3",
    held_out: int = 0,
    resume: bool = False,
    **options: Any,
) -> OnlineTrainer:
    return OnlineTrainer(
        policy or tiny_policy(),
        online_method(method, **(changed or {})),
        PROMPTS[held_out:],
        rewards=load_rewards([reward]),
        online=online_options(reward=(reward,), **(online or {})),
        output_dir=folder,
        eval_data=PROMPTS[:held_out],
        options=TrainingOptions(**(OPTIONS | options)),
        resume=resume,
    )


def steps(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


def weights(policy: Policy) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in policy.model.named_parameters() if weight.requires_grad}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor], tolerance: float = 0.0) -> bool:
    return all(torch.allclose(left[name], right[name], rtol=0, atol=tolerance) for name in left)
