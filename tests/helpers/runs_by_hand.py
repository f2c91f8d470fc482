"""Runs as a reader sees them, made by hand: a card, steps, evaluations; no folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from likelier.runs.card import checked_card
from likelier.runs.reader import Run


def a_run(steps: list[dict[str, Any]], evaluations: list[dict[str, Any]] | None = None, **card: Any) -> Run:
    """A run as a reader sees it, made by hand."""
    known = {
        "method": "dpo",
        "reward_scale": 0.1,
        "hyperparameters": {"beta": 0.1, "nll_weight": 0.0},
        "status": "done",
    }
    return Run(Path("/nowhere"), checked_card(known | card, "run.json"), steps, evaluations or [])


def a_step(step: int, chosen: float, rejected: float, **more: float) -> dict[str, Any]:
    """A logged step with rewards, at a length of 20 tokens."""
    rewards = {"rewards/chosen": chosen, "rewards/rejected": rejected, "rewards/margins": chosen - rejected}
    lengths = {"lengths/chosen": 20.0, "lengths/rejected": 20.0}
    return {
        "step": step,
        "loss": 0.5,
        "grad_norm": 1.0,
        "learning_rate": 1e-5,
        "epoch": 0.1,
        **rewards,
        **lengths,
        **more,
    }


def growing(count: int = 12, chosen: float = 0.1, rejected: float = -0.2) -> list[dict[str, Any]]:
    """Rewards that grow by as much each step."""
    return [a_step(n, chosen * (n - 1), rejected * (n - 1), loss=0.69 - 0.02 * n) for n in range(1, count + 1)]
