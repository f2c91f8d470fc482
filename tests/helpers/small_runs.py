"""Finished runs of tiny models, made once for all tests of a session, and folders like those that users have."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from likelier.cli import main as cli
from tests.helpers.support import chat_pairs, tiny_policy


class SmallRuns(NamedTuple):
    """A model folder, a data file, and runs on them: an adapter and a whole model by DPO, a whole model by SimPO."""

    model: Path
    pairs: Path
    adapter: Path
    whole: Path
    simpo: Path


def save_tiny(folder: Path, seed: int = 0, *, chat: bool = True, dtype: torch.dtype = torch.float32) -> Path:
    policy = tiny_policy(seed, torch.float32)
    if not chat:
        policy.tokenizer.chat_template = None
    policy.model.to(dtype).save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)
    return folder


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def pair_rows(count: int = 12) -> list[dict[str, Any]]:
    return [
        {
            name: [{"role": part.role, "content": part.content} for part in getattr(pair, name)]
            for name in ("prompt", "chosen", "rejected")
        }
        for pair in chat_pairs(count)
    ]


def train(model: Path, data: Path, output: Path, *more: str) -> Path:
    words = ["train", "--model", model, "--data", data, "--output", output, "--batch-size", "4", "--max-steps", "2"]
    assert cli.main([*map(str, words), *more]) == 0
    return output


def make_runs(root: Path) -> SmallRuns:
    root.mkdir()
    model, pairs = save_tiny(root / "tiny"), write_rows(root / "pairs.jsonl", pair_rows())
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setenv("LIKELIER_CACHE", str(root / "cache"))
        lora = ["--lora-r", "4", "--beta", "0.3", "--learning-rate", "5e-2", "--eval-fraction", "0.25"]
        return SmallRuns(
            model,
            pairs,
            train(model, pairs, root / "adapter", *lora),
            train(model, pairs, root / "whole", "--learning-rate", "1e-2"),
            train(model, pairs, root / "simpo", "--method", "simpo", "--learning-rate", "1e-2"),
        )


def read_card(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text(encoding="utf-8"))


def write_card(folder: Path, card: dict[str, Any]) -> None:
    (folder / "run.json").write_text(json.dumps(card), encoding="utf-8")


def forget_files(folder: Path) -> Path:
    """A run as versions wrote it that recorded no lengths and hashes of its files: it may be changed by hand."""
    write_card(folder, {name: part for name, part in read_card(folder).items() if name != "files"})
    return folder


def staged(root: Path, *stages: tuple[str, Path]) -> Path:
    """A run in stages whose stages are copies of these runs."""
    import shutil

    entries = []
    for number, (name, run) in enumerate(stages, 1):
        folder = f"{number}-{name}"
        shutil.copytree(run, root / folder)
        entries.append({"name": name, "folder": folder, "method": name, "status": "done"})
    write_card(root, {"status": "done", "stages": entries})
    return root
