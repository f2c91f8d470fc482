"""Losses and margins of the first steps, likelier against TRL's DPOTrainer, on real pairs and a real model.

    python benchmarks/agree_with_trl.py --model demo --data PAIRS.jsonl [--steps 3] [--batch-size 8]

Full fine-tuning in float32, file order, constant learning rate. Each side runs in a process of its own; TRL is given
the rows that likelier uses, as message lists. Prints both traces and the largest difference.
"""

import argparse
import json
import multiprocessing
import tempfile
from pathlib import Path

NAMES = ("loss", "rewards/margins", "rewards/chosen", "rewards/rejected", "logps/chosen", "grad_norm")


def run_likelier(flags: argparse.Namespace, folder: str, results: str) -> None:
    from likelier import DPO, PreferenceTrainer, load_policy, load_preferences

    data = load_preferences(flags.data)
    rows = data.train[: flags.steps * flags.batch_size]
    trainer = PreferenceTrainer(
        load_policy(flags.model, dtype="float32"),
        DPO(beta=flags.beta),
        rows,
        output_dir=folder,
        batch_size=flags.batch_size,
        max_steps=flags.steps,
        learning_rate=flags.learning_rate,
        scheduler="constant",
        order="file",
        max_length=flags.max_length,
    )
    assert len(trainer.train_groups) == len(rows), "a row was left out: choose a larger --max-length"
    trainer.train()
    Path(results).write_text(json.dumps(trainer.folder.read_metrics()), encoding="utf-8")


def run_trl(flags: argparse.Namespace, folder: str, results: str) -> None:
    import datasets
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    from likelier import load_preferences
    from likelier.models.loading import DEMO_MODEL, demo_model_folder

    where = str(demo_model_folder()) if flags.model == DEMO_MODEL else flags.model
    pairs = load_preferences(flags.data).train[: flags.steps * flags.batch_size]
    rows = [
        {
            side: [{"role": message.role, "content": message.content} for message in getattr(pair, side)]
            for side in ("prompt", "chosen", "rejected")
        }
        for pair in pairs
    ]
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(where, dtype=torch.float32),
        ref_model=AutoModelForCausalLM.from_pretrained(where, dtype=torch.float32),
        processing_class=AutoTokenizer.from_pretrained(where),
        train_dataset=datasets.Dataset.from_list(rows),
        args=DPOConfig(
            output_dir=folder,
            beta=flags.beta,
            per_device_train_batch_size=flags.batch_size,
            max_steps=flags.steps,
            learning_rate=flags.learning_rate,
            lr_scheduler_type="constant",
            train_sampling_strategy="sequential",
            max_length=flags.max_length,
            bf16=False,
            use_cpu=not torch.cuda.is_available(),
            gradient_checkpointing=False,
            report_to="none",
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
        ),
    )
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    Path(results).write_text(json.dumps(logs), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--data", required=True)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--learning-rate", type=float, default=5e-6)
    parser.add_argument("--max-length", type=int, default=1024)
    flags = parser.parse_args()
    traces = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, job in (("likelier", run_likelier), ("TRL", run_trl)):
            results = f"{folder}/{name}.json"
            process = multiprocessing.get_context("spawn").Process(
                target=job, args=(flags, f"{folder}/{name}", results)
            )
            process.start()
            process.join()
            traces[name] = json.loads(Path(results).read_text(encoding="utf-8"))
    for metric in NAMES:
        worst = 0.0
        for step, (ours, theirs) in enumerate(zip(traces["likelier"], traces["TRL"], strict=True), 1):
            worst = max(worst, abs(ours[metric] - theirs[metric]))
            print(f"{metric:<17} step {step}   likelier {ours[metric]:+.7f}   TRL {theirs[metric]:+.7f}")
        print(f"{metric:<17} largest difference {worst:.2e}")


if __name__ == "__main__":
    main()
