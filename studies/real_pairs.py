"""Runs on real pairs that lie beside the repository: a draw of them in two files, and what a run learns from them."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping, Sequence
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
from studies.demo_runs import ROOT, Task

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
class Draw:
    """As `Wanted` says."""

    longest: int
    train: int
    held_out: int


SHORT, TINY = Draw(128, 256, 150), Draw(10_000, 8, 4)
BATCH = 16  # of the short pairs, at a step
SHORT_WORDS = "SmolLM2-135M-Instruct, one pass over 256 pairs of pandalm, judged by 150 of other prompts"


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

    def changed(self, name: str, change: Callable[[Sequence[Pair]], Sequence[Pair]]) -> PairFiles:
        """The same held-out pairs, and the training pairs as `change` makes them, in a folder of that name. What lies
        there is kept.
        """
        files = PairFiles(self.folder / name, self.train)
        if not files.held_out.is_file():
            files.folder.mkdir(parents=True, exist_ok=True)
            write_records(change(_pairs(self.learnt)), files.learnt)
            write_records(_pairs(self.held_out), files.held_out)
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


def _pairs(file: Path) -> list[Pair]:
    return [record for record in load_preferences(str(file)).train if isinstance(record, Pair)]


def short_pairs(study: str, seed: int, tiny: Task | None = None) -> PairFiles:
    """Pairs of pandalm with at most 128 tokens, by the majority of three people; for a look at the study's own code a
    few others, for the tiny model.
    """
    if tiny is not None:
        source, model, folder = str(ROOT / "examples" / "brief_answers.jsonl"), tiny.model, tiny.folder
        return PairFiles.drawn(source, model, folder / "pairs", seed, TINY)
    source, folder = str(REAL / "pandalm" / "testset-v1.json"), ROOT / "runs" / "studies" / study
    return PairFiles.drawn(source, "demo", folder / str(seed), seed, SHORT)


# What `held_out_after` measures, in words.
MEASURES = {
    "accuracy": "accuracy",
    "margin": "log-ratio of the chosen answer above that of the rejected, nats",
    "chosen": "log-ratio of the chosen answer, nats",
    "rejected": "log-ratio of the rejected answer, nats",
}


def held_out_after(files: PairFiles, options: Mapping[str, Any], strength: float, name: str) -> dict[str, float]:
    """What one pass over the training pairs makes of the held-out ones: the `accuracy`, and in nats an answer the mean
    log-ratios to the reference, of the `chosen` and the `rejected`, and their `margin`. `strength` is the method's
    `beta` or `tau`, by which rewards are log-ratios again.
    """
    steps = {"epochs": 1, "batch_size": min(BATCH, files.train // 2), "eval_steps": 0, "scheduler": "constant"}
    last = [row for row in trained(files, {**steps, **options}, name) if "eval_loss" in row][-1]
    nats = {side: last[f"eval_rewards/{side}"] / strength for side in ("chosen", "rejected", "margins")}
    return {"accuracy": last["eval_rewards/accuracies"], "margin": nats.pop("margins"), **nats}


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
    words = ["train", "--data", files.learnt, "--eval-data", files.held_out, "--output", output, "--eval-prompts", 0]
    for option, value in options.items():
        name = option.replace("_", "-")
        words += [f"--no-{name}"] if value is False else [f"--{name}", value]
    words += ["--resume"] if (output / "run.json").is_file() else []
    if code := cli.main([str(word) for word in words]):
        raise RuntimeError(f"likelier train ended with code {code}")
    return [parse_json(row) for row in (output / "metrics.jsonl").read_bytes().splitlines()]


def _fits(policy: Policy, pair: Pair, longest: int) -> bool:
    """Whether its prompt and the longer answer, as the chat template writes them, have no more tokens."""
    return bool(tokenize_records([pair], policy.tokenizer, max_length=longest, losses="ignore").groups)
