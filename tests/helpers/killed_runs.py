"""Runs that are killed: `likelier train` in a process of its own that ends with SIGKILL at a chosen call of a chosen
function, or whenever its parent likes.

As a program: `python -m tests.helpers.killed_runs POINTS WORD...`, with POINTS as JSON.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from likelier.runs.folder import RunFolder
from tests.helpers.small_runs import pair_rows, save_tiny, write_rows
from tests.helpers.support import numbers

SAVE_STEPS = 3
STEPS = 11
# Functions in whose calls a run is killed, by what it is doing then.
POINTS = {
    "step": "likelier.training.step.StepWalker.walk",
    "optimizer": "torch.optim.AdamW.step",
    "log": "likelier.runs.folder.append_line",
    "checkpoint": "torch.save",
    "checkpoint, sealed": "likelier.runs.checkpoints.seal",
    "checkpoint, moved": "likelier.runs.checkpoints.sync_folder",
    "disk": "os.fsync",
    "renaming": "os.replace",
    "store": "likelier.scoring.reference.store.write_whole",
    "evaluation": "likelier.training.evaluation.evaluator.evaluate_groups",
    "model": "transformers.PreTrainedModel.save_pretrained",
}


_WEIGHTS = ("model.safetensors", "adapter_model.safetensors")


class Given(NamedTuple):
    """A model folder and a data file."""

    model: Path
    data: Path

    @staticmethod
    def made_in(root: Path) -> Given:
        """A tiny model and some pairs."""
        return Given(save_tiny(root / "model"), write_rows(root / "pairs.jsonl", pair_rows(20)))

    def words(self, output: Path, *more: str) -> list[str]:
        """The command that trains on them."""
        more = ("--eval-prompts", "2", "--eval-new-tokens", "8", *more)
        return self._words(output, "--reference-store", str(output.with_suffix(".store")), *more)

    def words_of_reward(self, output: Path, *more: str) -> list[str]:
        """The command that makes a reward model of them."""
        return self._words(output, "--method", "reward", *more)

    def words_of_bco(self, output: Path, *more: str) -> list[str]:
        """The command that trains on them with a running mean of rewards."""
        store = str(output.with_suffix(".store"))
        more = ("--method", "bco_pair", "--beta", "0.3", "--eval-prompts", "0", *more)
        return self._words(output, "--reference-store", store, *more)

    def _words(self, output: Path, *more: str) -> list[str]:
        flags = {
            "--model": self.model,
            "--data": self.data,
            "--output": output,
            "--batch-size": 4,
            "--max-steps": STEPS,
            "--learning-rate": 1e-2,
            "--save-steps": SAVE_STEPS,
            "--save-total-limit": 2,
            "--logging-steps": 2,
            "--eval-fraction": 0.2,
            "--eval-steps": 4,
        }
        return ["train", *(str(word) for pair in flags.items() for word in pair), *more]


def watch_calls(found: Callable[[str], None]) -> None:
    """Call `found` with the name of every point that is reached."""
    for name in POINTS.values():
        owner, attribute = _owner_of(name)
        setattr(owner, attribute, _watched(getattr(owner, attribute), name, found))


def _owner_of(name: str) -> tuple[Any, str]:
    path, _, attribute = name.rpartition(".")
    try:
        return importlib.import_module(path), attribute
    except ModuleNotFoundError:
        module, _, kind = path.rpartition(".")
        return getattr(importlib.import_module(module), kind), attribute


def _watched(function: Callable[..., Any], name: str, found: Callable[[str], None]) -> Callable[..., Any]:
    def watched(*args: Any, **kwargs: Any) -> Any:
        found(name)
        return function(*args, **kwargs)

    return watched


def run_command(words: Sequence[str], die_at: tuple[str, int] | None = None, log: Path | None = None) -> None:
    """Run a command in this process, and end it. `die_at`: at which call of which point; `log`: where what it says is
    written, and how often each point was reached.
    """
    import torch

    from likelier.cli import main as cli

    gc.freeze()  # what is imported: a run's collections need not look through it
    torch.set_num_threads(1)
    if log is not None:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
    calls: Counter[str] = Counter()

    def reached(name: str) -> None:
        calls[name] += 1
        if die_at == (name, calls[name]):
            os.kill(os.getpid(), signal.SIGKILL)

    watch_calls(reached)
    code = cli.main(list(words))
    print(json.dumps(calls), file=sys.stderr, flush=True)
    os._exit(code)


def can_go_on(output: Path) -> bool:
    """Whether a killed run has begun, so that --resume is the word; else it is begun once more."""
    folder = RunFolder(output)
    return bool(folder.checkpoints.flaws()) or folder.is_begun()


class Left(NamedTuple):
    """What a killed run left: the last step that was logged, and its newest whole checkpoint's."""

    logged: int
    saved: int

    @staticmethod
    def by(output: Path) -> Left:
        """By the run in this folder."""
        file, newest = output / "metrics.jsonl", RunFolder(output).checkpoints.newest()
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.exists() else []
        assert all(line.endswith("\n") for line in lines)  # a kill leaves whole lines
        steps = [row["step"] for row in map(json.loads, lines) if "loss" in row]
        return Left(max(steps, default=0), 0 if newest is None else int(newest.name.removeprefix("step-")))


def results(output: Path) -> tuple[bytes, list[dict[str, Any]]]:
    """The final weights, and the metrics without what a clock measures."""
    folder = RunFolder(output)
    assert folder.is_finished()
    rubbish = [path for path in output.rglob(".*") if path.name != ".lock"]
    assert not rubbish, rubbish
    weights = next(output / name for name in _WEIGHTS if (output / name).is_file())
    return weights.read_bytes(), [numbers(row) for row in folder.read_metrics()]


if __name__ == "__main__":
    point = json.loads(sys.argv[1])
    run_command(sys.argv[2:], tuple(point) if point else None)
