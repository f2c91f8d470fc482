"""`likelier demo`: the main job on the embedded default, from preferences to a model that one can see changed."""

from __future__ import annotations

import json
import time
from importlib.resources import files
from itertools import count
from pathlib import Path
from typing import Any

from likelier.config import parse
from likelier.console import say
from likelier.data.load import PreferenceData, load_preferences
from likelier.generation import greedy_answers
from likelier.models import Policy
from likelier.paths import write_whole
from likelier.pipeline import train
from likelier.trainer import PreferenceTrainer

SETTINGS: dict[str, Any] = {
    "method": "dpo",
    "beta": 0.05,
    "lora_r": 16,
    "learning_rate": 5e-4,
    "batch_size": 8,
    "epochs": 1,
    "seed": 42,
}
SHOWN = 6
MAX_NEW_TOKENS = 40


def demo_data() -> PreferenceData:
    """The built-in pairs, split as the file says."""
    lines = files("likelier.demo").joinpath("honest_answers.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    train, test = (
        [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in rows if row["split"] == split]
        for split in ("train", "test")
    )
    return load_preferences(train, eval_data=test)


def free_folder(name: str = "runs/demo") -> str:
    """`name`, or the first of `name-2`, `name-3`, ... that does not exist."""
    names = (name if number == 1 else f"{name}-{number}" for number in count(1))
    return next(folder for folder in names if not Path(folder).exists())


def run_demo(*, model: str, output: str | None = None, max_steps: int | None = None) -> PreferenceTrainer:
    """Train a LoRA adapter on the built-in pairs, then show accuracy and answers before and after."""
    started = time.monotonic()
    output = output or free_folder()
    steps = {"max_steps": max_steps, "epochs": None} if max_steps is not None else {}
    config = parse({**SETTINGS, **steps, "model": model, "data": "the built-in pairs", "output": output})
    say(
        "This trains a small language model on the built-in preferences: answer honestly instead of agreeing with a\n"
        "false or sweeping claim."
    )
    data = demo_data()
    trainer = train(config, data)
    samples = before_and_after(trainer.policy, data)
    write_whole(Path(output) / "samples.json", json.dumps(samples, indent=2, ensure_ascii=False).encode())
    card = trainer.folder.read_card()
    print(render(card["evaluation_start"], card["evaluation_end"], samples))
    print(f"\n{time.monotonic() - started:.0f} s. In {output}: the adapter, run.json, metrics.jsonl, samples.json.")
    print(f"Next: likelier score --model {output} --data YOUR.jsonl --output scores.jsonl")
    return trainer


def before_and_after(policy: Policy, data: PreferenceData) -> list[dict[str, str]]:
    """Greedy answers to held-out prompts without and with the adapter."""
    prompts = [
        [{"role": message.role, "content": message.content} for message in record.prompt]  # type: ignore[union-attr]
        for record in data.test[:SHOWN]
    ]
    with policy.model.disable_adapter():
        before = greedy_answers(policy, prompts, max_new_tokens=MAX_NEW_TOKENS)
    after = greedy_answers(policy, prompts, max_new_tokens=MAX_NEW_TOKENS)
    rows = zip(prompts, before, after, strict=True)
    return [{"prompt": prompt[-1]["content"], "before": old, "after": new} for prompt, old, new in rows]


def render(start: dict[str, float], end: dict[str, float], samples: list[dict[str, str]]) -> str:
    """The result as text."""
    lines = ["", "How often the policy finds the honest answer likelier, on held-out topics:"]
    for name, metrics in (("before", start), ("after", end)):
        share, low, high = (metrics[f"eval_ranking_accuracy{suffix}"] for suffix in ("", "_low", "_high"))
        lines.append(f"  {name:<7} {share:6.1%}   (95 % interval {low:.1%} to {high:.1%})")
    lines.append("\nGreedy answers to held-out prompts:")
    for sample in samples:
        lines += [f"\n  prompt  {_line(sample['prompt'])}"]
        lines += [f"  before  {_line(sample['before'])}", f"  after   {_line(sample['after'])}"]
    return "\n".join(lines)


def _line(text: str) -> str:
    """One line, without control characters (a model may write anything)."""
    return "".join(character if character.isprintable() else " " for character in text)
