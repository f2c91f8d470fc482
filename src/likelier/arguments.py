"""Our options in transformers' words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks

from likelier.errors import ConfigError
from likelier.models import Policy
from likelier.objectives import Objective
from likelier.options import TrainingOptions

LORA_RATE_FACTOR = 20


def learning_rate(options: TrainingOptions, objective: Objective, policy: Policy) -> tuple[float, str]:
    """The rate and where it comes from: given, or the method's own, twenty times that for a LoRA adapter."""
    if options.learning_rate is not None:
        return options.learning_rate, "given"
    if hasattr(policy.model, "peft_config"):
        source = f"{objective.learning_rate_source}, times {LORA_RATE_FACTOR} for LoRA"
        return objective.learning_rate * LORA_RATE_FACTOR, source
    return objective.learning_rate, objective.learning_rate_source


def training_arguments(
    options: TrainingOptions, objective: Objective, policy: Policy, output_dir: str | Path, has_eval: bool
) -> TrainingArguments:
    """Our options as transformers' arguments; the trainer block joins them."""
    scheduler: str = options.scheduler
    if scheduler == "constant" and options.warmup_share:
        scheduler = "constant_with_warmup"
    ours: dict[str, Any] = {
        "output_dir": str(output_dir),
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 1,
        "num_train_epochs": options.epochs or 1,
        "max_steps": options.max_steps or -1,
        "learning_rate": learning_rate(options, objective, policy)[0],
        "lr_scheduler_type": scheduler,
        "warmup_steps": options.warmup_share,
        "logging_steps": options.logging_steps,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,
        "eval_strategy": "steps" if has_eval and options.eval_steps else "no",
        "eval_steps": options.eval_steps,
        "save_strategy": "steps" if options.save_steps else "no",
        "save_steps": options.save_steps or 500,
        "report_to": options.report_to.split(","),
        "seed": options.seed,
        "disable_tqdm": True,
        "remove_unused_columns": False,
    }
    try:
        arguments = TrainingArguments(**(ours | options.trainer))
        get_reporting_integration_callbacks(arguments.report_to)
    except (ValueError, TypeError, RuntimeError, ImportError) as error:
        raise ConfigError(f"transformers refuses the training options: {error}") from error
    arguments._n_gpu = min(arguments.n_gpu, 1)  # one process drives one device; never nn.DataParallel
    return arguments
