"""Our options in transformers' words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from likelier.models.adapter_parts import has_adapter
from likelier.models.policy import Policy
from likelier.objectives.online_base import OnlineObjective
from likelier.training.options import TrainingOptions
from likelier.utils.distributed import Ranks
from likelier.utils.errors import ConfigError, whole_reason

LORA_RATE_FACTOR = 20


def learning_rate(options: TrainingOptions, objective: Any, policy: Policy) -> tuple[float, str]:
    """The rate and where it comes from: given, or the method's own, twenty times that for a LoRA adapter. `objective`
    is an `Objective` or an `OnlineObjective`.
    """
    if options.learning_rate is not None:
        return options.learning_rate, "given"
    if has_adapter(policy.model):
        if isinstance(objective, OnlineObjective):
            return objective.lora_learning_rate, objective.learning_rate_source
        source = f"{objective.learning_rate_source}, times {LORA_RATE_FACTOR} for LoRA"
        return objective.learning_rate * LORA_RATE_FACTOR, source
    return objective.learning_rate, objective.learning_rate_source


def training_arguments(
    options: TrainingOptions,
    objective: Any,
    policy: Policy,
    output_dir: str | Path,
    eval_interval: int | None,
    ranks: Ranks,
) -> TrainingArguments:
    """Our options as transformers' arguments; the trainer block joins them. `eval_interval` is in steps."""
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
        "eval_strategy": "steps" if eval_interval else "no",
        "eval_steps": eval_interval,
        "save_strategy": "steps" if options.save_steps else "no",
        "save_steps": options.save_steps or 500,
        "report_to": options.report_to.split(","),
        "seed": options.seed,
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "ddp_find_unused_parameters": False,
        "ddp_broadcast_buffers": False,
        "use_cpu": ranks.several and not torch.cuda.is_available(),  # else several processes go unnoticed there
    }
    if isinstance(objective, OnlineObjective):
        ours |= {"adam_epsilon": objective.adam_epsilon, "max_grad_norm": objective.max_grad_norm}
    try:
        arguments = TrainingArguments(**(ours | options.trainer))
    except (ValueError, TypeError, RuntimeError, ImportError) as error:
        raise ConfigError(f"transformers refuses the training options: {whole_reason(error)}") from error
    arguments._n_gpu = min(arguments.n_gpu, 1)  # one process drives one device; never nn.DataParallel
    return arguments


def optimizer_for(arguments: TrainingArguments, options: TrainingOptions, policy: Policy) -> tuple[Any, Any] | None:
    """None for transformers' choice; for weights kept in bfloat16, AdamW with Kahan's compensated summation.

    A bfloat16 weight has 8 significant bits: updates below about a 256th of it would be rounded away. An optimizer of
    transformers' with stochastic rounding may be named instead (`optim_args: bf16_stochastic_round=True`).
    """
    if not any(weight.requires_grad and weight.dtype == torch.bfloat16 for weight in policy.model.parameters()):
        return None
    if "optim" in options.trainer:
        if "bf16_stochastic_round=true" in str(options.trainer.get("optim_args", "")).lower():
            return None
        raise ConfigError(
            f"trainer.optim={options.trainer['optim']!r} would lose small updates of weights in bfloat16: drop it, or "
            "take adamw_torch_8bit with optim_args: bf16_stochastic_round=True"
        )
    try:
        from optimi import AdamW
    except ImportError as error:
        raise ConfigError("dtype=pure-bfloat16 needs torch-optimi: pip install 'likelier[bf16]'") from error
    betas = (arguments.adam_beta1, arguments.adam_beta2)
    return AdamW, {"lr": arguments.learning_rate, "betas": betas, "eps": arguments.adam_epsilon, "kahan_sum": True}
