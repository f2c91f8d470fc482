"""One GRPO step against TRL's GRPOTrainer: seconds, tokens a second and peak memory, sampling and training apart.

    python benchmarks/versus_trl_grpo.py                       # on this CPU: prompts of 64 and of 384 tokens
    python benchmarks/versus_trl_grpo.py --prompts 4 --steps 2 --repeats 1 --lengths 64

Both learn from the same prompts with the same reward (the answer's length), 8 answers to each of at most 64 tokens, the
whole model in float32, AdamW, one optimizer step a rollout, no reference. TRL (`bf16=False`) runs with its own
generation and with transformers' continuous batching; its faster way counts. Every run is a process of its own, the
rivals take turns, and the first step of each, which warms up, is left out. Results go to
`results/versus_trl_grpo_cpu.md` and `.json`.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

ANSWERS, MOST_TOKENS, RATE = 8, 64, 1e-6
RIVALS = ("likelier", "trl", "trl-continuous")
RESULTS = Path(__file__).parent / "results"
_TEXT = "The river runs past the old mill, and on its bank a boy reads about ships, winds and far islands. "


def main() -> None:
    """Run the rivals by turns and write what they took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 384], help="tokens of a prompt")
    parser.add_argument("--prompts", type=int, default=4, help="of a step")
    parser.add_argument("--steps", type=int, default=3, help="timed, after one that warms up")
    parser.add_argument("--repeats", type=int, default=2, help="runs of each rival")
    parser.add_argument("--rivals", nargs="+", default=list(RIVALS), choices=RIVALS)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.worker:
        print("result " + json.dumps(_WORKERS[flags.worker](flags)))
        return
    found: list[dict[str, Any]] = []
    for length in flags.lengths:
        for _ in range(flags.repeats):
            found += [_run(rival, length, flags) for rival in flags.rivals]
    _write(found, flags)


def _run(rival: str, length: int, flags: argparse.Namespace) -> dict[str, Any]:
    """One rival in a process of its own."""
    names = {"model": flags.model, "lengths": length, "prompts": flags.prompts, "steps": flags.steps}
    words = [word for name, value in names.items() for word in (f"--{name}", str(value))]
    done = subprocess.run([sys.executable, __file__, "--worker", rival, *words], capture_output=True, text=True)
    line = next((one for one in done.stdout.splitlines() if one.startswith("result ")), None)
    if line is None:
        raise SystemExit(f"{rival}: {done.stderr[-2000:]}")
    result = {"rival": rival, "length": length, **json.loads(line.removeprefix("result "))}
    print(json.dumps(result), flush=True)
    return result


def _prompts(tokenizer: Any, length: int, count: int) -> list[str]:
    """Texts of about so many tokens, each another one."""
    words = (_TEXT * (1 + length // 16)).split()
    found = []
    for number in range(count):
        text = f"Story {number}: " + " ".join(words)
        ids = tokenizer(text)["input_ids"][:length]
        found.append(tokenizer.decode(ids))
    return found


def _reward(prompts: list[Any], completions: list[str], **more: Any) -> list[float]:
    return [float(len(text)) for text in completions]


def _account(steps: list[float], sampling: list[float], tokens: list[int]) -> dict[str, Any]:
    """What a run took, its first step left out."""
    seconds, drawn = median(steps[1:]), median(sampling[1:])
    return {
        "seconds": seconds,
        "sampling": drawn,
        "training": seconds - drawn,
        "tokens_a_second": sum(tokens[1:]) / sum(steps[1:]),
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def _timed(function: Callable[..., Any], into: list[float]) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        begun = time.perf_counter()
        made = function(*arguments, **named)
        into.append(time.perf_counter() - begun)
        return made

    return call


def _likelier(flags: argparse.Namespace) -> dict[str, Any]:
    from likelier.data.prompts import Prompt
    from likelier.data.records import Source
    from likelier.models.policy import load_policy
    from likelier.objectives.online import online_method
    from likelier.online.options import OnlineOptions
    from likelier.online.rewards.load import load_rewards
    from likelier.online.trainer import OnlineTrainer
    from likelier.training.options import TrainingOptions

    policy = load_policy(flags.model)
    texts = _prompts(policy.tokenizer, flags.lengths[0], flags.prompts * (flags.steps + 1))
    spec = f"{__file__}:_reward"
    with tempfile.TemporaryDirectory() as folder:
        trainer = OnlineTrainer(
            policy,
            online_method("grpo", answers_per_prompt=ANSWERS),
            [Prompt(text, Source("made up", number)) for number, text in enumerate(texts, 1)],
            rewards=load_rewards([spec]),
            online=OnlineOptions(reward=(spec,), max_new_tokens=MOST_TOKENS, rollout_steps=0),
            output_dir=Path(folder) / "run",
            options=TrainingOptions(
                batch_size=flags.prompts, max_steps=flags.steps + 1, learning_rate=RATE, scheduler="constant"
            ),
        )
        steps: list[float] = []
        sampling: list[float] = []
        trainer.training_step = _timed(trainer.training_step, steps)  # type: ignore[method-assign]
        maker = trainer._maker
        maker._written = _timed(maker._written, sampling)  # type: ignore[method-assign]
        begun, ended = _marks(trainer)
        trainer.train()
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text(encoding="utf-8").split("\n")
        logged = [json.loads(line) for line in lines if '"loss"' in line]
    tokens = [round(line["completions/mean_length"] * flags.prompts * ANSWERS) for line in logged]
    return _account([end - start for start, end in zip(begun, ended, strict=True)], sampling, tokens)


def _marks(trainer: Any) -> tuple[list[float], list[float]]:
    """When the steps of a trainer begin and end, the optimizer included."""
    from transformers import TrainerCallback

    begun: list[float] = []
    ended: list[float] = []

    class Marks(TrainerCallback):
        def on_step_begin(self, *arguments: Any, **named: Any) -> None:
            begun.append(time.perf_counter())

        def on_step_end(self, *arguments: Any, **named: Any) -> None:
            ended.append(time.perf_counter())

    trainer.add_callback(Marks())
    return begun, ended


def _trl(flags: argparse.Namespace, continuous: bool = False) -> dict[str, Any]:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    from likelier.models.loading import demo_model_folder

    name = str(demo_model_folder()) if flags.model == "demo" else flags.model
    tokenizer = AutoTokenizer.from_pretrained(name)
    model = AutoModelForCausalLM.from_pretrained(name, dtype="float32")
    texts = _prompts(tokenizer, flags.lengths[0], flags.prompts * (flags.steps + 1))
    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=_reward,
            args=GRPOConfig(
                folder,
                per_device_train_batch_size=flags.prompts * ANSWERS,
                num_generations=ANSWERS,
                max_completion_length=MOST_TOKENS,
                max_steps=flags.steps + 1,
                learning_rate=RATE,
                lr_scheduler_type="constant",
                bf16=False,
                gradient_checkpointing=False,
                beta=0.0,
                loss_type="dapo",
                scale_rewards=False,
                epsilon_high=0.28,
                logging_steps=1,
                report_to="none",
                save_strategy="no",
                disable_tqdm=True,
                use_cpu=True,
                use_transformers_continuous_batching=continuous,
            ),
            train_dataset=Dataset.from_dict({"prompt": texts}),
            processing_class=tokenizer,
        )
        sampling: list[float] = []
        trainer._generate = _timed(trainer._generate, sampling)
        begun, ended = _marks(trainer)
        trainer.train()
        logged = [line for line in trainer.state.log_history if "completions/mean_length" in line]
    tokens = [round(line["completions/mean_length"] * flags.prompts * ANSWERS) for line in logged]
    return _account([end - start for start, end in zip(begun, ended, strict=True)], sampling, tokens)


_WORKERS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "likelier": _likelier,
    "trl": _trl,
    "trl-continuous": lambda flags: _trl(flags, continuous=True),
}


def _write(found: list[dict[str, Any]], flags: argparse.Namespace) -> None:
    """The table, and every run beneath it."""
    import torch
    import transformers
    import trl

    rows = [
        "| prompt tokens | who | s a step | sampling | training | answer tokens / s | peak GiB | times TRL's best |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for length in flags.lengths:
        runs = {rival: [run for run in found if (run["rival"], run["length"]) == (rival, length)] for rival in RIVALS}
        own = {rival: those for rival, those in runs.items() if those}
        best = min((_middle(runs, "seconds") for rival, runs in own.items() if rival != "likelier"), default=0.0)
        for rival, runs in own.items():
            figures = [
                _middle(runs, name) for name in ("seconds", "sampling", "training", "tokens_a_second", "peak_gib")
            ]
            cells = [f"{figure:.3g}" for figure in figures]
            rows.append(f"| {length} | {rival} | {' | '.join(cells)} | {best / figures[0]:.2f} |")
    settings = (
        f"{flags.model}, {flags.prompts} prompts x {ANSWERS} answers of at most {MOST_TOKENS} tokens, {flags.steps} "
        f"steps after one, {flags.repeats} runs by turns; {torch.get_num_threads()} threads, {platform.machine()}; "
        f"torch {torch.__version__}, transformers {transformers.__version__}, TRL {trl.__version__} with bf16=False"
    )
    RESULTS.mkdir(exist_ok=True)
    text = "# One GRPO step against TRL\n\n" + settings + "\n\n" + "\n".join(rows) + "\n"
    (RESULTS / "versus_trl_grpo_cpu.md").write_text(text, encoding="utf-8")
    (RESULTS / "versus_trl_grpo_cpu.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    print(text)


def _middle(runs: list[dict[str, Any]], name: str) -> float:
    return median(run[name] for run in runs)


if __name__ == "__main__":
    main()
