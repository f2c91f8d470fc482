"""TRL: the YAML files of `trl grpo` and `trl rloo`, and the dumps of GRPOConfig, RLOOConfig and OnlineDPOConfig.

Names and defaults are those of TRL 1.16. Its batch sizes count answers; ours counts prompts of one optimizer step.
"""

from __future__ import annotations

from likelier.cli.importing import arguments, trl
from likelier.cli.importing.common import (
    NO_MODEL,
    Draft,
    Note,
    Rule,
    as_list,
    as_number,
    decided,
    each,
    finish,
    left_out,
    missing,
    pick,
    refused,
)
from likelier.cli.importing.rollouts import NO_REWARD, count
from likelier.objectives.grpo_family import WIDEST_GEOMETRIC_CLIP

# Options that these trainers alone have.
_OF_RLOO = frozenset({"normalize_advantages", "reward_clip_range", "rloo_k"})
_OF_EITHER = frozenset(
    {
        *("num_generations", "reward_funcs", "scale_rewards", "importance_sampling_level", "num_iterations"),
        *("steps_per_generation", "generation_batch_size", "mask_truncated_completions", "use_bias_correction_kl"),
    }
)
_OF_ONLINE_DPO = frozenset({"reward_model_path", "missing_eos_penalty"})
MARKS = _OF_RLOO - {"reward_clip_range"} | _OF_EITHER | _OF_ONLINE_DPO  # that one OpenRLHF has as well
# A loss of TRL: our method, and what a step is divided by where that is not the preset's.
LOSSES: dict[str, tuple[str, str]] = {
    "dapo": ("grpo", "token"),
    "bnpo": ("grpo", "token"),
    "grpo": ("grpo", "sequence-mean"),
    "dr_grpo": ("dr_grpo", "constant"),
    "cispo": ("cispo", "token"),
}
# Losses that are not here, and the nearest to each.
NEAREST = {"sapo": "dapo", "luspo": "grpo with importance_sampling_level sequence (gspo)", "vespo": "cispo"}
_PER_MICRO_BATCH = ("bnpo", "grpo", "dr_grpo")
_REWARDS = {
    "accuracy_reward": "math:solution",
    "reasoning_accuracy_reward": "trl.rewards:reasoning_accuracy_reward",
    "think_format_reward": "trl.rewards:think_format_reward",
}

_SERVER = left_out("the policy itself writes, in this process; with LoRA, sampler: vllm has a server write")
_WHOLE = "answers are drawn from the policy's whole distribution, which is the one that the loss is about"
_ENTROPY = refused("no entropy is added to the loss here; take the line out", off=(False, 0, 0.0))
_SHOWN = decided("answers are written to rollouts/ every rollout_steps, and shown in the report")
_ONLY_THEN = decided("without effect there: the option that would use it is not set")
RULES: dict[str, Rule] = {
    **trl.RULES,
    **each(left_out(_WHOLE, off=(False, 1, 1.0)), "top_p", "repetition_penalty"),
    "top_k": left_out(_WHOLE, off=(False, 0, -1)),
    "min_p": left_out(_WHOLE, off=(False, 0, 0.0)),
    "generation_kwargs": left_out("answers are drawn at a temperature, and otherwise as the policy has it"),
    **each(_SERVER, "use_vllm", "use_transformers_continuous_batching", "use_transformers_paged"),
    **each(
        decided("it is about a server or engine; the policy itself writes here"),
        *("vllm_mode", "vllm_model_impl", "vllm_enable_sleep_mode", "vllm_structured_outputs_regex"),
        *("vllm_server_base_url", "vllm_server_host", "vllm_server_port", "vllm_server_timeout", "vllm_group_port"),
        *("vllm_gpu_memory_utilization", "vllm_max_model_length", "vllm_tensor_parallel_size", "vllm_max_model_len"),
        *("vllm_importance_sampling_correction", "vllm_importance_sampling_mode", "vllm_importance_sampling_cap"),
        *("vllm_importance_sampling_clip_max", "vllm_importance_sampling_clip_min", "ds3_gather_for_generation"),
        *("transformers_continuous_batching_config", "cache_implementation", "pad_to_multiple_of"),
    ),
    **each(_SHOWN, "log_completions", "num_completions_to_print", "log_unique_prompts", "log_completions_hub_repo"),
    "log_multimodal": _SHOWN,
    "num_generations_eval": left_out("a held-out prompt is answered once"),
    "sync_ref_model": refused("a moving reference is not known here; take the line out for a fixed one"),
    **each(_ONLY_THEN, "sapo_temperature_neg", "sapo_temperature_pos", "use_adaptive_entropy", "entropy_coef_min"),
    **each(_ONLY_THEN, "vespo_k_pos", "vespo_lambda_pos", "vespo_k_neg", "vespo_lambda_neg"),
    **each(_ONLY_THEN, "entropy_coef_max", "entropy_coef_delta", "entropy_target"),
    "entropy_coef": _ENTROPY,
    "top_entropy_quantile": refused("every token is learnt from here; take the line out", off=(False, 1, 1.0)),
    "off_policy_mask_threshold": refused("answers are not left out by their drift here; take the line out"),
    "normalize_advantages": refused(
        "dividing advantages by the batch's spread is not known here; it scales a step, which Adam undoes: take the "
        "line out"
    ),
    "reward_clip_range": refused("bound the reward in its function; take the line out"),
    "max_tool_calling_iterations": left_out("an answer is one turn; tools are not called"),
    "cast_lm_head_to_fp32": decided("log-probabilities are computed in float32"),
    "disable_dropout": decided("dropout is always off"),
    "lora_dropout": left_out("answers are scored as they were sampled, without dropout", off=(False, 0, 0.0)),
    "chat_template_kwargs": Rule("chat_template_kwargs", off=()),
    "shuffle_dataset": Rule("order", lambda draft, key, value: "shuffled" if value else "file", off=()),
}

TRAINERS = ("grpo", "rloo", "online_dpo")


def online_trainer(draft: Draft) -> str | None:
    """`rloo`, `grpo` or `online_dpo` where the file's options say so."""
    if draft.values.keys() & _OF_ONLINE_DPO:
        return "online_dpo"
    if draft.values.keys() & _OF_RLOO:
        return "rloo"
    losses = {str(one) for one in as_list(draft.values.get("loss_type"))}
    return "grpo" if draft.values.keys() & _OF_EITHER or losses & (LOSSES.keys() | NEAREST.keys()) else None


def translate(draft: Draft, trainer: str) -> None:
    """Fill the draft, for `grpo`, `rloo` or `online_dpo`."""
    draft.put("model", draft.take("model_name_or_path") or missing(draft, "model", NO_MODEL))
    trl.data(draft)
    arguments.output(draft, "trainer_output")
    {"rloo": _rloo, "grpo": _grpo, "online_dpo": _online_dpo}[trainer](draft)
    _rewards(draft)
    if trainer == "online_dpo":
        _pairs(draft)
    else:
        _answers(draft)
        _steps(draft, 2 if trainer == "rloo" else 8)
    arguments.rate(draft, 5e-7 if trainer == "online_dpo" else 1e-6)
    arguments.schedule(draft, "lr_scheduler_type", "linear")
    arguments.warmup(draft, "lr_scheduler_type", 0.0)
    arguments.order(draft)
    trl.adapter(draft, dropout_off=True)
    trl.precision(draft)
    arguments.saving(draft)
    arguments.evaluation(draft, arguments.logging(draft, 10))
    arguments.hub(draft)
    finish(draft, RULES)


# --- the loss ------------------------------------------------------------------------------------------------------


def _grpo(draft: Draft) -> None:
    loss = str(draft.take("loss_type", "dapo"))
    if loss not in LOSSES:
        nearest = f"; the nearest is {NEAREST[loss]}" if loss in NEAREST else ""
        raise draft.error(f"loss_type {loss} has no counterpart{nearest}; known: {', '.join(LOSSES)}")
    method, aggregation = LOSSES[loss]
    level = draft.take("importance_sampling_level", "token")
    if level == "sequence":
        method = "gspo"
    if level == "sequence" and loss == "cispo":
        raise draft.error(
            "loss_type cispo with importance_sampling_level sequence has no counterpart; take one of them"
        )
    draft.put("method", method)
    draft.put("aggregation", aggregation)
    if loss == "dapo":
        text = "the loss alone: its refill of prompts and charge on long answers are no part of it there, nor here"
        draft.note("differs", ["loss_type"], f"dapo is {text} (method dapo has them)")
    elif loss in _PER_MICRO_BATCH:
        text = "each micro-batch is divided by its own numbers there, the step by the whole step's here"
        draft.note("differs", ["loss_type"], f"{loss}: {text}")
    _spread(draft)
    _clips(draft, method)
    _divergence(draft)


def _spread(draft: Draft) -> None:
    scale = draft.take("scale_rewards", "group")
    draft.put("advantage", "std" if scale in ("group", True) else "mean")
    if scale == "batch":
        text = "the spread of the whole batch scales a step, which Adam undoes; advantages are not divided here"
        draft.note("differs", ["scale_rewards"], f"batch: {text}")


def _clips(draft: Draft, method: str) -> None:
    low, high = draft.number("epsilon", 0.2), draft.number("epsilon_high")
    upper, keys = low if high is None else high, ("epsilon", "epsilon_high")
    dual = draft.number("delta")
    if method == "cispo":
        if upper >= 1:
            draft.put("weight_high", float(upper))
        else:
            draft.note(
                "differs",
                keys,
                f"THERE EVERY RATIO IS CLAMPED TO {upper:g}, which scales all gradients down by it; epsilon_high is "
                "the bound of the ratio itself. weight_high 5 was taken, as in the paper",
            )
        if dual is not None:
            draft.note("left out", ["delta"], "it has no effect with cispo there either")
        return
    if method == "gspo" and max(low, upper) > WIDEST_GEOMETRIC_CLIP:
        text = f"an answer's ratio moves by thousandths, so that {max(low, upper):g} never holds; the widest here is "
        text += f"{WIDEST_GEOMETRIC_CLIP:g}, which does not either. GSPO's paper has 0.0003 and 0.0004"
        draft.note("differs", keys, text)
        low, upper = (min(one, WIDEST_GEOMETRIC_CLIP) for one in (low, upper))
    draft.put("clip_low", float(low))
    draft.put("clip_high", float(upper))
    if dual is not None:
        draft.put("clip_dual", float(dual))


def _divergence(draft: Draft) -> None:
    beta = draft.number("beta", 0.0)
    corrected = draft.take("use_bias_correction_kl", True)
    if not beta:
        return
    draft.put("kl_coefficient", float(beta))
    if not corrected:
        text = "the gradient of plain k3 is that of the other direction's KL; here k3 is weighted by the ratio"
        draft.note("differs", ["use_bias_correction_kl"], text)


def _rloo(draft: Draft) -> None:
    draft.put("method", "rloo")
    low = draft.number("epsilon", 0.2)
    high = draft.number("epsilon_high")
    draft.put("clip_low", float(low))
    draft.put("clip_high", float(low if high is None else high))
    draft.put_or_default("kl_coefficient", draft.number("beta"), 0.05)
    if not draft.options["kl_coefficient"]:
        draft.put("kl_coefficient", 0.0)


_PAIR_LOSSES = {"sigmoid": "dpo", "ipo": "ipo"}


def _online_dpo(draft: Draft) -> None:
    draft.put("method", "online_dpo")
    loss = str(draft.take("loss_type", "sigmoid"))
    if loss not in _PAIR_LOSSES:
        raise draft.error(f"loss_type {loss} is none of a pair of own answers; known: {', '.join(_PAIR_LOSSES)}")
    draft.put("preference_loss", _PAIR_LOSSES[loss])
    betas = [as_number(draft, "beta", one) for one in as_list(draft.take("beta", 0.1))]
    draft.put("beta", float(betas[0]))
    if len(betas) > 1:
        draft.note("differs", ["beta"], f"one for the whole run here, {betas[0]:g}; there each epoch has its own")
    text = "a pair whose answers earned the same is skipped here; there its first answer is the chosen one"
    draft.notes.append(Note("differs", (), text))


def _pairs(draft: Draft) -> None:
    """Two answers to each prompt, whose batch sizes count prompts."""
    draft.put("answers_per_prompt", 2)
    most = draft.put_or_default("max_new_tokens", draft.whole("max_new_tokens"), 64)
    draft.put_or_default("temperature", draft.number("temperature"), 0.9)
    limit = draft.whole("max_length", 512)
    if limit > most:
        draft.put("max_prompt_length", limit - most)
        draft.put("prompt_truncation", "cut-prompt-left")
    if (penalty := draft.number("missing_eos_penalty")) is not None:
        draft.put("truncated", "penalty")
        draft.put("missing_eos_penalty", float(penalty))
    arguments.steps_and_rows(draft, draft.whole("num_processes", 1))


# --- rewards and answers -------------------------------------------------------------------------------------------


def _rewards(draft: Draft) -> None:
    model = pick(draft, ("reward_model_name_or_path", "reward_model_path"))[1]
    named = [f"model:{model}"] if model else []
    for one in map(str, as_list(draft.take("reward_funcs"))):
        found = _REWARDS.get(one) or ":".join(one.rsplit(".", 1))
        if one == "get_soft_overlong_punishment":
            raise draft.error("reward_funcs: get_soft_overlong_punishment: take it out, and set overlong_cache here")
        named.append(found)
    if "accuracy_reward" in as_list(draft.values.get("reward_funcs")):
        text = "accuracy_reward became math:solution, which reads the answers' last formula with the same library"
        draft.note("differs", ["reward_funcs"], text)
    weights = [as_number(draft, "reward_weights", one) for one in as_list(draft.take("reward_weights"))]
    how = draft.take("multi_objective_aggregation", "sum_then_normalize")
    if not named:
        missing(draft, "reward", NO_REWARD)
        if weights:
            draft.note("left out", ["reward_weights"], "name the rewards, and give the weights again")
        draft.put("reward", [NO_REWARD])
        return
    draft.put("reward", named)
    if len(named) > 1:
        if weights:
            draft.put("reward_weights", [float(one) for one in weights])
        if how == "normalize_then_sum":
            draft.put("combine", "normalised")
    elif weights and weights != [1]:
        draft.note("differs", ["reward_weights"], "a single reward has the weight 1 here; multiply in its function")


def _answers(draft: Draft) -> None:
    key, length = pick(draft, ("max_completion_length", "max_new_tokens", "response_length"))
    draft.put_or_default("max_new_tokens", None if length is None else int(as_number(draft, key, length)), 512)
    temperature = draft.number("temperature")
    if temperature is not None:
        draft.put("temperature", float(temperature))
    if draft.take("mask_truncated_completions"):
        draft.put("truncated", "mask")
    limit = draft.whole("max_prompt_length")
    if limit is not None:
        draft.put("max_prompt_length", limit)
        draft.put("prompt_truncation", "cut-prompt-left")


_STEP_KEYS = ("per_device_train_batch_size", "gradient_accumulation_steps", "num_processes", "num_generations")
_AHEAD = ("steps_per_generation", "generation_batch_size")


def _steps(draft: Draft, answers: int) -> None:
    """Prompts of one optimizer step, and how often a rollout is learnt from, from five numbers that count answers."""
    each_device, accumulated, processes = (
        count(draft, key, default) for key, default in zip(_STEP_KEYS[:3], (8, 1, 1), strict=True)
    )
    if draft.given("num_generations"):
        answers = count(draft, "num_generations", answers)
        draft.put("answers_per_prompt", answers)
    else:
        draft.put_default("answers_per_prompt", answers)
    rows = each_device * accumulated * processes
    prompts = max(1, rows // answers)
    draft.put("batch_size", prompts)
    per = "1 process is assumed, multiply by the number that ran" if processes == 1 else f"{processes} processes"
    text = f"batch_size {prompts} counts prompts of the optimizer step: {each_device} answers a device x {accumulated} "
    text += f"accumulated, {per}, divided by {answers} answers each"
    odd = f"; {rows} answers are no whole number of prompts, so that steps are not those of the source"
    draft.note("differs", _STEP_KEYS, text + (odd if rows % answers else ""))
    draft.put_or_default("updates_per_rollout", draft.whole("num_iterations"), 1)
    per_generation, batch = (draft.whole(key) for key in _AHEAD)
    ahead = per_generation or (batch // (each_device * processes) if batch else accumulated)
    if ahead != accumulated:
        text = (
            f"answers for {ahead / accumulated:g} optimizer steps are written at once there, by a policy that is then "
        )
        draft.note(
            "differs", _AHEAD, text + "some steps old; here each step's answers are written by the policy as it is"
        )
    arguments.duration(draft, "num_train_epochs", 3.0)
