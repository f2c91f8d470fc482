"""How many models each method holds, how much memory, and what a step takes: from SFT to PPO, on one model.

    python benchmarks/models_in_memory.py                 # on a quiet machine, 10 to 15 minutes
    python benchmarks/models_in_memory.py --quick --model M --results FOLDER   # whether all of it runs, in a minute
    python benchmarks/models_in_memory.py --tables        # only the tables, from the figures that are there

Every step of every method learns from 8 answers of the same length in float32: four prompts with two answers (pairs,
groups), or eight with one. No written answer ends before that length, there is one update a rollout, and nothing is
held out. PPO's reward is a reward model, that of the other methods that write is a function, which holds nothing.

Each setting is measured twice, in processes of their own. Memory: two steps, VmHWM of /proc (Linux only) above the
process before a model is loaded, with `MALLOC_MMAP_THRESHOLD_=131072`, so that freed blocks go back (see
`memory_plan.py`). Seconds: as it is, the median of the steps after the first. What was measured already, at the same
figures, is not measured again, so that an interrupted run goes on; `--again` forgets it. Results go to
`results/models_in_memory.json` and `.md`, and into the table of `docs/offline-or-online.md`.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from memory_plan import in_kilobytes, make_judge, rows_of

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "offline-or-online.md"
MARKS = ("<!-- figures: benchmarks/models_in_memory.py -->", "<!-- end of figures -->")
BUDGET = 1024
RANK = 16


@dataclass(frozen=True)
class Setting:
    """One row of the table. `how` says what stands beside the policy; `judge` is the kind of reward model, if any."""

    name: str
    method: str
    how: str
    lora: bool = False
    live: bool = False
    judge: str | None = None


SETTINGS = (
    Setting("sft", "sft", "full"),
    Setting("dpo-stored", "dpo", "full, reference scored beforehand"),
    Setting("dpo-live", "dpo", "full, reference beside the policy", live=True),
    Setting("dpo-lora", "dpo", "LoRA, reference is the base", lora=True),
    Setting("ipo", "ipo", "full, reference scored beforehand"),
    Setting("kto", "kto", "full, reference scored beforehand"),
    Setting("simpo", "simpo", "full, no reference"),
    Setting("reward", "reward", "full, trains a reward model"),
    Setting("grpo", "grpo", "full, no reference, reward is a function"),
    Setting("grpo-lora", "grpo", "LoRA, no reference, reward is a function", lora=True),
    Setting("online-dpo", "online_dpo", "full, reference beside the policy, reward is a function"),
    Setting("online-dpo-lora", "online_dpo", "LoRA, reference is the base, reward is a function", lora=True),
    Setting("ppo-four", "ppo", "full: policy, reference, critic and reward model", judge="whole"),
    Setting(
        "ppo-lora",
        "ppo",
        "LoRA: three adapters on one base, which is the reference",
        lora=True,
        judge="adapter",
    ),
)


@dataclass(frozen=True)
class Size:
    """`prompt` and `answer` in tokens; `steps` are timed after one that warms up."""

    prompt: int = 48
    answer: int = 48
    steps: int = 3


def score(prompts: list[Any], completions: list[str], **more: Any) -> list[float]:
    """A reward that holds nothing and tells answers of one length apart."""
    return [float(sum(map(ord, text)) % 97) for text in completions]


# --- one process ---------------------------------------------------------------------------------------------------


def measure(model: str, setting: Setting, size: Size, judge: str, steps: int) -> dict[str, Any]:
    """Train so many steps here: bytes, and seconds by part."""
    import torch

    import likelier.advice.rollout_memory
    import likelier.online.trainer
    import likelier.training.trainer  # noqa: F401  what is imported is there before anything is measured
    from likelier import load_policy
    from likelier.models.options import LoraOptions

    warnings.simplefilter("ignore")
    torch.nn.Linear(8, 8)(torch.zeros(2, 8)).sum().backward()
    lora = LoraOptions(lora_r=RANK if setting.lora else None)
    before = in_kilobytes("VmRSS")
    policy = load_policy(model, dtype="float32", lora=lora, values=setting.method == "reward")
    whole = sum(weight.nbytes for weight in policy.model.parameters() if not (setting.lora and weight.requires_grad))
    with tempfile.TemporaryDirectory() as folder:
        made = _of_rollouts if _writes(setting) else _of_rows
        trainer, planner = made(model, policy, setting, size, judge, steps, Path(folder))
        watched = _watch(trainer)
        trainer.train()
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        logged = [line for line in map(json.loads, lines) if "loss" in line]
    peak = max(1, in_kilobytes("VmHWM") - before) * 1024
    return {
        "peak": peak,
        "planned": planner().plan(BUDGET).peak,
        "models": watched["held"] / whole,
        "seconds": _seconds(watched, logged),
        "samples": 8 if _writes(setting) else 0,
        "threads": torch.get_num_threads(),
    }


def _seconds(watched: dict[str, Any], logged: list[dict[str, Any]]) -> dict[str, float]:
    """Of a step, in the median of those after the first; `reference` is once, before them all."""
    steps = [end - begun for begun, end in zip(watched["begun"], watched["ended"], strict=True)][1:]
    parts = {name: median(line.get(f"seconds/{name}", 0.0) for line in logged[1:]) for name in ("sampling", "rewards")}
    whole = median(steps)
    return {"step": whole, **parts, "training": whole - sum(parts.values()), "reference": watched["reference"]}


def _watch(trainer: Any) -> dict[str, Any]:
    """When steps begin and end, how long the reference took, and the bytes of all weights in this process."""
    from transformers import TrainerCallback

    found: dict[str, Any] = {"begun": [], "ended": [], "reference": 0.0, "held": 0}

    class Marks(TrainerCallback):
        def on_step_begin(self, *arguments: Any, **named: Any) -> None:
            found["begun"].append(time.perf_counter())

        def on_step_end(self, *arguments: Any, **named: Any) -> None:
            found["ended"].append(time.perf_counter())
            found["held"] = found["held"] or _bytes_held()

    prepare = trainer._prepare_reference

    def timed() -> Any:
        begun = time.perf_counter()
        made = prepare()
        found["reference"] = time.perf_counter() - begun
        return made

    trainer._prepare_reference = timed
    trainer.add_callback(Marks())
    return found


def _bytes_held() -> int:
    """Of all models' weights, those that several hold once."""
    import torch

    weights = [one for one in gc.get_objects() if isinstance(one, torch.nn.Parameter)]
    return sum({one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in weights}.values())


def _writes(setting: Setting) -> bool:
    from likelier.objectives.online import ONLINE_METHODS

    return setting.method in ONLINE_METHODS


def _prompts_of(setting: Setting) -> int:
    """Of a step: a pair or a group has two answers to each."""
    from likelier.objectives import METHODS
    from likelier.objectives.online import ONLINE_METHODS

    if _writes(setting):
        return 8 if ONLINE_METHODS[setting.method].has_critic else 4
    return 4 if METHODS[setting.method].data == "pairs" else 8


def _rows(setting: Setting, size: Size, policy: Any, kind: str) -> list[Any]:
    sizes = {"prompt": size.prompt, "answer": size.answer, "batch_size": _prompts_of(setting)}
    return rows_of({"method": kind, **sizes}, len(policy.tokenizer))


def _of_rows(
    model: str, policy: Any, setting: Setting, size: Size, judge: str, steps: int, folder: Path
) -> tuple[Any, Callable[[], Any]]:
    from likelier import PreferenceTrainer
    from likelier.advice.memory import planner_for
    from likelier.data.lengths import row_of
    from likelier.models.options import LoraOptions
    from likelier.objectives import METHODS
    from likelier.training.options import TrainingOptions

    objective, stored = METHODS[setting.method], not setting.live
    options = TrainingOptions(
        batch_size=_prompts_of(setting),
        max_steps=steps,
        token_budget=BUDGET,
        reference_scores="stored" if stored else "live",
        reference_store=str(folder / "store") if stored and objective.needs_reference else None,
    )
    rows = _rows(setting, size, policy, setting.method)
    trainer = PreferenceTrainer(policy, objective(), rows, output_dir=folder / "run", options=options)
    lengths = [row_of(group) for group in trainer.train_groups]
    how: dict[str, Any] = {"reference_scores": options.reference_scores, "batch_size": options.batch_size}
    lora = LoraOptions(lora_r=RANK if setting.lora else None)
    return trainer, lambda: planner_for(
        model, method=setting.method, lora=lora, dtype="float32", device="cpu", rows=lengths, **how
    )


def _of_rollouts(
    model: str, policy: Any, setting: Setting, size: Size, judge: str, steps: int, folder: Path
) -> tuple[Any, Callable[[], Any]]:
    from likelier.advice.rollout_memory import online_planner_for
    from likelier.data.prompts import Prompt
    from likelier.models.options import LoraOptions
    from likelier.objectives.online import online_method
    from likelier.online.options import OnlineOptions
    from likelier.online.rewards.load import load_rewards
    from likelier.online.trainer import OnlineTrainer
    from likelier.training.options import TrainingOptions

    rewards = (f"model:{judge}" if setting.judge else f"{__file__}:score",)
    prompts = _prompts_of(setting)
    more: dict[str, Any] = {"critic_warmup": 0} if setting.judge else {}
    objective = online_method(setting.method, answers_per_prompt=8 // prompts, **more)
    online = OnlineOptions(reward=rewards, max_new_tokens=size.answer)
    asked = [Prompt(row.prompt, row.source) for row in _rows(setting, size, policy, "sft")]
    trainer: Any = OnlineTrainer(
        policy,
        objective,
        asked,
        rewards=load_rewards(rewards),
        online=online,
        output_dir=folder / "run",
        options=TrainingOptions(batch_size=prompts, max_steps=steps, token_budget=BUDGET),
    )
    trainer._maker.sampler.writer.ends = frozenset()
    lora, lengths = LoraOptions(lora_r=RANK if setting.lora else None), [size.prompt] * len(asked)
    how: dict[str, Any] = {"lora": lora, "dtype": "float32", "device": "cpu", "batch_size": prompts}
    return trainer, lambda: online_planner_for(model, objective, online, prompts=lengths, **how)


# --- all of them ---------------------------------------------------------------------------------------------------


def main() -> None:
    """Measure what is not measured yet, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--only", nargs="+", choices=[one.name for one in SETTINGS], help="some rows")
    parser.add_argument("--quick", action="store_true", help="tiny figures, all in this process: a trial of the code")
    parser.add_argument("--again", action="store_true", help="measure what was measured already")
    parser.add_argument("--tables", action="store_true", help="measure nothing, write the tables anew")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="another folder for them; no page is written then"
    )
    parser.add_argument("--worker", nargs=3, metavar=("NAME", "JUDGE", "STEPS"), help=argparse.SUPPRESS)
    flags = parser.parse_args()
    size, by_name = Size(8, 6, 1) if flags.quick else Size(), {one.name: one for one in SETTINGS}
    if flags.worker:
        name, judge, steps = flags.worker
        print("result " + json.dumps(measure(flags.model, by_name[name], size, judge, int(steps))))
        return
    file = flags.results / "models_in_memory.json"
    known: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    with tempfile.TemporaryDirectory() as folder:
        for setting in SETTINGS if not flags.tables else ():
            key = {"model": flags.model, "quick": flags.quick, **asdict(size), **asdict(setting)}
            if flags.only and setting.name not in flags.only:
                continue
            if not flags.again and known.get(setting.name, {}).get("setting") == key:
                continue
            judge = _judge(flags.model, setting, Path(folder))
            found = _in_processes(flags.model, setting, size, judge, quick=flags.quick)
            known[setting.name] = {"setting": key, **found}
            flags.results.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
            print(table({setting.name: known[setting.name]}).splitlines()[-1], flush=True)
    _write(known, flags.results)


def _judge(model: str, setting: Setting, folder: Path) -> str:
    """The folder of a reward model, as large as one that was trained; nothing where the reward is a function."""
    made = folder / str(setting.judge)
    if setting.judge and not made.exists():
        make_judge(model, setting.judge, made)
    return str(made) if setting.judge else "-"


def _in_processes(model: str, setting: Setting, size: Size, judge: str, *, quick: bool) -> dict[str, Any]:
    """Memory of one run and seconds of another."""
    if quick:
        return measure(model, setting, size, judge, 1 + size.steps)
    words = [sys.executable, __file__, "--model", model, "--worker", setting.name, judge]
    memory = _worker([*words, "2"], setting.name, {"MALLOC_MMAP_THRESHOLD_": "131072"})
    timed = _worker([*words, str(1 + size.steps)], setting.name, {})
    return memory | {"seconds": timed["seconds"]}


def _worker(words: list[str], name: str, environment: dict[str, str]) -> dict[str, Any]:
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | environment)
    line = next((one for one in done.stdout.splitlines() if one.startswith("result ")), None)
    if line is None:
        raise SystemExit(f"{name}: {done.stderr[-2000:]}")
    return json.loads(line.removeprefix("result "))


def table(known: dict[str, Any]) -> str:
    """The figures in Markdown, in the order of the settings."""
    lines = [
        "| method | how | models held | peak MB | planned MB | off by | answers written a step | s a step | writing "
        "| rewards | learning | reference, once |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for setting in SETTINGS:
        if setting.name not in known:
            continue
        found = known[setting.name]
        seconds = found["seconds"]
        parts = [f"{seconds[name]:.2f}" for name in ("step", "sampling", "rewards", "training", "reference")]
        off = found["planned"] / found["peak"] - 1
        cells = [setting.method, setting.how, f"{found['models']:.2f}", f"{found['peak'] / 1e6:,.0f}"]
        cells += [f"{found['planned'] / 1e6:,.0f}", f"{off:+.1%}", str(found["samples"]), *parts]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def settings_in_words(known: dict[str, Any]) -> str:
    """What the figures were measured at, in a line."""
    one = next(iter(known.values()))
    size = one["setting"]
    return (
        f"{size['model']}, float32, 8 answers of {size['answer']} tokens a step to prompts of {size['prompt']}, token "
        f"budget {BUDGET:,}, LoRA rank {RANK}, AdamW; {one['threads']} threads; `python benchmarks/models_in_memory.py`"
    )


def _write(known: dict[str, Any], results: Path) -> None:
    """The table beside the figures, and on the page where they are the project's own."""
    if not known:
        raise SystemExit("nothing was measured yet; run it without --tables")
    figures = f"{settings_in_words(known)}.\n\n{table(known)}"
    text = f"# Models in memory\n\n{platform.machine()}, {figures}\n"
    (results / "models_in_memory.md").write_text(text, encoding="utf-8")
    if results == RESULTS and PAGE.is_file():
        before, rest = PAGE.read_text(encoding="utf-8").split(MARKS[0])
        PAGE.write_text(f"{before}{MARKS[0]}\n\n{figures}\n\n{MARKS[1]}{rest.split(MARKS[1])[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
