"""Finished runs of tiny models that learnt from their own answers, made once for all tests of a session."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import NamedTuple

import pytest

from likelier.cli import main as cli
from tests.helpers.small_runs import pair_rows, save_tiny, write_rows


class OnlineRuns(NamedTuple):
    """A model folder, prompts, and runs on them that hold the same prompts out: an adapter by two rewards with a
    reference, judged by another one, and a whole model by one reward without a reference.
    """

    model: Path
    prompts: Path
    adapter: Path
    whole: Path


def train_online(model: Path, data: Path, output: Path, *more: str) -> Path:
    words = ["train", "--method", "grpo", "--model", model, "--data", data, "--output", output]
    words += ["--batch-size", "4", "--max-new-tokens", "8", "--answers-per-prompt", "4", "--learning-rate", "1e-2"]
    with warnings.catch_warnings():
        assert cli.main([*map(str, words), *more]) == 0
    return output


def make_online_runs(root: Path) -> OnlineRuns:
    root.mkdir()
    rows = [{"prompt": row["prompt"]} for row in pair_rows(16)]
    model, prompts = save_tiny(root / "tiny"), write_rows(root / "prompts.jsonl", rows)
    held_out = ["--eval-fraction", "0.5", "--max-steps", "4", "--rollout-steps", "2"]
    short = ["--reward", "length:..14 characters"]
    lora = ["--lora-r", "4", "--kl-coefficient", "0.05", "--reward", "regex:[aeiou]", "--eval-reward", "regex:[a-z]"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIKELIER_CACHE", str(root / "cache"))
        return OnlineRuns(
            model,
            prompts,
            train_online(model, prompts, root / "adapter", *held_out, *short, *lora),
            train_online(model, prompts, root / "whole", *held_out, *short, "--batch-size", "2"),
        )
