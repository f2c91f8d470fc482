"""`likelier demo`: the main job on the embedded default, from preferences to a model that one can see changed."""

from __future__ import annotations

import argparse
import time
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from likelier.cli.shared import positive

if TYPE_CHECKING:
    from likelier.runs.reader import Run

SETTINGS: dict[str, Any] = {
    "method": "dpo",
    "beta": 0.05,
    "lora_r": 16,
    "learning_rate": 5e-4,
    "batch_size": 8,
    "epochs": 1,
    "seed": 42,
    "eval_steps": 6,
    "eval_new_tokens": 40,
}
SHOWN = 6


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `likelier demo`."""
    parser.add_argument("--model", default="demo", help="a hub id or folder instead of the built-in small model")
    parser.add_argument("--output", help="the run folder (default: runs/demo, or the next free runs/demo-N)")
    parser.add_argument("--max-steps", type=positive(int), help="stop after this many optimizer steps")


def run(flags: argparse.Namespace) -> None:
    """Train a LoRA adapter on the built-in pairs, then show accuracy and answers before and after."""
    from likelier.data.builtin import BUILT_IN, demo_data
    from likelier.experiments.watched import train_watched
    from likelier.insight.report.page import write_report
    from likelier.runs.reader import read_run
    from likelier.training.config import parse
    from likelier.utils.console import put, say
    from likelier.utils.shell import quoted

    started = time.monotonic()
    output = flags.output or free_folder()
    steps = {"max_steps": flags.max_steps, "epochs": None} if flags.max_steps is not None else {}
    config = parse({**SETTINGS, **steps, "model": flags.model, "data": BUILT_IN, "output": output})
    say(
        "This trains a small language model on the built-in preferences: answer honestly instead of agreeing with a\n"
        "false or sweeping claim."
    )
    train_watched(config, demo_data())
    put(render(read_run(output)))
    report = write_report(output)
    put(f"\n{time.monotonic() - started:.0f} s. In {output}: the adapter, run.json, metrics.jsonl, evaluations.")
    put(f"Report: {report}   (open it in a browser; it fetches nothing)")
    put(f"Next: likelier inspect {quoted(output)} --row 12 · likelier chat {quoted(output)}")


def free_folder(name: str = "runs/demo") -> str:
    """`name`, or the first of `name-2`, `name-3`, ... that does not exist."""
    names = (name if number == 1 else f"{name}-{number}" for number in count(1))
    return next(folder for folder in names if not Path(folder).exists())


def render(run: Run) -> str:
    """The result as text: accuracy and answers before and after."""
    lines = ["", "How often the policy finds the honest answer likelier, on held-out topics:"]
    for name, metrics in (("before", run.card.evaluation_start), ("after", run.card.evaluation_end)):
        share, low, high = (metrics[f"eval_ranking_accuracy{suffix}"] for suffix in ("", "_low", "_high"))
        lines.append(f"  {name:<7} {share:6.1%}   (95 % interval {low:.1%} to {high:.1%})")
    lines.append("\nGreedy answers to held-out prompts:")
    for prompt, before, after in answers_before_and_after(run)[:SHOWN]:
        lines += [f"\n  prompt  {_line(prompt)}", f"  before  {_line(before)}", f"  after   {_line(after)}"]
    return "\n".join(lines)


def answers_before_and_after(run: Run) -> list[tuple[str, str, str]]:
    """Prompt, greedy answer at the start, greedy answer at the end."""
    before, after = (run.detail(when).samples for when in ("start", "end"))
    return [
        (old.prompt, old.greedy.text, new.greedy.text)
        for old, new in zip(before, after, strict=True)
        if old.greedy and new.greedy
    ]


def _line(text: str) -> str:
    """One line that is safe to print (a model may write anything)."""
    from likelier.utils.console import printable

    return " ".join(printable(text).split())
