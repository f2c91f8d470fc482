"""Runs on real pairs that lie beside the repository: a draw of them in two files, and what a run learns from them."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from likelier.cli import main as cli
from likelier.data.convert import write_records
from likelier.data.load import load_preferences
from likelier.data.records import Pair
from likelier.data.split import prompt_key
from likelier.data.tokenize import tokenize_records
from likelier.models.policy import Policy, load_policy
from likelier.utils.strict_json import parse_json
from studies.demo_runs import ROOT

REAL = Path(os.environ.get("LIKELIER_REAL_DATA", ROOT.parent / "shared" / "data"))


class Wanted(Protocol):
    """What is drawn: so many pairs, whose prompt and longer answer have at most `longest` tokens together."""

    @property
    def longest(self) -> int: ...
    @property
    def train(self) -> int: ...
    @property
    def held_out(self) -> int: ...


@dataclass(frozen=True)
class PairFiles:
    """Pairs to learn from, and held-out ones of other prompts, in a folder."""

    folder: Path
    train: int

    @staticmethod
    def drawn(source: str, model: str, folder: Path, seed: int, wanted: Wanted) -> PairFiles:
        """Decided pairs at random, those of one prompt on one side. They are drawn once: what lies there is kept."""
        files = PairFiles(folder, wanted.train)
        if files.held_out.is_file():
            return files
        policy = load_policy(model)
        records = load_preferences(source).train
        pairs = [pair for pair in records if isinstance(pair, Pair) and (pair.votes is None or pair.is_decided)]
        random.Random(seed).shuffle(pairs)
        held, train = divided([pair for pair in pairs if _fits(policy, pair, wanted.longest)], wanted)
        if len(train) < wanted.train:
            raise LookupError(
                f"{source} has {len(train)} pairs of at most {wanted.longest} tokens; {wanted.train} wanted"
            )
        folder.mkdir(parents=True, exist_ok=True)
        write_records(train, files.learnt)
        write_records(held, files.held_out)  # last: both are whole where it is there
        return files

    @property
    def learnt(self) -> Path:
        """The file of the training pairs."""
        return self.folder / "train.jsonl"

    @property
    def held_out(self) -> Path:
        """The file of the others."""
        return self.folder / "held-out.jsonl"


def divided(pairs: Sequence[Pair], wanted: Wanted) -> tuple[list[Pair], list[Pair]]:
    """Held-out pairs and those to learn from, in their order, as many as are wanted if there are so many. Prompts are
    held out one after the other, each with all its pairs: where a prompt has many, few prompts are enough, and the
    others' pairs are left to learn from.
    """
    by_prompt: dict[bytes, list[Pair]] = {}
    for pair in pairs:
        by_prompt.setdefault(prompt_key(pair), []).append(pair)
    held: list[Pair] = []
    asked: set[bytes] = set()
    for prompt, some in by_prompt.items():
        if len(held) < wanted.held_out:
            held += some
            asked.add(prompt)
    train = [pair for pair in pairs if prompt_key(pair) not in asked]
    return held[: wanted.held_out], train[: wanted.train]


def accuracy_by_pairs(files: PairFiles, options: Mapping[str, Any], parts: int) -> dict[str, float]:
    """The accuracy on the held-out pairs after each of so many equal parts of one pass: `accuracy@1`, `accuracy@2`,
    ... A run that was cut goes on.
    """
    every = files.train // options["batch_size"] // parts
    metrics = trained(files, {**options, "epochs": 1, "eval_steps": every, "eval_items": 10**6, "save_steps": every})
    found = {row["step"] // every: row["eval_rewards/accuracies"] for row in metrics if "eval_loss" in row}
    return {f"accuracy@{part}": share for part, share in sorted(found.items()) if part}


def trained(files: PairFiles, options: Mapping[str, Any], name: str = "run") -> list[Mapping[str, Any]]:
    """The metrics of a run with these options, a row a logged step or evaluation."""
    output = files.folder / name
    words = ["train", "--data", files.learnt, "--eval-data", files.held_out, "--output", output]
    for option, value in options.items():
        words += [f"--{option.replace('_', '-')}", value]
    words += ["--resume"] if (output / "run.json").is_file() else []
    if code := cli.main([str(word) for word in words]):
        raise RuntimeError(f"likelier train ended with code {code}")
    return [parse_json(row) for row in (output / "metrics.jsonl").read_bytes().splitlines()]


def _fits(policy: Policy, pair: Pair, longest: int) -> bool:
    """Whether its prompt and the longer answer, as the chat template writes them, have no more tokens."""
    return bool(tokenize_records([pair], policy.tokenizer, max_length=longest, losses="ignore").groups)
