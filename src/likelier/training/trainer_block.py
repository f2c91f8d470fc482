"""The block `trainer` of a run file: transformers' own arguments, but those that would contradict an option of ours."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from likelier.utils.errors import ConfigError, nearest

OURS = {
    "output_dir": "output",
    "per_device_train_batch_size": "batch_size (micro-batches are cut by token_budget)",
    "per_device_eval_batch_size": "token_budget",
    "gradient_accumulation_steps": "batch_size: one item of the loader is a whole optimizer step",
    "auto_find_batch_size": "token_budget",
    "num_train_epochs": "epochs",
    "lr_scheduler_type": "scheduler",
    "warmup_steps": "warmup",
    "warmup_ratio": "warmup",
    "data_seed": "seed",
    "bf16": "dtype",
    "fp16": "dtype (bfloat16 or float32)",
    "gradient_checkpointing": "activation_checkpointing, outside the trainer block",
    "torch_compile": "compile",
    "logging_strategy": "logging_steps",
    "logging_first_step": "nothing: the first step is always logged",
    "logging_nan_inf_filter": "nothing: a step that is not finite is skipped once, a second one stops the run",
    "eval_strategy": "eval_steps",
    "eval_on_start": "nothing: evaluation data are scored before the first step",
    "save_strategy": "save_steps",
    "label_smoothing_factor": "label_smoothing of the method",
    "neftune_noise_alpha": "nothing: with noise the policy would be another than the one that is scored",
    "train_sampling_strategy": "order",
    "do_train": "the command train",
    "do_eval": "eval_data or eval_fraction",
    "do_predict": "the command score",
    "ignore_data_skip": "nothing: a resumed run goes on where it stopped",
    "save_only_model": "nothing: a checkpoint without optimizer cannot be resumed",
    "torch_empty_cache_steps": "token_budget",
    "include_num_input_tokens_seen": "nothing: num_tokens is logged anyway",
    "resume_from_checkpoint": "resume",
    "use_cpu": "nothing: the device is found by itself",
    "disable_tqdm": "nothing: the progress display is ours",
    "average_tokens_across_devices": "nothing: losses are means over items",
    **{
        name: f"{name}, outside the trainer block"
        for name in (
            *("max_steps", "learning_rate", "seed", "activation_checkpointing", "logging_steps", "eval_steps"),
            *("save_steps", "save_total_limit", "report_to"),
        )
    },
    **dict.fromkeys(
        ("load_best_model_at_end", "metric_for_best_model", "greater_is_better"),
        "nothing yet: checkpoints lie in checkpoints/step-N",
    ),
    **dict.fromkeys(
        ("prediction_loss_only", "batch_eval_metrics", "include_for_metrics"), "nothing: evaluation is ours"
    ),
    **dict.fromkeys(("remove_unused_columns", "label_names"), "nothing: rows are token groups"),
    **dict.fromkeys(("group_by_length", "length_column_name"), "nothing: micro-batches are of like length anyway"),
}


DDP_ARGUMENTS = ("ddp_timeout", "ddp_bucket_cap_mb")  # those of several processes that are the user's


def check_trainer_block(block: dict[str, Any]) -> dict[str, Any]:
    """Refuse TrainingArguments that are unknown, without effect, or that would contradict an option of ours."""
    if not isinstance(block, dict):
        raise ConfigError(f"trainer: must be a block of names and values, found {type(block).__name__}")
    for name in map(str, block):
        if name in OURS:
            raise ConfigError(f"trainer.{name} would contradict ours; use {OURS[name]}")
        if name.startswith(("hub_", "push_to_hub")):  # a token would stand in run.json for all to read
            raise ConfigError(
                f"trainer.{name} would contradict ours; use push_to_hub, outside the trainer block; the token comes "
                "from the login"
            )
        if name.startswith("fsdp"):
            raise ConfigError(f"trainer.{name} would contradict ours; use shard: true, outside the trainer block")
        if name.startswith(("deepspeed", "parallelism")):
            raise ConfigError(
                f"trainer.{name} is not supported: several processes run as DDP, or with shard: true as FSDP2; drop it"
            )
        if name in DDP_ARGUMENTS:
            if type(block[name]) not in (int, float) or not 0 < block[name] < float("inf"):
                raise ConfigError(f"trainer.{name}={block[name]!r} is out of range; it must be a number above 0")
            continue
        if name.startswith(("dataloader_", "eval_", "ddp_", "accelerator_")) or name.endswith("_full_eval"):
            raise ConfigError(
                f"trainer.{name} has no effect: the loader, evaluation and the exchange between processes are ours; "
                "drop it"
            )
    if not block:
        return {}
    from transformers import TrainingArguments

    known = {item.name: item.default for item in fields(TrainingArguments)}
    unknown = sorted(set(map(str, block)) - set(known))
    if unknown:
        raise ConfigError(
            f"trainer.{unknown[0]} is no field of transformers.TrainingArguments{nearest(unknown[0], known)}"
        )
    return {name: _as_number(name, value) if isinstance(known[name], float) else value for name, value in block.items()}


def _as_number(name: str, value: Any) -> float:
    """YAML reads 1e-2 as text."""
    try:
        return float("x" if isinstance(value, bool) else value)
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(f"trainer.{name}={value!r} is not a number") from None
