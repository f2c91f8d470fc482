"""Axolotl: YAML files with `rl: dpo`, `ipo`, `kto`, `simpo` or `orpo`, or `reward_model: true`. It trains with TRL,
whose losses it means.
"""

from __future__ import annotations

from typing import Any

from likelier.cli.importing import adapters, arguments, reward_models
from likelier.cli.importing.axolotl_data import data
from likelier.cli.importing.common import (
    NO_MODEL,
    Draft,
    Rule,
    as_block,
    as_number,
    batch_size,
    decided,
    each,
    finish,
    left_out,
    missing,
    option,
    pick,
    refused,
    trainer_option,
)
from likelier.cli.importing.hyperparameters import orpo_of_trl, small_norm_beta
from likelier.cli.importing.objectives import as_trl, known_method

MARKS = frozenset(
    {
        *("base_model", "rl", "micro_batch_size", "sequence_len", "num_epochs", "val_set_size", "lr_scheduler"),
        *("adapter", "lora_target_linear", "dataset_prepared_path", "rl_beta", "sample_packing", "optimizer"),
        *("kto_desirable_weight", "kto_undesirable_weight", "dpo_loss_type", "wandb_project", "test_datasets"),
        "reward_model",
    }
)

_OWN_OPTIMIZERS = {"muon", "dion", "optimi_adamw", "ao_adamw_fp8", "adopt_adamw", "came_pytorch", "flash_adamw"}


def _optimizer_arguments(draft: Draft, key: str, value: Any) -> str:
    return ",".join(f"{name}={one}" for name, one in value.items()) if isinstance(value, dict) else str(value)


RULES: dict[str, Rule] = {
    **arguments.ARGUMENTS,
    "optim_args": trainer_option("optim_args", _optimizer_arguments),
    "wandb_name": trainer_option("run_name"),
    "default_system_message": option("system_prompt"),
    "precompute_ref_log_probs": decided("the reference is always scored once and stored (reference_scores: stored)"),
    **each(arguments.MEMORY, "eval_batch_size", "gpu_memory_limit", "max_memory", "low_cpu_mem_usage", "gc_steps"),
    **each(
        arguments.LOADER,
        *("dataset_prepared_path", "dataset_processes", "dataset_num_proc", "dataset_keep_in_memory", "pin_memory"),
        *("shuffle_merged_datasets", "skip_prepare_dataset", "dataset_shard_num", "dataset_shard_idx"),
    ),
    **each(
        arguments.ATTENTION,
        *("sample_packing", "eval_sample_packing", "pad_to_sequence_len", "batch_flattening", "dpo_padding_free"),
        *("flash_attention", "sdp_attention", "xformers_attention", "flex_attention", "eager_attention"),
        *("s2_attention", "attn_implementation", "dpo_use_logits_to_keep", "dpo_use_liger_kernel"),
    ),
    **each(
        decided("kernels are chosen by themselves"),
        *("liger_rope", "liger_rms_norm", "liger_glu_activation", "liger_swiglu", "liger_layer_norm"),
        *("liger_fused_linear_cross_entropy", "liger_cross_entropy", "cut_cross_entropy", "lora_mlp_kernel"),
        *("lora_qkv_kernel", "lora_o_kernel", "flash_attn_cross_entropy", "flash_attn_rms_norm"),
        *("flash_attn_fuse_qkv", "flash_attn_fuse_mlp", "unsloth_cross_entropy_loss", "unsloth_lora_mlp"),
        *("unsloth_lora_qkv", "unsloth_lora_o", "unsloth_rms_norm", "unsloth_rope"),
    ),
    **each(
        arguments.PROCESS,
        *("fsdp_version", "context_parallel_size", "sequence_parallel_degree", "tensor_parallel_size", "dp_shard_size"),
        *("ddp", "device_map", "device", "special_devices", "heads_k_stride", "ring_attn_func"),
    ),
    **each(arguments.EVALUATION, "eval_table_size", "eval_max_new_tokens", "do_causal_lm_eval"),
    "dpo_generate_during_eval": arguments.EVALUATION,
    **each(arguments.BEST, "early_stopping_patience"),
    **each(
        decided("it is found from the model's own files"),
        *("model_type", "is_llama_derived_model", "is_mistral_derived_model", "is_falcon_derived_model"),
        *("is_qwen_derived_model", "tokenizer_use_fast", "tokenizer_legacy"),
    ),
    **each(
        left_out("the tokenizer that lies beside the model is taken as it is"),
        *("tokenizer_config", "tokenizer_type", "tokens", "added_tokens_overrides", "eot_tokens"),
        *("resize_token_embeddings_to_32x", "base_model_config", "shrink_embeddings"),
    ),
    **each(
        left_out("name it as the tracker wants it: by its environment variables, or run_name in the trainer block"),
        *("wandb_entity", "wandb_watch", "wandb_run_id", "wandb_log_model", "wandb_mode"),
        *("mlflow_tracking_uri", "mlflow_experiment_name", "comet_project_name", "trackio_project_name"),
    ),
    **each(decided("a loss that is not finite stops the run"), "loss_watchdog_threshold", "loss_watchdog_patience"),
    **each(decided("only answers are trained on"), "train_on_inputs"),
    **each(decided("every step logs its tokens and times"), "include_tokens_per_second", "include_tkps"),
    "process_reward_model": refused("a reward for each step of an answer is not trained here; the nearest is reward"),
    "center_rewards_coefficient": refused("it is about reward_model: true; take the line out"),
    "num_labels": left_out("a reward model has one output", off=(1,)),
    "dpo_use_weighting": refused("WPO is wpo here, with rl: dpo alone; take the line out"),
    "pretraining_dataset": refused("only preference training is read here"),
    "max_prompt_len": left_out("prompts have no limit of their own, only prompt and answer together (max_length)"),
    "min_sample_len": left_out("rows have no smallest length"),
    "dataset_exact_deduplication": left_out("equal rows are not removed here; remove them from the file"),
    "revision_of_model": left_out("download that revision and name its folder"),
    "trust_remote_code": left_out("code that a model brings along is not run"),
    "chat_template_jinja": left_out("write the template to a file and name it: chat_template: FILE"),
    "plugins": left_out("extensions of Axolotl are not known here", off=(False,)),
    "hf_use_auth_token": left_out("log in with `hf auth login`"),
    "load_in_8bit": left_out("the base is not quantized then; 4 bits are known (load_in_4bit)"),
    "peft_use_dora": left_out("the adapter is plain LoRA"),
    "lora_modules_to_save": left_out("only the adapter is trained"),
    "cosine_min_lr_ratio": left_out("the schedule falls to 0"),
    "cosine_constant_lr_ratio": left_out("the schedule falls until the last step"),
    "unfrozen_parameters": left_out("all weights are trained, or an adapter"),
    **each(
        left_out("it is not known here"),
        *("lora_fan_in_fan_out", "peft_layers_to_transform", "peft_init_lora_weights", "loraplus_lr_ratio"),
        *("loraplus_lr_embedding", "embedding_lr", "embedding_lr_scale", "lr_groups", "lr_quadratic_warmup"),
        *("adam_epsilon2", "adam_beta3", "relora", "gptq", "strict", "profiler_steps", "push_dataset_to_hub"),
        *("bnb_config_kwargs", "qlora_sharded_model_loading", "lora_on_cpu", "fp8", "torchdistx_path", "vllm"),
        *("auto_resume_from_checkpoints", "merge_lora", "peft", "lora_target_parameters"),
    ),
}


def translate(draft: Draft, trainer: str | None) -> None:
    """Fill the draft. `trainer` is TRL's matter and stays None."""
    draft.put("model", draft.take("base_model") or missing(draft, "model", NO_MODEL))
    _objective(draft)
    data(draft)
    arguments.output(draft, "./model-out")
    _steps_and_rows(draft)
    value = draft.number("learning_rate")
    if value is None:
        raise draft.error("learning_rate is missing; Axolotl has no default for it")
    draft.put("learning_rate", float(value))
    arguments.schedule(draft, "lr_scheduler", "cosine")
    arguments.warmup(draft, "lr_scheduler", 0.03)
    _lengths(draft)
    _adapter(draft)
    _precision(draft)
    _optimizer(draft)
    _checkpointing(draft)
    _saving(draft)
    arguments.logging(draft, 1)
    _tracking(draft)
    arguments.hub(draft, has_switch=False)
    _special_tokens(draft)
    finish(draft, RULES)


# --- the objective -------------------------------------------------------------------------------------------------


def _objective(draft: Draft) -> None:
    """The method from `rl`; beta from one of three places."""
    rl = None if draft.take("rl") is None else str(draft.values["rl"])
    if draft.take("reward_model"):
        if rl is not None:
            raise draft.error(f"rl: {rl} and reward_model: a reward model is trained without rl; drop one of them")
        reward_models.of_trl(draft)
        return
    what = "rl is missing: this trains without preferences" if rl is None else f"rl: {rl} has no counterpart"
    trainer, names = _METHODS[known_method(draft, rl, what, _METHODS)]
    block = as_block(draft, "trl", draft.take("trl", {}))
    key, value = pick(draft, ("rl_beta", "dpo_beta", "orpo_alpha"))
    given = block.get("beta", value)
    if block.get("beta") is not None and value is not None:
        draft.note("differs", [key], "trl.beta wins over it")
    others = sorted(set(block) - {"beta"})
    if others:
        draft.note("left out", ["trl"], f"{', '.join(others)}: for online methods")
    beta = None if given is None else as_number(draft, key or "trl.beta", given)
    weighted = {"use_weighting": draft.take("dpo_use_weighting")} if rl == "dpo" else {}
    names = {**names, "beta": key or "trl", "use_weighting": "dpo_use_weighting"}
    as_trl(draft, trainer, names, beta=beta, **({"use_weighting": None} | weighted))
    if rl == "orpo":
        orpo_of_trl(draft)
    if rl == "dpo" and draft.take("dpo_norm_loss"):
        _normalized(draft, key or "trl")


# The trainer of TRL, and what its options are called here.
_METHODS: dict[str, tuple[str, dict[str, str]]] = {
    "dpo": (
        "dpo",
        {
            "loss_type": "dpo_loss_type",
            "loss_weights": "dpo_loss_weights",
            "label_smoothing": "dpo_label_smoothing",
            "rpo_alpha": "rpo_alpha",
        },
    ),
    "ipo": ("dpo", {"loss_type": "rl"}),
    "kto": ("kto", {"desirable_weight": "kto_desirable_weight", "undesirable_weight": "kto_undesirable_weight"}),
    "simpo": ("cpo", {"loss_type": "rl", "simpo_gamma": "simpo_gamma", "cpo_alpha": "cpo_alpha"}),
    "orpo": ("orpo", {"loss_type": "rl"}),
}


def _normalized(draft: Draft, key: str) -> None:
    if draft.options["method"] != "dpo":
        raise draft.error("dpo_norm_loss: with another loss than sigmoid it has no counterpart; the nearest is ipo")
    draft.put("method", "sigmoid_norm")
    draft.note("differs", ["dpo_norm_loss"], "DPO on means per token is a method of its own here, sigmoid_norm")
    small_norm_beta(draft, key)


# --- training ------------------------------------------------------------------------------------------------------


def _steps_and_rows(draft: Draft) -> None:
    keys = ("micro_batch_size", "gradient_accumulation_steps", "batch_size", "world_size")
    micro, accumulated = draft.whole("micro_batch_size", 1), draft.whole("gradient_accumulation_steps", 1)
    total, processes = draft.whole("batch_size"), draft.whole("world_size", 1)
    if total is not None:
        accumulated = max(1, total // max(1, micro))
    batch_size(draft, each_device=micro, accumulated=accumulated, processes=processes, keys=keys)
    arguments.duration(draft, "num_epochs", 1.0)


def _lengths(draft: Draft) -> None:
    draft.put_or_default("max_length", draft.whole("sequence_len"), 512)
    strategy = str(draft.take("excess_length_strategy", "drop"))
    known = {"drop": "drop", "truncate": "cut-answer-right", "raise": "error"}
    if strategy not in known:
        raise draft.error(f"excess_length_strategy: {strategy!r} is unknown; known: drop, truncate, raise")
    draft.put("truncation", known[strategy])
    if strategy == "truncate":
        draft.note("differs", ["excess_length_strategy"], "only answers are cut, on the right")


_ADAPTER_KEYS = (
    *("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "lora_target_linear", "peft_use_rslora"),
)


def _adapter(draft: Draft) -> None:
    kind = draft.take("adapter")
    if kind not in (None, "", "lora", "qlora"):
        raise draft.error(f"adapter: {kind!r} has no counterpart; known: lora, qlora, or none for all weights")
    if not kind:
        adapters.unused(draft, (*_ADAPTER_KEYS, "load_in_4bit", "lora_model_dir"), unless="adapter")
    elif draft.given("lora_model_dir"):
        draft.put("model", draft.take("lora_model_dir"))
        draft.note("differs", ["base_model", "lora_model_dir"], adapters.NAMES_ITS_BASE)
        adapters.going_on(draft, (*_ADAPTER_KEYS, "load_in_4bit"))
    else:
        _new_adapter(draft, is_quantized=kind == "qlora")


def _new_adapter(draft: Draft, *, is_quantized: bool) -> None:
    rank, alpha = draft.whole("lora_r", 8), draft.number("lora_alpha", 8)
    adapters.rank_and_scale(draft, rank=rank, alpha=alpha, alpha_key="lora_alpha", rank_stabilized="peft_use_rslora")
    adapters.dropout(draft, switched_off=True, default=0.0)
    if draft.take("lora_target_linear"):
        draft.put("lora_targets", "all-linear")
        if draft.given("lora_target_modules"):
            draft.note("decided", ["lora_target_modules"], "lora_target_linear takes them all")
    else:
        adapters.targets(draft, "lora_target_modules")
    if draft.take("load_in_4bit") or is_quantized:
        draft.put("load_in_4bit", True)


def _optimizer(draft: Draft) -> None:
    name = draft.take("optimizer")
    if str(name) in _OWN_OPTIMIZERS:
        draft.note("left out", ["optimizer"], f"{name} is Axolotl's own; transformers' AdamW was taken")
    elif name:
        draft.trainer["optim"] = name


def _precision(draft: Draft) -> None:
    mixed, weights = draft.take("bf16", "auto"), draft.take("bfloat16")
    half = [key for key in ("fp16", "float16") if draft.take(key)]
    draft.off(["float32"])
    asked = None if mixed == "auto" and not weights else bool(mixed or weights)
    narrow = [key for key in ("bf16", "bfloat16") if draft.values.get(key) not in (None, False, "auto")]
    adapters.precision(draft, bfloat16=asked, half=half, narrow=narrow)


def _checkpointing(draft: Draft) -> None:
    value = draft.take("gradient_checkpointing")
    if value is not None:
        draft.put("activation_checkpointing", bool(value))
    if isinstance(value, str):
        draft.note("differs", ["gradient_checkpointing"], f"{value}: activations are computed again, not moved")


def _saving(draft: Draft) -> None:
    if draft.take("saves_per_epoch"):
        text = "checkpoints are written every so many steps here: set save_steps"
        draft.note("left out", ["saves_per_epoch"], text)
    arguments.saving(draft)
    if draft.take("evals_per_epoch"):
        draft.note("left out", ["evals_per_epoch"], "evaluation is at the start and the end, and every eval_steps")
    arguments.evaluation(draft, 1)


def _tracking(draft: Draft) -> None:
    """Trackers: each has a switch, and naming a wandb project is one too."""
    switches = {"wandb": ("use_wandb", "wandb_project"), "mlflow": ("use_mlflow",), "tensorboard": ("use_tensorboard",)}
    switches |= {"comet_ml": ("use_comet",), "trackio": ("use_trackio",)}
    found = []
    for tracker, keys in switches.items():
        values = [draft.take(key) for key in keys]
        if any(values) and draft.values.get(keys[0]) is not False:
            found.append(tracker)
    if found:
        draft.put("report_to", ",".join(found))
    if draft.values.get("wandb_project"):
        draft.note("differs", ["wandb_project"], "set the project in the shell: WANDB_PROJECT")


def _special_tokens(draft: Draft) -> None:
    tokens = as_block(draft, "special_tokens", draft.take("special_tokens", {}))
    if set(tokens) == {"pad_token"}:
        draft.note("decided", ["special_tokens"], "nothing is padded, so the padding token is of no matter")
    elif tokens:
        text = "the tokenizer that lies beside the model is taken as it is; set its tokens there"
        draft.note("left out", ["special_tokens"], text)
