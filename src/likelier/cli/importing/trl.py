"""TRL: the YAML files of `trl dpo`, `trl kto` and `trl reward`, and of scripts with DPOConfig, KTOConfig, CPOConfig,
ORPOConfig or RewardConfig.

Names and defaults are those of TRL 1.16; options that it no longer has are read as the versions did that had them.
"""

from __future__ import annotations

from typing import Any

from likelier.cli.importing import adapters, arguments, reward_models
from likelier.cli.importing.common import (
    NO_MODEL,
    Draft,
    Rule,
    as_block,
    as_list,
    as_number,
    data_sets,
    decided,
    each,
    finish,
    held_out,
    is_file,
    left_out,
    missing,
    option,
    pick,
    refused,
)
from likelier.cli.importing.hyperparameters import orpo_of_trl
from likelier.cli.importing.objectives import find_trainer, objective

MARKS = frozenset(
    {
        *("dataset_name", "dataset_config", "dataset_train_split", "dataset_test_split", "dataset_mixer"),
        *("dataset_mixture", "loss_type", "loss_weights", "beta", "max_prompt_length", "truncation_mode"),
        *("desirable_weight", "undesirable_weight", "use_peft", "lora_task_type", "sync_ref_model"),
        *("f_divergence_type", "test_split_size", "center_rewards_coefficient"),
    }
)

_OTHER_COMMAND = "an option of another TRL command; take the line out"

RULES: dict[str, Rule] = {
    **arguments.ARGUMENTS,
    "precompute_ref_log_probs": decided("the reference is always scored once and stored (reference_scores: stored)"),
    "precompute_ref_batch_size": arguments.MEMORY,
    **each(arguments.ATTENTION, "padding_free", "pad_to_multiple_of", "attn_implementation", "use_flash_attention_2"),
    **each(arguments.ATTENTION, "use_logits_to_keep", "use_num_logits_to_keep", "activation_offloading"),
    **each(arguments.LOADER, "dataset_num_proc", "preprocessing_num_workers", "dataset_streaming", "streaming"),
    **each(arguments.PROCESS, "accelerate_config", "mixed_precision", "num_machines", "main_process_port"),
    **each(arguments.PROCESS, "fsdp_version", "ignore_bias_buffers"),
    **each(decided("token ids are not padded"), "pad_token", "padding_value", "label_pad_token_id"),
    **each(
        decided("without effect there: the option that would use it is not set"),
        *("f_alpha_divergence_coef", "discopop_tau", "ref_model_mixup_alpha", "ref_model_sync_steps"),
    ),
    "is_encoder_decoder": decided("only decoders are trained"),
    "f_divergence_type": refused("it is an option of DPO's; take the line out", off=(False, "reverse_kl")),
    "ld_alpha": refused("it is an option of DPO's; take the line out", off=(1, 1.0)),
    "use_weighting": refused("it is an option of DPO's; take the line out"),
    "reference_free": refused("it is the method cpo with nll_weight: 0; take the line out for dpo"),
    **each(
        refused(_OTHER_COMMAND),
        *("dataset_text_field", "packing", "eval_packing", "assistant_only_loss", "completion_only_loss"),
        *("num_generations", "reward_funcs", "reward_model_name_or_path", "center_rewards_coefficient"),
    ),
    "max_prompt_length": left_out("prompts have no limit of their own, only prompt and answer together (max_length)"),
    "max_completion_length": left_out("answers have no limit of their own, only prompt and answer together"),
    "max_target_length": left_out("answers have no limit of their own, only prompt and answer together"),
    "model_revision": left_out("download that revision and name its folder", off=(False, "main")),
    "trust_remote_code": left_out("code that a model brings along is not run"),
    "model_init_kwargs": left_out("models are loaded in one way"),
    "router_aux_loss_coef": left_out("no load-balancing loss is added", off=(False, 0)),
    "tokenizer_name_or_path": left_out("the tokenizer that lies beside the model is taken"),
    "chat_template": left_out("write the template to a file and name it: chat_template: FILE"),
    "chat_template_path": option("chat_template"),
    "env": left_out("set environment variables in the shell"),
    "lora_target_parameters": left_out("adapters are put on linear modules (lora_targets)"),
    "lora_modules_to_save": left_out("only the adapter is trained"),
    "lora_task_type": left_out("only causal language models are trained", off=(False, "CAUSAL_LM")),
    "use_dora": left_out("the adapter is plain LoRA"),
    "load_in_8bit": left_out("the base is not quantized then; 4 bits are known (load_in_4bit)"),
    "bnb_4bit_quant_type": left_out("4-bit weights are of type nf4", off=(False, "nf4")),
    "use_bnb_nested_quant": decided("4-bit weights are always nested (quantized twice)"),
    "bnb_4bit_quant_storage": left_out("4-bit weights are stored as bitsandbytes does it"),
}


def translate(draft: Draft, trainer: str | None) -> None:
    """Fill the draft. `trainer` is dpo, kto, cpo, orpo or reward, or None to find it out."""
    losses = [str(one) for one in as_list(draft.take("loss_type"))]
    if trainer is None:
        trainer = "reward" if reward_models.is_of_trl(draft) else find_trainer(draft, losses)
    if trainer == "reward" and losses:
        raise draft.error(f"loss_type: {', '.join(losses)}: TRL's RewardTrainer has one loss; take the line out")
    draft.put("model", draft.take("model_name_or_path") or missing(draft, "model", NO_MODEL))
    data(draft)
    arguments.output(draft, "trainer_output")
    if trainer == "reward":
        reward_models.of_trl(draft)
    else:
        objective(draft, trainer, losses)
    if trainer == "orpo":
        orpo_of_trl(draft)
    if draft.take("sync_ref_model"):
        _moving_reference(draft)
    arguments.steps_and_rows(draft, draft.whole("num_processes", 1))
    arguments.rate(draft, 1e-4 if trainer == "reward" else 1e-6)
    arguments.schedule(draft, "lr_scheduler_type", "linear")
    arguments.warmup(draft, "lr_scheduler_type", 0.0)
    if arguments.order(draft) and trainer == "kto":
        draft.note("differs", ["train_sampling_strategy"], "TRL's KTO needs it; here order: shuffled is better")
    elif trainer == "kto":
        draft.note("differs", (), "rows are shuffled here; TRL trains KTO in the file's order")
    _lengths(draft, trainer)
    dropout_off = _dropout(draft)
    adapter(draft, dropout_off=dropout_off)
    precision(draft)
    arguments.saving(draft)
    arguments.evaluation(draft, arguments.logging(draft, 10))
    arguments.hub(draft)
    finish(draft, RULES)


# --- data ----------------------------------------------------------------------------------------------------------


def data(draft: Draft) -> None:
    """What is trained and evaluated on."""
    evaluates = arguments.evaluates(draft)
    train, test = _mixture(draft) or _mixer(draft) or _hub_data(draft)
    draft.put("data", data_sets(draft, train))
    held_out(draft, "test_split_size")
    if "eval_fraction" in draft.options:
        return
    if test and evaluates:
        draft.put("eval_data", data_sets(draft, test))
    elif test and draft.given("dataset_test_split"):
        text = "without eval_strategy nothing is evaluated there; to have it, name eval_data"
        draft.note("decided", ["dataset_test_split"], text)


def _hub_data(draft: Draft) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    path, subset = draft.take("dataset_name"), draft.take("dataset_config")
    splits = draft.take("dataset_train_split"), draft.take("dataset_test_split", "test")
    if path is None:
        return [], []
    if is_file(path):
        draft.note("left out", ["dataset_config", "dataset_train_split", "dataset_test_split"], "a file has no splits")
        return [{"path": path}], []
    train, test = ({"path": path, "subset": subset, "split": split} for split in splits)
    return [train], [test]


def _mixture(draft: Draft) -> tuple[list[dict[str, Any]], list[dict[str, Any]]] | None:
    """The list `datasets` of TRL, or `dataset_mixture` of the alignment handbook."""
    if draft.given("dataset_mixture"):
        block = as_block(draft, "dataset_mixture", draft.take("dataset_mixture"))
        share = block.get("test_split_size")
        if share is not None:
            draft.put("eval_fraction", as_number(draft, "test_split_size", share))
        return _entries(draft, "dataset_mixture", block.get("datasets")), []
    entries = as_list(draft.take("datasets"))
    if not entries:
        return None
    hidden = ("dataset_name", "dataset_config", "dataset_train_split", "dataset_test_split")
    for key in hidden:
        if draft.given(key):
            draft.note("decided", [key], "datasets wins over it there too")
    if len(entries) > 1 and any(isinstance(one, dict) and one.get("fraction") is not None for one in entries):
        draft.note(
            "differs",
            ["datasets"],
            "fraction is a share of the whole mixture there; weight is how often a data set's own rows are seen here. "
            "Every data set was taken whole: set weight to the rows that you want of it, divided by its rows",
        )
    return _entries(draft, "datasets", entries), []


def _entries(draft: Draft, key: str, blocks: Any) -> list[dict[str, Any]]:
    return [entry for one in as_list(blocks) for entry in _entry(draft, key, one)]


def _entry(draft: Draft, key: str, entry: Any) -> list[dict[str, Any]]:
    """A data set of a mixture, or its files: `path` and `name` in TRL, `id`, `config` and `weight` in the handbook."""
    block = as_block(draft, key, entry)
    path, subset, split = block.get("path", block.get("id")), block.get("config", block.get("name")), block.get("split")
    if block.get("data_dir") or isinstance(block.get("data_files"), dict):
        draft.note(
            "left out", [key], f"{path}: data_dir, or data_files by split: name each file as a data set of its own"
        )
    if block.get("columns"):
        draft.note("decided", [key], f"{path}: columns are found by their names, the others are not read")
    weight = as_number(draft, f"{key}: weight", block.get("weight", 1))
    found = {"path": path, "weight": None if weight == 1 else weight}
    files = [one for one in as_list(block.get("data_files")) if isinstance(one, str)]
    if files or is_file(path):
        return [found | {"path": one} for one in files or [path]]
    return [found | {"subset": subset, "split": split}]


def _mixer(draft: Draft) -> tuple[list[dict[str, Any]], list[dict[str, Any]]] | None:
    """`dataset_mixer` and `dataset_splits` of the alignment handbook: a share of each data set's rows."""
    if not draft.given("dataset_mixer"):
        return None
    mixer = as_block(draft, "dataset_mixer", draft.take("dataset_mixer"))
    splits = [str(one) for one in as_list(draft.take("dataset_splits"))] or ["train"]
    subsets = as_list(draft.take("dataset_configs"))
    train: list[dict[str, Any]] = []
    for number, (path, share) in enumerate(mixer.items()):
        weight = as_number(draft, "dataset_mixer", share)
        subset = subsets[number] if len(subsets) == len(mixer) else None
        train.append({"path": path, "subset": subset, "weight": None if weight == 1 else weight})
    held = next((one for one in splits if "test" in one), None)
    tests = [{"path": one["path"], "subset": one["subset"], "split": held} for one in train] if held else []
    split = next((one for one in splits if "test" not in one), "train")
    return [one | {"split": split} for one in train], tests


def _moving_reference(draft: Draft) -> None:
    """TR-DPO: a share of 1 is a hard update."""
    share, every = draft.number("ref_model_mixup_alpha", 0.6), draft.whole("ref_model_sync_steps", 512)
    draft.put("reference_moves", "hard" if share == 1 else "soft")
    if share != 1:
        draft.put("reference_mix", share)
    draft.put("reference_every", every)
    if draft.given("use_peft"):
        text = "TRL does not move a reference beside an adapter; here it is the base with a second adapter, which moves"
        draft.note("differs", ["sync_ref_model"], text)


# --- training ------------------------------------------------------------------------------------------------------


def _lengths(draft: Draft, trainer: str) -> None:
    """The limit of prompt and answer together, and what is cut."""
    limit, mode = draft.whole("max_length"), draft.take("truncation_mode")
    if limit is None and "max_length" in draft.values and trainer in ("cpo", "orpo"):
        draft.note("differs", ["max_length"], f"TRL's {trainer.upper()} takes null for 512")
        limit = 512
    if limit is None and "max_length" in draft.values:
        draft.put("truncation", "error")
        draft.note(
            "differs",
            ["max_length"],
            "null is no limit there; here it is the model's context, at most 2048 tokens, and a row beyond stops the "
            "run (truncation: error): set max_length to what your rows need",
        )
        return
    draft.put_or_default("max_length", limit, 1024)
    if trainer == "reward":
        draft.put_default("truncation", "drop")
        return
    if mode == "keep_end":
        draft.put("truncation", "cut-prompt-left")
        text = "rows are cut at the prompt's beginning; a row whose answer alone is too long is left out, not cut"
        draft.note("differs", ["truncation_mode"], text)
    else:
        draft.put_or_default("truncation", mode and "cut-answer-right", "cut-answer-right")


_ADAPTER_KEYS = ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "use_rslora", "load_in_4bit")


def _dropout(draft: Draft) -> bool:
    """Whether the source switches dropout off, which is so here in any case."""
    is_off = draft.take("disable_dropout", True)
    if not is_off:
        draft.note("left out", ["disable_dropout"], "the model's own dropout is always off; only LoRA's can be on")
    return bool(is_off)


def adapter(draft: Draft, *, dropout_off: bool) -> None:
    """LoRA, where the source asks for it."""
    if not draft.take("use_peft"):
        adapters.unused(draft, _ADAPTER_KEYS, unless="use_peft")
        return
    rank, alpha = draft.whole("lora_r", 16), draft.number("lora_alpha", 32)
    adapters.rank_and_scale(draft, rank=rank, alpha=alpha, alpha_key="lora_alpha", rank_stabilized="use_rslora")
    adapters.targets(draft, "lora_target_modules")
    adapters.dropout(draft, switched_off=dropout_off, default=0.05)
    if draft.take("load_in_4bit"):
        draft.put("load_in_4bit", True)


def precision(draft: Draft) -> None:
    """Left out, arithmetic is bfloat16 where the hardware has it, there as here."""
    key, weights = pick(draft, ("dtype", "torch_dtype"))
    mixed, half = draft.take("bf16"), ["fp16"] * bool(draft.take("fp16")) + [key] * (weights == "float16")
    narrow = [key] * (weights == "bfloat16")
    adapters.precision(draft, bfloat16=True if narrow else mixed, half=half, narrow=narrow)
