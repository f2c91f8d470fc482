"""LLaMA-Factory: YAML files with `stage: dpo` (and one of its losses), `stage: kto` or `stage: rm`."""

from __future__ import annotations

from likelier.cli.importing import adapters, arguments, reward_models
from likelier.cli.importing.common import (
    NO_MODEL,
    Draft,
    Rule,
    data_sets,
    decided,
    each,
    finish,
    held_out,
    left_out,
    missing,
    option,
    own_template,
    refused,
)
from likelier.cli.importing.dataset_info import named_data_sets
from likelier.cli.importing.hyperparameters import nll
from likelier.cli.importing.objectives import as_trl, known_method, name_the_sum

MARKS = frozenset(
    {
        *("stage", "finetuning_type", "pref_beta", "pref_loss", "pref_ftx", "kto_chosen_weight", "kto_rejected_weight"),
        *("template", "cutoff_len", "dataset", "dataset_dir", "lora_rank", "lora_target", "quantization_bit"),
        *("adapter_name_or_path", "plot_loss", "val_size", "flash_attn"),
    }
)

_TOKENIZER = left_out("the tokenizer that lies beside the model is taken as it is")
_ONLY_LORA = left_out("the adapter is plain LoRA")
_ADAMW = left_out("transformers' AdamW was taken")

RULES: dict[str, Rule] = {
    **arguments.ARGUMENTS,
    "default_system": option("system_prompt"),
    **each(
        arguments.LOADER,
        *("preprocessing_num_workers", "preprocessing_batch_size", "overwrite_cache", "tokenized_path", "buffer_size"),
        *("streaming", "dataset_shards", "data_shared_file_system", "cache_dir"),
    ),
    **each(
        arguments.ATTENTION,
        *("packing", "neat_packing", "flash_attn", "enable_liger_kernel", "use_unsloth", "use_unsloth_gc"),
        *("use_v1_kernels", "use_kernels", "ignore_pad_token_for_loss", "use_kv_cache"),
    ),
    **each(arguments.EVALUATION, "compute_accuracy", "eval_on_each_dataset", "eval_num_beams"),
    **each(
        arguments.PROCESS,
        *("ray_run_name", "ray_storage_path", "ray_num_workers", "resources_per_worker", "placement_strategy"),
        *("ray_init_kwargs", "low_cpu_mem_usage", "quantization_device_map", "sequence_parallel_size"),
    ),
    **each(decided("metrics.jsonl holds every logged step"), "plot_loss", "include_tokens_per_second"),
    **each(
        decided("nothing is generated in training"),
        *("predict_with_generate", "max_new_tokens", "top_p", "top_k", "temperature", "do_sample", "infer_backend"),
        *("generation_max_length", "generation_num_beams", "ppo_epochs", "ppo_buffer_size", "ppo_target"),
    ),
    **each(decided("activation_checkpointing is off unless asked for"), "disable_gradient_checkpointing"),
    **each(decided("the layers' gradients are the same with and without it"), "use_reentrant_gc"),
    **each(_TOKENIZER, "resize_vocab", "add_tokens", "add_special_tokens", "new_special_tokens_config"),
    **each(_TOKENIZER, "split_special_tokens", "use_fast_tokenizer", "tool_format"),
    **each(left_out("only the adapter is trained"), "additional_target"),
    **each(_ONLY_LORA, "use_dora", "pissa_init", "pissa_iter", "pissa_convert", "loraplus_lr_ratio"),
    **each(_ONLY_LORA, "loraplus_lr_embedding", "use_llama_pro"),
    **each(_ADAMW, "use_galore", "use_apollo", "use_badam", "use_adam_mini", "use_muon"),
    **each(left_out("only answers are trained on"), "train_on_prompt", "mask_history"),
    **each(
        left_out("only text is trained on"),
        *("freeze_vision_tower", "freeze_multi_modal_projector", "freeze_language_model", "image_max_pixels"),
        *("image_min_pixels", "video_max_pixels", "video_min_pixels", "media_dir"),
    ),
    **each(
        left_out("it is not known as a tracker here; report_to takes what transformers knows"),
        *("use_swanlab", "swanlab_project", "swanlab_run_name", "swanlab_mode", "swanlab_api_key"),
    ),
    "ld_alpha": refused("LD-DPO is ld_dpo here, with pref_loss sigmoid alone; take the line out", off=(1, 1.0)),
    "reward_model": refused("PPO is not known here, the nearest is dpo"),
    "max_samples": left_out("the first rows of each data set there; here all are taken: cut the file"),
    "mix_strategy": left_out("data sets are joined; weight says how often one's rows are seen", off=(False, "concat")),
    "interleave_probs": left_out("weight, under data, says how often a data set's rows are seen"),
    "model_revision": left_out("download that revision and name its folder", off=(False, "main")),
    "trust_remote_code": left_out("code that a model brings along is not run"),
    "rope_scaling": left_out("the model's own positions are taken"),
    "shift_attn": left_out("attention is the model's own"),
    "mixture_of_depths": left_out("the model's layers are taken as they are"),
    "moe_aux_loss_coef": left_out("no load-balancing loss is added", off=(False, 0)),
    "upcast_layernorm": left_out("weights that are trained are float32 anyway"),
    "upcast_lmhead_output": decided("log-probabilities are always computed in float32"),
    "quantization_method": left_out("4 bits are bitsandbytes'", off=(False, "bnb", "bitsandbytes")),
    "quantization_type": left_out("4-bit weights are of type nf4", off=(False, "nf4")),
    "double_quantization": left_out("4-bit weights are always nested (quantized twice)", off=(True,)),
    "ref_model_quantization_bit": left_out("a reference model is not quantized"),
    "fp8": left_out("it is not known here"),
    "use_dft_loss": left_out("it has no effect on preference losses there either"),
}


def translate(draft: Draft, trainer: str | None) -> None:
    """Fill the draft. `trainer` is TRL's matter and stays None."""
    stage = str(draft.take("stage", "sft"))
    if stage not in _STAGES:
        raise draft.error(f"stage: {stage} is no preference training; known: {', '.join(_STAGES)}")
    _STAGES[stage](draft)
    _data(draft)
    arguments.output(draft, "trainer_output")
    arguments.steps_and_rows(draft, draft.whole("world_size", 1))
    arguments.rate(draft, 5e-5)
    arguments.schedule(draft, "lr_scheduler_type", "linear")
    arguments.warmup(draft, "lr_scheduler_type", 0.0)
    arguments.order(draft)
    if draft.take("disable_shuffling"):
        draft.put("order", "file")
    _lengths(draft)
    _model(draft)
    _precision(draft)
    arguments.saving(draft)
    arguments.evaluation(draft, arguments.logging(draft, 500))
    arguments.hub(draft)
    finish(draft, RULES)


# --- the objective -------------------------------------------------------------------------------------------------


# Its losses of pairs, and the trainer of TRL that has each.
_LOSSES = {"sigmoid": "dpo", "hinge": "dpo", "ipo": "dpo", "simpo": "cpo", "orpo": "orpo"}


def _pairs(draft: Draft) -> None:
    """`stage: dpo` and its losses."""
    loss = str(draft.take("pref_loss", "sigmoid"))
    known_method(draft, loss, f"pref_loss: {loss} has no counterpart", _LOSSES)
    own = {"simpo_gamma": "simpo_gamma"} if loss == "simpo" else {}
    if loss == "sigmoid" and draft.values.get("ld_alpha") not in (1, 1.0):
        own = {"ld_alpha": "ld_alpha"}
    names = {"loss_type": "pref_loss", "beta": "pref_beta", **own}
    as_trl(draft, _LOSSES[loss], names, loss_type=loss, cpo_alpha=0.0)
    smoothing = draft.number("dpo_label_smoothing") if loss == "sigmoid" else None
    if smoothing:
        draft.put("label_smoothing", smoothing)
    _beside_bco(draft, loss)
    weight = draft.number("pref_ftx")
    if weight:
        nll(draft, weight, ["pref_ftx"], per_answer=True)
    name_the_sum(draft)
    if loss != "simpo" and draft.given("simpo_gamma"):
        draft.note("left out", ["simpo_gamma"], f"with pref_loss {loss} it has no effect there either")
    _without_effect(draft, ("kto_chosen_weight", "kto_rejected_weight"), "dpo")


def _beside_bco(draft: Draft, loss: str) -> None:
    """A sum of the loss, whose hyperparameters are all the options so far, and BCO."""
    weight = draft.number("pref_bco_weight")
    if not weight:
        return
    if draft.options["method"] in _WITHOUT_REFERENCE:
        draft.note("left out", ["pref_bco_weight"], f"with pref_loss {loss} it has no effect there either")
        return
    if loss == "ipo":
        raise draft.error("pref_bco_weight: BCO of mean log-ratios per token, as it is beside ipo, has no counterpart")
    if weight < 0:
        raise draft.error(f"pref_bco_weight: {weight!r} must be above 0")
    own = dict(draft.options)
    method = own.pop("method")
    draft.options.clear()
    draft.put("method", "weighted_sum")
    shares = {method: round(1 / (1 + weight), 10), "bco_pair": round(weight / (1 + weight), 10)}
    draft.put("loss", shares)
    draft.options.update({f"{method}.{name}": value for name, value in own.items()})
    draft.put("bco_pair.beta", own["beta"])
    draft.note(
        "differs",
        ["pref_bco_weight"],
        f"the weights 1 and {weight:g} are divided by their sum there, as in loss here; BCO's running mean of rewards "
        "takes in whole optimizer steps here, and micro-batches there",
    )


def _kto(draft: Draft) -> None:
    """`stage: kto`."""
    weights = {"desirable_weight": "kto_chosen_weight", "undesirable_weight": "kto_rejected_weight"}
    as_trl(draft, "kto", {"beta": "pref_beta", **weights})
    if draft.number("pref_ftx"):
        raise draft.error("pref_ftx: KTO with a likelihood term has no counterpart; the nearest is dpo with nll_weight")
    _without_effect(draft, ("pref_loss", "pref_bco_weight", "dpo_label_smoothing", "simpo_gamma"), "kto")


def _reward(draft: Draft) -> None:
    """`stage: rm`."""
    reward_models.of_llama_factory(draft)
    keys = ("pref_loss", "pref_beta", "pref_ftx", "pref_bco_weight", "dpo_label_smoothing", "simpo_gamma")
    _without_effect(draft, (*keys, "kto_chosen_weight", "kto_rejected_weight"), "rm")


def _without_effect(draft: Draft, keys: tuple[str, ...], stage: str) -> None:
    for key in keys:
        if draft.given(key):
            draft.note("left out", [key], f"with stage {stage} it has no effect there either")


_STAGES = {"dpo": _pairs, "kto": _kto, "rm": _reward}
_WITHOUT_REFERENCE = {"simpo": "SimPO", "orpo": "ORPO", "reward": "a reward model"}


# --- data ----------------------------------------------------------------------------------------------------------


def _data(draft: Draft) -> None:
    folder = str(draft.take("dataset_dir", "data"))
    train = named_data_sets(draft, "dataset", folder)
    draft.put("data", data_sets(draft, train))
    test = named_data_sets(draft, "eval_dataset", folder)
    if test:
        draft.put("eval_data", data_sets(draft, test))
    else:
        held_out(draft, "val_size")
    name = draft.take("template")
    if name:
        own_template(draft, "template", name)
    if draft.take("enable_thinking") is False:
        draft.put("chat_template_kwargs", {"enable_thinking": False})


def _lengths(draft: Draft) -> None:
    draft.put_or_default("max_length", draft.whole("cutoff_len"), 2048)
    draft.put("truncation", "cut-prompt-left")
    draft.note(
        "differs",
        ["cutoff_len"],
        "a row that is too long loses the end of its prompt there, or of its answers, or of both, in proportion; here "
        "it loses the beginning of its prompt, and is left out where the answers alone are too long",
    )


# --- the model -----------------------------------------------------------------------------------------------------

_ADAPTER_KEYS = ("lora_rank", "lora_alpha", "lora_dropout", "lora_target", "use_rslora")


def _model(draft: Draft) -> None:
    """The model, its adapter, and the reference."""
    kind, base = draft.take("finetuning_type", "lora"), draft.take("model_name_or_path")
    if kind not in ("lora", "full"):
        raise draft.error(f"finetuning_type: {kind} has no counterpart; the nearest is lora, or full for all weights")
    draft.put("model", base or missing(draft, "model", NO_MODEL))
    named = draft.take("adapter_name_or_path")
    folders = [one.strip() for one in str(named).split(",")] if named else []
    if folders and (len(folders) > 1 or draft.take("create_new_adapter") or draft.options["method"] == "reward"):
        _merged(draft, folders)
        folders = []
    _reference(draft, folders)
    if folders:
        draft.put("model", folders[0])
        draft.note("differs", ["model_name_or_path", "adapter_name_or_path"], adapters.NAMES_ITS_BASE)
        adapters.going_on(draft, (*_ADAPTER_KEYS, "quantization_bit"))
    elif kind == "full":
        adapters.unused(draft, (*_ADAPTER_KEYS, "quantization_bit"), unless="finetuning_type: lora")
    else:
        _new_adapter(draft)
    draft.off(["create_new_adapter"])


def _merged(draft: Draft, folders: list[str]) -> None:
    missing(draft, "model", NO_MODEL)
    draft.put("model", NO_MODEL)
    draft.note(
        "missing",
        ["adapter_name_or_path", "create_new_adapter"],
        f"{', '.join(folders)} would be merged into the base before a new adapter is put on it: merge them, and name "
        "the merged model's folder",
    )


def _reference(draft: Draft, folders: list[str]) -> None:
    model, adapter = draft.take("ref_model"), draft.take("ref_model_adapters")
    alone = _WITHOUT_REFERENCE.get(draft.options["method"])
    if alone is not None:
        if model or adapter:
            draft.note("left out", ["ref_model", "ref_model_adapters"], f"{alone} has no reference, there as here")
    elif adapter:
        draft.put("reference", adapter)
        draft.note("differs", ["ref_model", "ref_model_adapters"], "the reference is the adapter; it names its base")
    elif model and model == draft.options["model"] and not folders:
        draft.note("decided", ["ref_model"], "it is the model at the start (reference: start)")
    elif model:
        draft.put("reference", model)
    elif folders:
        draft.put("reference", "base")
        draft.note("differs", ["adapter_name_or_path"], _BARE_BASE)


_BARE_BASE = (
    "THE REFERENCE IS THE BARE BASE THERE, without the adapter that training starts from, and reference: base keeps "
    "that. What the DPO paper means is the model at the start: reference: start"
)


def _new_adapter(draft: Draft) -> None:
    rank = draft.whole("lora_rank", 8)
    alpha = draft.number("lora_alpha", 2 * rank)
    adapters.rank_and_scale(draft, rank=rank, alpha=alpha, alpha_key="lora_alpha", rank_stabilized="use_rslora")
    if draft.given("lora_target"):
        adapters.targets(draft, "lora_target", ("all",))
    else:
        draft.put("lora_targets", "all-linear")
    adapters.dropout(draft, switched_off=True, default=0.0)
    bits = draft.whole("quantization_bit")
    if bits == 4:
        draft.put("load_in_4bit", True)
    elif bits is not None:
        draft.note("left out", ["quantization_bit"], f"{bits}: the base is not quantized then; 4 bits are known")


def _precision(draft: Draft) -> None:
    narrow = ["pure_bf16"] * bool(draft.take("pure_bf16"))
    half = ["fp16"] * bool(draft.take("fp16"))
    mixed = draft.take("bf16")
    adapters.precision(draft, bfloat16=True if narrow else mixed, half=half, narrow=narrow)
