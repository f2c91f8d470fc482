"""The memory plan against real steps: what a run was planned to hold, and what its process held.

    python benchmarks/memory_plan.py [--model M] [--methods M ...] [--only NUMBER] [--as-it-is] [--markdown FILE]
    python benchmarks/memory_plan.py --device cuda --methods dpo simpo kto      # rows: the most that torch allocated

Every setting trains two steps in a process of its own: in the first the optimizer's state appears, in the second all is
there. What is compared is the most that the process ever held (VmHWM of /proc, so Linux only) above what it held with
torch, transformers and likelier imported and no model loaded yet, against the plan's peak for the same rows.

The plan counts what is alive. glibc's allocator (before 2.38 above all) also keeps freed blocks that it then cannot use
again, so that a process may hold up to twice its activations. `MALLOC_MMAP_THRESHOLD_=131072` in the environment (its
own first value, which then stays) gives large blocks back at once; it is set here, but with `--as-it-is`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

WITHIN = 0.1
PPO = {"token_budget": 568, "prompt": 64, "answer": 64, "answers": 1, "batch_size": 8, "kl": 0.05}

# One optimizer step is `batch_size` rows of `prompt` tokens with answers of `answer` tokens.
SETTINGS: list[dict[str, Any]] = [
    {"method": "dpo", "token_budget": 512, "prompt": 96, "answer": 80, "batch_size": 4},
    {"method": "dpo", "token_budget": 2048, "prompt": 128, "answer": 96, "batch_size": 4},
    {"method": "dpo", "token_budget": 1024, "prompt": 200, "answer": 150, "batch_size": 4, "checkpointing": True},
    {"method": "dpo", "token_budget": 1024, "prompt": 200, "answer": 150, "batch_size": 4, "lora_r": 16},
    {
        "method": "dpo",
        "token_budget": 1024,
        "prompt": 256,
        "answer": 256,
        "batch_size": 3,
        "lora_r": 8,
        "checkpointing": True,
    },
    {"method": "simpo", "token_budget": 768, "prompt": 128, "answer": 120, "batch_size": 4},
    {"method": "kto", "token_budget": 768, "prompt": 100, "answer": 90, "batch_size": 6},
    {"method": "sft", "token_budget": 1024, "prompt": 64, "answer": 400, "batch_size": 4, "lora_r": 16},
    {"method": "dpo", "token_budget": 512, "prompt": 96, "answer": 80, "batch_size": 4, "live": True},
    {"method": "grpo", "token_budget": 568, "prompt": 64, "answer": 64, "answers": 8, "batch_size": 8},
    {"method": "grpo", "token_budget": 1136, "prompt": 64, "answer": 64, "answers": 8, "batch_size": 8, "lora_r": 16},
    {
        "method": "grpo",
        "token_budget": 568,
        "prompt": 64,
        "answer": 64,
        "answers": 8,
        "batch_size": 8,
        "lora_r": 16,
        "checkpointing": True,
    },
    {"method": "grpo", "token_budget": 568, "prompt": 64, "answer": 64, "answers": 8, "batch_size": 8, "kl": 0.05},
    {"method": "ppo", **PPO, "lora_r": 16},
    {"method": "ppo", **PPO, "lora_r": 16, "judge": "adapter"},
    {"method": "ppo", **PPO, "critic": "own"},
    {"method": "ppo", **PPO, "critic": "shared"},
    {"method": "ppo", **PPO, "critic": "own", "judge": "whole"},
    {"method": "reward", "token_budget": 512, "prompt": 96, "answer": 80, "batch_size": 4},
]


DTYPES: dict[str, Any] = {"cpu": "float32", "cuda": "auto"}


def device_of(setting: dict[str, Any]) -> Any:
    """Where it is trained."""
    return setting.get("device", "cpu")


def in_kilobytes(name: str) -> int:
    """VmRSS or VmHWM of this process alone (ru_maxrss would begin with its parent's)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{name}:")[1].split()[0])


def rows_of(setting: dict[str, Any], vocabulary: int) -> list[Any]:
    """Two steps of rows, all of the same lengths, no two of the same text."""
    from likelier.data.records import Demonstration, Labelled, Pair, Source, TokenIds
    from likelier.objectives import METHODS

    rng, kind = random.Random(0), METHODS[setting["method"]].data

    def text(length: int) -> TokenIds:
        return TokenIds(tuple(rng.choices(range(100, vocabulary), k=length)))

    found: list[Any] = []
    for number in range(2 * setting["batch_size"]):
        prompt, one, other, source = (
            text(setting["prompt"]),
            text(setting["answer"]),
            text(setting["answer"]),
            Source("made", number),
        )
        if kind == "pairs":
            found.append(Pair(prompt, one, other, source))
        elif kind == "labels":
            found.append(Labelled(prompt, one, number % 2 == 0, source))
        else:
            found.append(Demonstration(prompt, one, source))
    return found


def make_judge(model: str, kind: str, folder: Path) -> None:
    """A reward model that was never trained: as large as one that was."""
    from likelier import load_policy
    from likelier.models.options import LoraOptions

    made = load_policy(model, values=True, dtype="float32", lora=LoraOptions(lora_r=16 if kind == "adapter" else None))
    made.model.save_pretrained(folder)
    made.tokenizer.save_pretrained(folder)


def measure(model: str, setting: dict[str, Any]) -> dict[str, float]:
    """Plan, train two steps, and give both peaks in megabytes."""
    import torch

    import likelier.advice.rollout_memory
    import likelier.online.trainer
    import likelier.training.trainer  # noqa: F401  what is imported is there before anything is measured
    from likelier import load_policy
    from likelier.models.options import LoraOptions

    warnings.simplefilter("ignore")
    torch.nn.Linear(8, 8)(torch.zeros(2, 8)).sum().backward()
    lora = LoraOptions(lora_r=setting.get("lora_r"))
    before = in_kilobytes("VmRSS")
    values = setting["method"] == "reward"
    policy = load_policy(model, dtype=DTYPES[device_of(setting)], lora=lora, values=values)
    planner = (trained_on_rollouts if "answers" in setting else trained_on_rows)(model, policy, setting, lora)
    measured = in_kilobytes("VmHWM") - before
    if device_of(setting) == "cuda":
        measured = torch.cuda.max_memory_allocated() / 1024
    plan = planner.plan(setting["token_budget"])
    parts = {name: round(size / 1e6) for name, size in plan.parts.items()}
    writing = {f"writing, {name}": round(size / 1e6) for name, size in plan.sampling.items()}
    return (
        {"planned": plan.peak / 1e6, "measured": measured * 1024 / 1e6, "before": before * 1024 / 1e6} | parts | writing
    )


def trained_on_rollouts(model: str, policy: Any, setting: dict[str, Any], lora: Any) -> Any:
    """Two steps on answers that the policy writes, none of which ends before it is as long as it may be."""
    from likelier.advice.rollout_memory import online_planner_for
    from likelier.data.prompts import Prompt
    from likelier.objectives.online import online_method
    from likelier.online.options import OnlineOptions
    from likelier.online.rewards.load import load_rewards
    from likelier.online.trainer import OnlineTrainer
    from likelier.training.options import TrainingOptions

    rewards = (f"model:{setting['folder']}" if "judge" in setting else "length:10",)
    online = OnlineOptions(reward=rewards, max_new_tokens=setting["answer"])
    options = TrainingOptions(
        batch_size=setting["batch_size"],
        max_steps=2,
        token_budget=setting["token_budget"],
        activation_checkpointing=setting.get("checkpointing", False),
    )
    more = {"critic": setting.get("critic", "own"), "critic_warmup": 0} if setting["method"] == "ppo" else {}
    objective = online_method(
        setting["method"], answers_per_prompt=setting["answers"], kl_coefficient=setting.get("kl", 0.0), **more
    )
    rows = rows_of(setting | {"method": "sft"}, len(policy.tokenizer))
    prompts = [Prompt(row.prompt, row.source) for row in rows]
    with tempfile.TemporaryDirectory() as folder:
        trainer = OnlineTrainer(
            policy,
            objective,
            prompts,
            rewards=load_rewards(rewards),
            online=online,
            output_dir=Path(folder) / "run",
            options=options,
        )
        trainer._maker.sampler.writer.ends = frozenset()  # type: ignore[attr-defined]
        trainer.train()
    return online_planner_for(
        model,
        objective,
        online,
        prompts=[setting["prompt"]] * len(prompts),
        lora=lora,
        dtype="float32",
        device="cpu",
        activation_checkpointing=setting.get("checkpointing", False),
        batch_size=setting["batch_size"],
    )


def trained_on_rows(model: str, policy: Any, setting: dict[str, Any], lora: Any) -> Any:
    """Two steps on pairs, labels or demonstrations."""
    from likelier import PreferenceTrainer
    from likelier.advice.memory import planner_for
    from likelier.data.lengths import Row
    from likelier.objectives import METHODS
    from likelier.training.options import TrainingOptions

    objective = METHODS[setting["method"]]
    scores: Any = "live" if setting.get("live") else "stored"
    options = TrainingOptions(
        batch_size=setting["batch_size"],
        max_steps=2,
        token_budget=setting["token_budget"],
        activation_checkpointing=setting.get("checkpointing", False),
        reference_scores=scores,
        reference_store=None if scores == "live" or not objective.needs_reference else tempfile.mkdtemp(),
    )
    data = rows_of(setting, len(policy.tokenizer))
    with tempfile.TemporaryDirectory() as folder:
        trainer = PreferenceTrainer(policy, objective(), data, output_dir=Path(folder) / "run", options=options)
        lengths = [Row(len(group.prompt), tuple(map(len, group.answers))) for group in trainer.train_groups]
        trainer.train()
    return planner_for(
        model,
        method=setting["method"],
        lora=lora,
        dtype=DTYPES[device_of(setting)],
        device=device_of(setting),
        activation_checkpointing=setting.get("checkpointing", False),
        reference_scores=scores,
        batch_size=setting["batch_size"],
        rows=lengths,
    )


def words_of(setting: dict[str, Any]) -> str:
    """A setting in a few words."""
    how = [f"LoRA rank {setting['lora_r']}" if "lora_r" in setting else "full"]
    how += ["activation checkpointing"] if setting.get("checkpointing") else []
    how += ["live reference"] if "lora_r" not in setting and (setting.get("live") or setting.get("kl")) else []
    how += [f"{setting['critic']} critic"] if "critic" in setting else []
    how += [f"{setting['judge']} reward model"] if "judge" in setting else []
    each = f"{setting['answers']} x " if "answers" in setting else ""
    rows = f"{setting['batch_size']} x {setting['prompt']} + {each}{setting['answer']}"
    return f"{setting['method']} | {', '.join(how)} | {rows} | {setting['token_budget']}"


def table(results: list[tuple[dict[str, Any], dict[str, float]]]) -> str:
    """The results in Markdown."""
    lines = [
        "| method | how | rows of a step (prompt + answer tokens) | token budget | planned MB | measured MB | off by |",
        "|---|---|---|---|---|---|---|",
    ]
    for setting, found in results:
        off = found["planned"] / found["measured"] - 1
        lines.append(f"| {words_of(setting)} | {found['planned']:,.0f} | {found['measured']:,.0f} | {off:+.1%} |")
    return "\n".join(lines)


def in_a_process(model: str, number: int, folder: Path, allocator: dict[str, str], device: str) -> dict[str, float]:
    """Measure one setting in a process of its own; `folder` holds the reward models that were made already."""
    words, kind = [sys.executable, __file__, "--model", model], SETTINGS[number].get("judge")
    judge = folder / str(kind)
    if kind is not None and not judge.exists():
        subprocess.run([*words, "--judge", kind, str(judge)], check=True, capture_output=True)
    run = [*words, "--only", str(number), "--folder", str(judge), "--device", device]
    done = subprocess.run(run, check=True, capture_output=True, text=True, env=os.environ | allocator)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    """Measure every setting; 1 where one is further off than promised."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--only", type=int, help="one setting by its number, from 0: prints JSON")
    parser.add_argument("--methods", nargs="+", help="only settings of these")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where it is trained")
    parser.add_argument("--judge", nargs=2, metavar=("KIND", "FOLDER"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--as-it-is", action="store_true", help="leave the allocator alone")
    parser.add_argument("--markdown", help="also write the table there")
    flags = parser.parse_args()
    if flags.judge is not None:
        make_judge(flags.model, flags.judge[0], Path(flags.judge[1]))
        return 0
    if flags.only is not None:
        print(json.dumps(measure(flags.model, SETTINGS[flags.only] | {"folder": flags.folder, "device": flags.device})))
        return 0
    allocator = {} if flags.as_it_is else {"MALLOC_MMAP_THRESHOLD_": "131072"}
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for number, setting in enumerate(SETTINGS):
            if flags.methods is None or setting["method"] in flags.methods:
                results.append((setting, in_a_process(flags.model, number, Path(folder), allocator, flags.device)))
                print(table(results[-1:]).splitlines()[-1], flush=True)
    if flags.markdown:
        Path(flags.markdown).write_text(table(results) + "\n", encoding="utf-8")
    return int(any(abs(found["planned"] / found["measured"] - 1) > WITHIN for _, found in results))


if __name__ == "__main__":
    sys.exit(main())
