"""Options of transformers.TrainingArguments: TRL and LLaMA-Factory take them as they are, Axolotl renames some."""

from __future__ import annotations

from typing import Any

from likelier.cli.importing.common import (
    Draft,
    Rule,
    as_names,
    as_number,
    batch_size,
    decided,
    each,
    left_out,
    option,
    pick,
    trainer_option,
)

# A schedule of theirs: ours, and what differs.
_SCHEDULES: dict[str, tuple[str, str]] = {
    "linear": ("linear", ""),
    "cosine": ("cosine", ""),
    "constant": ("constant", ""),
    "constant_with_warmup": ("constant", ""),
    "polynomial": ("linear", "it falls by a power there, linearly to 0 here"),
    "cosine_with_restarts": ("cosine", "one cosine without restarts here"),
    "cosine_with_min_lr": ("cosine", "it falls to a smallest rate there, to 0 here"),
    "cosine_warmup_with_min_lr": ("cosine", "it falls to a smallest rate there, to 0 here"),
    "warmup_stable_decay": ("constant", "it falls at the end there, and not here"),
    "inverse_sqrt": ("constant", "it falls with the root of the step there, and not here"),
    "reduce_lr_on_plateau": ("constant", "it falls when evaluation stalls there, and not here"),
    "greedy": ("constant", "it follows the evaluation there, and not here"),
    "rex": ("cosine", "a schedule of its own there, the nearest here is cosine"),
    "one_cycle": ("cosine", "it rises and falls once there, the nearest here is cosine with warm-up"),
}

ATTENTION = decided(
    "attention and the head are chosen and checked by themselves; prompts are shared and nothing is padded"
)
LOADER = decided("rows are loaded and batched in one process, by itself")
MEMORY = decided("micro-batches are cut by token_budget, which follows from the device's memory")
PROCESS = decided(
    "torchrun or accelerate launch starts several processes; --shard takes the place of FSDP and DeepSpeed"
)
EVALUATION = decided(
    "evaluation data are scored as one set, at the start, at the end and every eval_steps", off=(False, "no")
)
BEST = left_out("no best checkpoint is chosen; all lie in checkpoints/step-N, their metrics in metrics.jsonl")


def reports(draft: Draft, key: str, value: Any) -> str:
    """`report_to` from a name or a list."""
    return as_names(draft, key, value) or "none"


def switch(draft: Draft, key: str, value: Any) -> bool:
    """True or false, from what files say: also auto, and the text of either."""
    known = {"true": True, "auto": True, "1": True, "false": False, "0": False}
    word = str(value).lower()
    if word not in known:
        raise draft.error(f"{key}: {value!r} is neither true nor false")
    return known[word]


ARGUMENTS: dict[str, Rule] = {
    "seed": option("seed"),
    "torch_compile": option("compile", switch),
    "gradient_checkpointing": option("activation_checkpointing", switch),
    "activation_checkpointing": option("activation_checkpointing", switch),
    "report_to": option("report_to", reports),
    **{name: trainer_option(name, as_number) for name in ("weight_decay", "max_grad_norm", "adam_epsilon")},
    **{name: trainer_option(name, as_number) for name in ("adam_beta1", "adam_beta2")},
    **{name: trainer_option(name) for name in ("optim", "optim_args", "run_name", "project", "full_determinism")},
    **{name: trainer_option(name) for name in ("trackio_space_id", "trackio_bucket_id", "trackio_static_space_id")},
    **each(
        LOADER,
        *("dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers", "accelerator_config"),
        *("dataloader_prefetch_factor", "dataloader_in_order", "dataloader_multiprocessing_context", "label_names"),
        *("remove_unused_columns", "group_by_length", "length_column_name", "ignore_data_skip"),
    ),
    **each(
        MEMORY,
        *("per_device_eval_batch_size", "auto_find_batch_size", "eval_accumulation_steps", "torch_empty_cache_steps"),
    ),
    **each(
        PROCESS,
        *("ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers", "ddp_backend", "ddp_timeout"),
        *("ddp_static_graph", "deepspeed", "fsdp", "fsdp_config", "parallelism_config", "local_rank", "use_cpu"),
        *("average_tokens_across_devices", "log_on_each_node", "save_on_each_node"),
    ),
    **each(
        decided("every logged step is written to metrics.jsonl, the first one always"),
        *("logging_first_step", "logging_strategy", "logging_nan_inf_filter", "disable_tqdm", "log_level"),
        *("log_level_replica", "logging_dir", "include_num_input_tokens_seen"),
    ),
    **each(
        EVALUATION,
        *("eval_on_start", "prediction_loss_only", "include_for_metrics", "eval_do_concat_batches"),
        *("batch_eval_metrics", "bf16_full_eval", "fp16_full_eval", "eval_use_gather_object", "eval_delay"),
        *("generate_during_eval",),
    ),
    **each(BEST, "load_best_model_at_end", "metric_for_best_model", "greater_is_better"),
    **each(decided("a command says what is done: likelier train"), "do_train", "do_eval", "do_predict"),
    "overwrite_output_dir": decided("a run is refused where a run or a model lies already; name another output"),
    **each(
        decided("a checkpoint can always be resumed from, and is written as safetensors"),
        *("save_only_model", "save_safetensors"),
    ),
    **each(
        decided("the layers' gradients are the same with and without it"),
        *("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"),
    ),
    **each(ATTENTION, "use_liger_kernel", "liger_kernel_config"),
    "optim_target_modules": left_out("optimizers take all weights that are trained"),
    "use_cache": decided("it is for generation"),
    **each(
        left_out("it has no counterpart"),
        *("enable_jit_checkpoint", "restore_callback_states_from_checkpoint", "debug", "skip_memory_metrics"),
    ),
    "tf32": left_out("to have it, add tf32: true to the trainer block on a GPU that can do it"),
    "data_seed": left_out("seed orders the rows too"),
    "dataloader_drop_last": left_out("a short last step is taken, with the weight of its own rows"),
    "label_smoothing_factor": left_out("it has no effect on preference losses there either", off=(False, 0)),
    "neftune_noise_alpha": left_out("no noise is added to embeddings"),
    "resume_from_checkpoint": left_out("checkpoints of another tool cannot be gone on from; here: --resume"),
    **each(
        left_out("to have it, give it to torch.compile's own settings; here: compile: true"),
        *("torch_compile_backend", "torch_compile_mode"),
    ),
    **each(
        decided("uploads are private, and made once, when the run is done"),
        *("hub_private_repo", "hub_strategy", "hub_always_push"),
    ),
    **each(
        left_out("log in with `hf auth login`; a token does not belong in a file"),
        *("hub_token", "push_to_hub_token", "hf_hub_token"),
    ),
    "hub_revision": left_out("uploads go to the repository's main branch"),
}


# --- parts that take several options -------------------------------------------------------------------------------


def output(draft: Draft, default: str) -> None:
    """Where the run goes."""
    draft.put_or_default("output", draft.take("output_dir"), default)


def steps_and_rows(draft: Draft, processes: int = 1) -> None:
    """Batch size, epochs or steps."""
    keys = ("per_device_train_batch_size", "gradient_accumulation_steps", "num_processes", "world_size")
    each_device, accumulated = draft.whole(keys[0], 8), draft.whole(keys[1], 1)
    batch_size(draft, each_device=each_device, accumulated=accumulated, processes=processes, keys=keys)
    duration(draft, "num_train_epochs", 3.0)


def duration(draft: Draft, epochs_key: str, default: float) -> None:
    """Passes over the data, or a number of steps, which wins over them."""
    steps = draft.whole("max_steps")
    if steps is not None and steps > 0:
        draft.put("max_steps", steps)
        if draft.given(epochs_key):
            draft.note("decided", [epochs_key], "max_steps wins over it there too")
        return
    draft.put_or_default("epochs", draft.number(epochs_key), default)


def rate(draft: Draft, default: float) -> None:
    """The learning rate; ours depends on the method and on LoRA, so it is always written."""
    value = draft.number("learning_rate")
    draft.put_or_default("learning_rate", None if value is None else float(value), default)


def schedule(draft: Draft, key: str, default: str) -> None:
    """The learning rate's course after the warm-up."""
    name, settings = draft.take(key), draft.take("lr_scheduler_kwargs")
    ours, difference = _SCHEDULES.get(str(name or default), ("", ""))
    if not ours:
        raise draft.error(f"{key}: {name!r} is no schedule known here; ours are linear, cosine and constant")
    draft.put_or_default("scheduler", ours if name else None, ours)
    if difference:
        draft.note("differs", [key, "lr_scheduler_kwargs"], f"{name} became {ours}: {difference}")
    elif settings:
        draft.trainer["lr_scheduler_kwargs"] = settings


def warmup(draft: Draft, key: str, default: float) -> None:
    """A share of the steps, from a share or from a number of steps. `key` names the schedule."""
    steps, share = draft.number("warmup_steps"), draft.number("warmup_ratio")
    if draft.values.get(key) == "constant":
        draft.put("warmup", 0.0)
        if steps or share:
            draft.note("decided", ["warmup_steps", "warmup_ratio"], "schedule constant ignores it there; warmup is 0")
    elif steps is not None and steps >= 1:
        _warmup_steps(draft, int(steps))
    elif steps or share:
        draft.put("warmup", float(steps or share))
    elif steps is not None or share is not None:
        draft.put("warmup", 0.0)
    else:
        draft.put_default("warmup", default)


def _warmup_steps(draft: Draft, steps: int) -> None:
    total = draft.options.get("max_steps")
    if total and steps < total:
        draft.put("warmup", round(steps / total, 6))
        draft.note("differs", ["warmup_steps"], f"{steps} of {total} steps; warmup is the share, {steps / total:.4g}")
        return
    draft.put("warmup", 0.1)
    text = f"a number of steps there, a share of all steps here. 0.1 was written, which is right for {10 * steps} steps"
    draft.note("differs", ["warmup_steps"], f"{text}; put in {steps} divided by the number of yours")


def order(draft: Draft) -> bool:
    """Rows in the file's order where the source asks for it. Gives whether it does."""
    in_order = draft.take("train_sampling_strategy") == "sequential"
    if in_order:
        draft.put("order", "file")
    return in_order


def every(draft: Draft, key: str, value: Any, name: str) -> None:
    """A distance in steps; a share of the run where the value is below 1."""
    number = as_number(draft, key, value)
    total = draft.options.get("max_steps")
    if number >= 1:
        draft.put(name, int(number))
    elif number > 0 and total:
        draft.put(name, max(1, round(number * total)))
    elif number > 0:
        draft.note("left out", [key], f"a share of the run; {name} is a number of steps here")


def saving(draft: Draft) -> None:
    """Checkpoints. Without an option there are none here, and every 500 steps there."""
    strategy, steps = draft.take("save_strategy"), draft.take("save_steps")
    if strategy in ("epoch", "best"):
        draft.note("left out", ["save_strategy"], f"{strategy}: checkpoints are written every save_steps here")
    elif strategy in ("no", False):
        draft.off(["save_strategy"])
        if steps is not None:
            draft.note("decided", ["save_steps"], "save_strategy switches it off there too")
    elif steps is not None:
        every(draft, "save_steps", steps, "save_steps")
    limit = draft.whole("save_total_limit")
    if limit is not None and "save_steps" in draft.options:
        draft.put("save_total_limit", limit)
    elif limit is not None:
        draft.note("left out", ["save_total_limit"], "without save_steps there are no checkpoints")


def evaluates(draft: Draft) -> bool:
    """Whether the source evaluates while it trains."""
    return any(draft.values.get(key) not in (None, "no", False) for key in _EVALUATES)


_EVALUATES = ("eval_strategy", "evaluation_strategy")


def evaluation(draft: Draft, logging_steps: float) -> None:
    """How often is evaluated; only where there is something to evaluate on."""
    key, strategy = pick(draft, _EVALUATES)
    steps = draft.take("eval_steps")
    has_data = "eval_data" in draft.options or "eval_fraction" in draft.options
    if not has_data:
        if steps is not None:
            draft.note("left out", ["eval_steps"], "there are no evaluation data")
    elif strategy == "epoch":
        draft.note("left out", [key], "epoch: evaluation is at the start, at the end and every eval_steps here")
    elif strategy == "steps" and steps is None:
        every(draft, key, logging_steps, "eval_steps")
    elif steps is not None:
        every(draft, "eval_steps", steps, "eval_steps")


def logging(draft: Draft, default: int) -> float:
    """Steps between two lines of the log; nothing depends on it. Gives what the source has."""
    steps = draft.number("logging_steps")
    if steps is not None:
        every(draft, "logging_steps", steps, "logging_steps")
    return default if steps is None else steps


def hub(draft: Draft, *, has_switch: bool = True) -> None:
    """An upload at the end; without a switch of its own, a name asks for it."""
    key, name = pick(draft, ("hub_model_id", "push_to_hub_model_id"))
    push = draft.take("push_to_hub", None if has_switch else name)
    if not push:
        if name:
            draft.note("left out", [key], "without push_to_hub nothing is uploaded, there as here")
        draft.off(["push_to_hub"])
    elif name and "/" in str(name):
        draft.put("push_to_hub", name)
    else:
        draft.note("left out", ["push_to_hub", key], "push_to_hub takes a whole repository id here: owner/name")
