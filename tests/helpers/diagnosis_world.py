"""A small world for diagnoses: a tiny model that writes whole sentences, data about it, and short real trainings."""

from __future__ import annotations

import random
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from likelier import DPO, SFT, PreferenceTrainer
from likelier.data.records import Demonstration, Message, Pair, Source
from likelier.insight.diagnose import diagnose
from likelier.insight.verdicts import Verdict
from likelier.models.policy import Policy, disable_dropout
from likelier.runs.reader import Run, read_run
from likelier.utils.errors import LikelierError, LikelierWarning
from tests.helpers.support import tiny_model, tiny_tokenizer

THINGS = ("cat", "dog", "hill", "mat")
KINDS = ("red", "blue", "fast", "slow")
GOOD, BAD = ("good", "right"), ("bad", "wrong")


def clause(rng: random.Random, ending: str) -> str:
    kind, thing, deed, place = (rng.choice(words) for words in (KINDS, THINGS, ("sat", "ran"), THINGS))
    return f"the {kind} {thing} {deed} on the {place} and it was {ending}"


def sentence(rng: random.Random, endings: Sequence[str], clauses: int) -> str:
    return " but ".join(clause(rng, rng.choice(endings)) for _ in range(clauses))


def pair(number: int, rng: random.Random, chosen: str, rejected: str, file: str) -> Pair:
    prompt = f"{file} {number}: " + " ".join(rng.choices((*THINGS, "yes", "no", "very"), k=rng.randint(2, 4)))
    answers = ((Message("assistant", text),) for text in (chosen, rejected))
    return Pair((Message("user", prompt),), *answers, Source(f"{file}.jsonl", number))


def plain_pairs(count: int, seed: int = 1) -> list[Pair]:
    """The chosen answer is about something good, the rejected one about something bad; lengths say nothing."""
    rng, file = random.Random(seed), f"plain{seed}"
    sides = [[sentence(rng, endings, rng.randint(1, 2)) for endings in (GOOD, BAD)] for _ in range(count)]
    return [pair(number, rng, *texts, file) for number, texts in enumerate(sides, 1)]


def turned_round(pairs: Sequence[Pair], share: float, seed: int = 0) -> list[Pair]:
    """The same pairs, a share of them the wrong way, drawn at random."""
    wrong = set(random.Random(seed).sample(range(len(pairs)), round(share * len(pairs))))
    turned = (replace(one, chosen=one.rejected, rejected=one.chosen) for one in pairs)
    return [other if number in wrong else one for number, (one, other) in enumerate(zip(pairs, turned, strict=True))]


def alike_pairs(count: int, seed: int = 1) -> list[Pair]:
    """The answers of a pair differ in one word near their beginning."""
    rng, file = random.Random(seed), f"alike{seed}"
    found = []
    for number in range(1, count + 1):
        words = sentence(rng, GOOD + BAD, 2).split()
        sides = (rng.choice(THINGS[::2]), rng.choice(THINGS[1::2]))
        chosen, rejected = (" ".join([*words[:2], thing, *words[3:]]) for thing in sides)
        found.append(pair(number, rng, chosen, rejected, file))
    return found


def long_pairs(count: int, seed: int = 1) -> list[Pair]:
    """The chosen answer is always the longer one; they are about the same things."""
    rng, file = random.Random(seed), f"long{seed}"
    sides = [[sentence(rng, GOOD + BAD, clauses) for clauses in (2, 1)] for _ in range(count)]
    return [pair(number, rng, *texts, file) for number, texts in enumerate(sides, 1)]


@cache
def _trained() -> dict[str, torch.Tensor]:
    """The weights of a tiny model that writes such sentences, good and bad, long and short."""
    rng = random.Random(9)
    rows = [
        Demonstration(one.prompt, rng.choice((one.chosen, one.rejected)), one.source) for one in plain_pairs(400, 9)
    ]
    policy = _policy(torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        PreferenceTrainer(
            policy, SFT(), rows, output_dir=Path(folder) / "run", batch_size=16, max_steps=120, learning_rate=1e-2
        ).train()
    return {name: weights.clone() for name, weights in policy.model.state_dict().items()}


def _policy(dtype: torch.dtype) -> Policy:
    model = tiny_model(0, dtype, hidden_size=64)
    disable_dropout(model)
    return Policy(model, tiny_tokenizer(), "tiny", "a tiny Llama")


def writer() -> Policy:
    """A fresh copy of that model."""
    policy = _policy(torch.float32)
    policy.model.load_state_dict(_trained())
    policy.again = writer
    return policy


def train(
    folder: Path, objective: Any = None, data: Sequence[Any] = (), held_out: Sequence[Any] = (), **options: Any
) -> Run:
    """A short training; a run that stops with an error is read all the same."""
    made: dict[str, Any] = {"batch_size": 8, "max_steps": 30, "learning_rate": 1e-3}
    if held_out:
        made |= {"eval_steps": 0} | ({} if options.get("eval_prompts") == 0 else {"eval_new_tokens": 48})
    made |= options
    policy = made.pop("policy", None) or writer()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LikelierWarning)
        trainer = PreferenceTrainer(
            policy, objective or DPO(), data or plain_pairs(160), eval_data=held_out, output_dir=folder, **made
        )
        try:
            trainer.train()
        except (LikelierError, RuntimeError):
            assert trainer.folder.read_card()["status"] == "failed"
    return read_run(folder)


def names(run: Run) -> list[str]:
    """The verdicts on a run by name, the worst first."""
    return [verdict.name for verdict in diagnose(run)]


def bad(run: Run) -> list[str]:
    """The names of warnings and errors."""
    return [verdict.name for verdict in diagnose(run) if verdict.is_bad]


def the(run: Run, name: str) -> Verdict:
    """The verdict of this name."""
    return next(verdict for verdict in diagnose(run) if verdict.name == name)


def numbers(verdict: Verdict) -> str:
    """All evidence as one text."""
    return "; ".join(f"{what}: {found}" for what, found in verdict.evidence)
