"""OpenRLHF: the flags of `openrlhf.cli.train_ppo_ray`, written into a YAML file as `name: value`.

Names and defaults are those of its versions whose flags have no dots.
"""

from __future__ import annotations

from likelier.cli.importing import rollouts
from likelier.cli.importing.common import (
    NO_MODEL,
    Draft,
    Rule,
    as_list,
    as_number,
    data_sets,
    decided,
    each,
    finish,
    left_out,
    missing,
    refused,
)

MARKS = frozenset(
    {
        *("pretrain", "prompt_data", "advantage_estimator", "n_samples_per_prompt", "rollout_batch_size"),
        *("generate_max_len", "init_kl_coef", "remote_rm_url", "actor_learning_rate"),
        *("critic_pretrain", "freezing_actor_steps", "nll_loss_coef"),
    }
)
# Theirs: our method and what rewards are compared with.
_ESTIMATORS = {"group_norm": ("grpo", "std"), "dr_grpo": ("grpo", "mean"), "rloo": ("rloo", "leave-one-out")}
_WITH_CRITIC = "gae"
_OF_PAIRS = ("nll_loss_coef", "chosen_key", "rejected_key")
_WRITE_IT = (
    "write method: dpo with beta and label_smoothing of the same names and nll_loss_coef as nll_weight, or method: ipo "
    "with beta as tau and length_normalize: false"
)
_WORKER = decided(rollouts.WORKERS)
_CRITIC = decided(rollouts.CRITIC)
RULES: dict[str, Rule] = {
    "seed": Rule("seed", off=()),
    "gradient_checkpointing": Rule("activation_checkpointing", off=()),
    "load_in_4bit": Rule("load_in_4bit"),
    "l2": Rule("trainer.weight_decay", as_number, off=()),
    "max_norm": Rule("trainer.max_grad_norm", as_number, off=()),
    "top_p": left_out(rollouts.WHOLE, off=(False, 1, 1.0)),
    "entropy_loss_coef": left_out("no entropy is added to the loss", off=(False, 0, 0.0)),
    **each(left_out("no text is learnt beside the answers"), "ptx_coef", "pretrain_data", "pretrain_data_probs"),
    **each(left_out("the model's weights are saved, not their moving average"), "enable_ema", "ema_beta"),
    "aux_loss_coef": left_out("no load-balancing loss is added", off=(False, 0, 0.0)),
    "input_template": left_out("write it into the prompts"),
    **each(
        left_out("held-out prompts are answered as prompts are in training, once each"),
        *("eval_temperature", "eval_n_samples_per_prompt", "eval_split"),
    ),
    "normalize_reward": left_out("rewards are compared within the group; their scale is kept"),
    "reward_clip_range": left_out("bound the reward in its function"),
    "agent_func_path": refused("rollouts of several turns are not built here; take the line out"),
    "dynamic_filtering_reward_range": decided("refill replaces groups whose rewards are all equal"),
    "overlong_penalty_factor": left_out("the longest answer loses 1", off=(False, 1, 1.0)),
    "apply_chat_template": decided("conversations go through the model's template, texts do not"),
    "max_samples": left_out("cut the file"),
    **each(left_out("adapters are put on all linear modules (lora_targets)"), "target_modules"),
    **each(_CRITIC, "critic_pretrain", "critic_learning_rate", "value_clip", "lambd", "freezing_actor_steps"),
    **each(_CRITIC, "save_value_network", "value_head_prefix"),
    **each(decided("an answer has one reward, at its end"), "gamma"),
    **each(
        _WORKER,
        *(
            "actor_num_nodes",
            "actor_num_gpus_per_node",
            "critic_num_nodes",
            "critic_num_gpus_per_node",
            "ref_num_nodes",
        ),
        *("ref_num_gpus_per_node", "reward_num_nodes", "reward_num_gpus_per_node", "colocate_all_models", "zero_stage"),
        *("colocate_actor_ref", "colocate_critic_reward", "micro_train_batch_size", "micro_rollout_batch_size"),
        *("bf16", "flash_attn", "attn_implementation", "adam_offload", "packing_samples", "ref_reward_offload"),
        *("deepspeed_enable_sleep", "use_dynamic_batch", "async_train", "local_rank", "ring_attn_size"),
        *("ring_head_stride", "async_queue_size", "rollout_max_tokens_per_gpu", "train_max_tokens_per_gpu", "zpg"),
        *("ds_tensor_parallel_size", "actor_init_on_gpu", "grad_accum_dtype", "overlap_comm", "deepcompile", "perf"),
        *("gradient_checkpointing_use_reentrant", "use_liger_kernel", "disable_fast_tokenizer", "max_len"),
        *("full_determinism",),
    ),
    **each(
        decided(rollouts.SERVER),
        *("vllm_num_engines", "vllm_tensor_parallel_size", "vllm_gpu_memory_utilization", "vllm_enable_sleep"),
        *("vllm_sync_backend", "vllm_sync_with_ray", "vllm_generate_batch_size", "enforce_eager"),
        *("enable_prefix_caching", "enable_vllm_is_correction", "vllm_is_truncated_threshold"),
        *("rollout_tasks_per_gpu",),
    ),
    **each(left_out("set report_to: wandb, and its project in the shell"), "use_wandb", "wandb_project"),
    **each(left_out("set report_to: wandb, and its project in the shell"), "wandb_run_name", "use_tensorboard"),
    **each(left_out("set report_to: wandb, and its project in the shell"), "wandb_org", "wandb_group"),
    **each(decided("checkpoints lie in the run folder"), "ckpt_path", "save_hf_ckpt", "load_checkpoint"),
    **each(decided("checkpoints lie in the run folder"), "disable_ds_ckpt", "use_ds_universal_ckpt", "max_ckpt_mem"),
    "max_ckpt_num": left_out("set save_total_limit beside save_steps"),
    "use_ms": left_out("name the model's folder"),
}


def translate(draft: Draft, trainer: str | None) -> None:
    """Fill the draft."""
    for key in _OF_PAIRS:
        if draft.given(key):
            raise draft.error(f"{key} is an option of train_dpo, whose files are not read; {_WRITE_IT}")
    draft.put("model", draft.take("pretrain") or missing(draft, "model", NO_MODEL))
    _data(draft)
    draft.put_or_default("output", draft.take("save_path"), "./ckpt")
    _method(draft)
    _divergence(draft)
    found = [f"model:{one}" for one in str(draft.take("reward_pretrain") or "").split(",") if one]
    if draft.given("remote_rm_url"):
        text = "its server or script has another protocol: see the page on rewards"
        draft.note("differs", ["remote_rm_url"], text)
    rollouts.rewards(draft, found, ["remote_rm_url"])
    _steps(draft)
    draft.put_or_default("learning_rate", draft.number("actor_learning_rate"), 1e-6)
    name = str(draft.take("lr_scheduler", "cosine_with_min_lr"))
    draft.put("scheduler", "cosine" if "cosine" in name else name)
    if name == "cosine_with_min_lr":
        draft.note("differs", ["lr_scheduler"], "it falls to a smallest rate there, to 0 here")
    draft.put_or_default("warmup", draft.number("lr_warmup_ratio"), 0.03)
    rollouts.adapter(draft, draft.whole("lora_rank", 0), draft.number("lora_alpha", 16), ["lora_rank", "lora_alpha"])
    if draft.number("lora_dropout"):
        draft.note("left out", ["lora_dropout"], "answers are scored as they were sampled, without dropout")
    _betas(draft)
    finish(draft, RULES)


def _betas(draft: Draft) -> None:
    """Adam's, which are not PyTorch's."""
    first, second = as_list(draft.take("adam_betas")) or (0.9, 0.95)
    draft.trainer["adam_beta1"] = as_number(draft, "adam_betas", first)
    draft.trainer["adam_beta2"] = as_number(draft, "adam_betas", second)


def _data(draft: Draft) -> None:
    draft.off(["prompt_data_probs"])
    paths = str(draft.take("prompt_data") or "").split(",")
    split = draft.take("prompt_split")
    draft.put("data", data_sets(draft, [{"path": one, "split": split} for one in paths if one]))
    evaluated = draft.take("eval_dataset")
    if evaluated:
        draft.put("eval_data", evaluated)
    key = draft.take("input_key", "input")
    draft.put("columns", {"prompt": key})
    if draft.given("label_key"):
        draft.note("decided", ["label_key"], "every further column is given to the reward by its name")
    draft.put_or_default("max_prompt_length", draft.whole("prompt_max_len"), 1024)
    draft.put("max_new_tokens", rollouts.count(draft, "generate_max_len", 1024))


def _method(draft: Draft) -> None:
    estimator, kind = str(draft.take("advantage_estimator", _WITH_CRITIC)), draft.take("policy_loss_type", "ppo")
    if estimator == _WITH_CRITIC:
        _ppo(draft, kind)
        return
    if estimator not in _ESTIMATORS:
        nearest = "REINFORCE++ takes the batch's spread; the nearest is group_norm"
        raise draft.error(f"advantage_estimator {estimator} has no counterpart ({nearest})")
    method, advantage = _ESTIMATORS[estimator]
    draft.put("method", "gspo" if kind == "gspo" else method)
    draft.put("advantage", "mean" if advantage == "std" and draft.take("no_advantage_std_norm") else advantage)
    draft.off(["no_advantage_std_norm"])
    draft.put("aggregation", "sequence-mean" if kind == "gspo" else "token")
    if method == "rloo" and kind != "gspo":
        draft.put("ratio", "token")
    _clips(draft, geometric=kind == "gspo")
    if draft.take("dynamic_filtering"):
        draft.put("refill", True)
    length = draft.number("overlong_buffer_len")
    if length:
        draft.put("overlong_cache", round(length / draft.options["max_new_tokens"], 6))


def _clips(draft: Draft, *, geometric: bool) -> None:
    clip, both = draft.number("eps_clip", 0.2), as_list(draft.take("eps_clip_low_high"))
    low, high = (as_number(draft, "eps_clip_low_high", one) for one in (both or [clip, clip]))
    rollouts.clips(draft, low, high, draft.number("dual_clip"), geometric=geometric)


def _ppo(draft: Draft, kind: str) -> None:
    """Advantages by a critic."""
    for key in ("use_kl_loss", "dynamic_filtering", "overlong_buffer_len"):
        if draft.values.get(key):
            raise draft.error(f"{key} with advantage_estimator gae is not built here: take one of them out")
        draft.off([key])
    if kind != "ppo":
        raise draft.error(
            f"policy_loss_type {kind} with advantage_estimator gae is not built here: take one of them out"
        )
    draft.put("method", "ppo")
    draft.put("truncated", "keep")
    draft.put("gamma", float(draft.number("gamma", 1.0)))
    draft.put_or_default("gae_lambda", draft.number("lambd"), 1.0)
    draft.put_or_default("value_clip", draft.number("value_clip"), 0.5)
    draft.put_or_default("critic_warmup", max(0, draft.whole("freezing_actor_steps", 0)), 0)
    _clips(draft, geometric=False)
    rollouts.entropy(draft, "entropy_loss_coef")
    _score_clip(draft)
    if draft.take("no_advantage_std_norm"):
        text = "advantages lose their mean alone there; here they are brought to deviation 1 as well (whiten)"
        draft.note("differs", ["no_advantage_std_norm"], text)
    rollouts.own_critic(draft, draft.number("critic_learning_rate"), 9e-6)
    rollouts.adam_of_torch(draft)
    if draft.given("critic_pretrain"):
        draft.note("differs", ["critic_pretrain"], rollouts.CRITIC_BEGINS)


def _score_clip(draft: Draft) -> None:
    bounds = as_list(draft.take("reward_clip_range"))
    low, high = (as_number(draft, "reward_clip_range", one) for one in (bounds or [-10, 10]))
    if high > 0 and low == -high:
        draft.put_or_default("score_clip", float(high) if bounds else None, 10.0)
    else:
        draft.note("left out", ["reward_clip_range"], "score_clip bounds a score by the same on both sides")


def _divergence(draft: Draft) -> None:
    coefficient, in_loss = draft.number("init_kl_coef", 0.01), draft.take("use_kl_loss")
    kind = draft.take("kl_estimator", "k1")
    draft.put("kl_coefficient", float(coefficient))
    if not coefficient:
        draft.off(["kl_target", "kl_horizon"])
        return
    if draft.options["method"] == "ppo":
        if kind != "k1":
            draft.note("differs", ["kl_estimator"], f"{kind}: {rollouts.K1_IN_REWARD}")
        if draft.given("kl_target"):
            draft.note("differs", ["kl_target", "kl_horizon"], rollouts.KL_OF_TOKENS)
        return
    draft.put("kl_place", "loss" if in_loss else "reward")
    if in_loss:
        draft.note("differs", ["kl_estimator", "use_kl_loss"], f"{kind}: {rollouts.PLAIN_K3}")
    else:
        text = "it is charged before answers are compared here, and token by token after it there"
        draft.note("differs", ["init_kl_coef", "kl_estimator"], text)
    if draft.given("kl_target"):
        draft.note("differs", ["kl_target", "kl_horizon"], "the coefficient stays as it is here")


_SIZES = ("train_batch_size", "rollout_batch_size", "n_samples_per_prompt")


def _steps(draft: Draft) -> None:
    rows, rollout, answers = (
        rollouts.count(draft, key, each) for key, each in zip(_SIZES, (128, 1024, 1), strict=True)
    )
    draft.put("answers_per_prompt", answers)
    rollouts.prompts_of_a_step(draft, max(1, rows // answers), rollout, _SIZES)
    draft.put("updates_per_rollout", draft.whole("max_epochs", 1))
    draft.put("temperature", float(draft.number("temperature", 1.0)))
    draft.put("epochs", draft.number("num_episodes", 1))
    for theirs in ("save_steps", "eval_steps", "logging_steps"):
        every = draft.whole(theirs, -1)
        if every > 0 and (theirs != "eval_steps" or "eval_data" in draft.options):
            draft.put(theirs, every)
