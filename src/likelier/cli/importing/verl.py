"""verl: its configuration as YAML, nested or with dotted names (`actor_rollout_ref.actor.clip_ratio`).

Names and defaults are those of `ppo_trainer.yaml` of mid-2025 and later. Keys are dotted in the draft.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from likelier.cli.importing import rollouts
from likelier.cli.importing.common import NO_MODEL, Draft, Rule, as_list, data_sets, decided, finish, left_out, missing

MARKS = frozenset({"actor_rollout_ref"})
_WITH_CRITIC = "gae"
_MODEL, _ACTOR, _ROLLOUT = ("actor_rollout_ref." + part for part in ("model.", "actor.", "rollout."))
_OPTIM, _KL = f"{_ACTOR}optim.", "algorithm.kl_ctrl."
_DIVIDED = {
    "token-mean": "token",
    "seq-mean-token-mean": "sequence-mean",
    "seq-mean-token-sum": "sequence-sum",
    "seq-mean-token-sum-norm": "constant",
}
_CUTS = {"left": "cut-prompt-left", "error": "error"}
_TRACKERS = ("wandb", "tensorboard", "mlflow", "swanlab")

# What is said of keys that begin so, the longest first.
_PREFIXES: dict[str, Rule] = {
    f"{_ROLLOUT}top_p": left_out(rollouts.WHOLE, off=(False, 1, 1.0)),
    f"{_ROLLOUT}top_k": left_out(rollouts.WHOLE, off=(False, 0, -1)),
    f"{_ROLLOUT}val_kwargs.": decided("held-out prompts are answered as prompts are in training, once each"),
    f"{_ROLLOUT}multi_turn.": left_out("an answer is one turn; tools are not called"),
    f"{_ROLLOUT}calculate_log_probs": decided("log-probabilities are compared at every step"),
    _ROLLOUT: decided(rollouts.SERVER),
    f"{_ACTOR}entropy_coeff": left_out("no entropy is added to the loss", off=(False, 0, 0.0)),
    _ACTOR: decided(rollouts.WORKERS),
    "actor_rollout_ref.ref.": decided("the reference is the policy as it starts"),
    "actor_rollout_ref.": decided(rollouts.WORKERS),
    "critic.": decided("policy and critic share sizes, passes, schedule and workers; without gae no critic is trained"),
    "reward_model.": decided("rewards are named in reward"),
    "algorithm.gamma": decided("an answer has one reward, at its end"),
    _KL: decided("without effect there: the coefficient is fixed, or nothing is charged in the reward"),
    "algorithm.norm_adv_by_std_in_grpo": decided("it is about grpo"),
    "algorithm.lam": decided(rollouts.CRITIC),
    "algorithm.": left_out("it has no counterpart"),
    "data.": decided("prompts are read, cut and batched by themselves"),
    "trainer.": decided(rollouts.WORKERS),
    "ray_init.": decided(rollouts.WORKERS),
    "ray_kwargs.": decided(rollouts.WORKERS),
    "global_profiler.": left_out("it has no counterpart"),
}


def flattened(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested blocks as dotted names, with references to other names (`${data.max_prompt_length}`) resolved."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{before}{name}"
        found |= flattened(value, f"{key}.") if isinstance(value, Mapping) and value else {key: value}
    if before:
        return found
    for _ in range(5):  # of references to references
        found = {key: _resolved(value, found) for key, value in found.items()}
    return found


def _resolved(value: Any, known: Mapping[str, Any]) -> Any:
    is_name = isinstance(value, str) and value.startswith("${") and value.endswith("}")
    return known.get(value[2:-1], value) if is_name else value


def translate(draft: Draft, trainer: str | None) -> None:
    """Fill the draft."""
    draft.put("model", draft.take(f"{_MODEL}path") or missing(draft, "model", NO_MODEL))
    _data(draft)
    draft.put_or_default("output", draft.take("trainer.default_local_dir"), "checkpoints/verl")
    _method(draft)
    _divergence(draft)
    _reward(draft)
    _steps(draft)
    _optimizer(draft)
    rank, alpha = draft.whole(f"{_MODEL}lora_rank", 0), draft.number(f"{_MODEL}lora_alpha", 16)
    rollouts.adapter(draft, rank, alpha, [f"{_MODEL}lora_rank", f"{_MODEL}lora_alpha"])
    finish(draft, {key: _rule(key) for key in draft.values if key not in draft.accounted and _rule(key)})


def _rule(key: str) -> Any:
    fitting = [prefix for prefix in _PREFIXES if key.startswith(prefix)]
    return _PREFIXES[max(fitting, key=len)] if fitting else None


def _data(draft: Draft) -> None:
    train, held_out = (as_list(draft.take(f"data.{name}_files")) for name in ("train", "val"))
    draft.put("data", data_sets(draft, [{"path": one} for one in train]))
    if held_out:
        draft.put("eval_data", data_sets(draft, [{"path": one} for one in held_out]))
    key = draft.take("data.prompt_key", "prompt")
    if key != "prompt":
        draft.put("columns", {"prompt": key})
    draft.put_or_default("max_prompt_length", draft.whole("data.max_prompt_length"), 512)
    draft.put("max_new_tokens", rollouts.count(draft, "data.max_response_length", 512))
    cut = str(draft.take("data.truncation", "error"))
    drops = draft.take("data.filter_overlong_prompts")
    draft.put("prompt_truncation", "drop" if drops else _CUTS.get(cut, "error"))
    if not drops and cut not in _CUTS:
        draft.note("differs", ["data.truncation"], f"{cut}: a prompt is cut at its beginning here, or not at all")
    if draft.take("data.shuffle", True) is False:
        draft.put("order", "file")


def _method(draft: Draft) -> None:
    estimator = str(draft.take("algorithm.adv_estimator", _WITH_CRITIC))
    divided = draft.take("algorithm.norm_adv_by_std_in_grpo", True)
    mode = str(draft.take(f"{_ACTOR}policy_loss.loss_mode", "vanilla"))
    if estimator == _WITH_CRITIC and mode == "vanilla":
        _ppo(draft)
        return
    if estimator not in ("grpo", "rloo") or mode not in ("vanilla", "gspo"):
        raise draft.error(
            f"adv_estimator {estimator} with loss_mode {mode} has no counterpart; the nearest are gae, grpo and rloo "
            "with loss_mode vanilla"
        )
    draft.put("method", "gspo" if mode == "gspo" else estimator)
    if estimator == "rloo":
        draft.put("ratio", "token")
    draft.put("advantage", "leave-one-out" if estimator == "rloo" else "std" if divided else "mean")
    how = str(draft.take(f"{_ACTOR}loss_agg_mode", "token-mean"))
    if how not in _DIVIDED:
        raise draft.error(f"loss_agg_mode {how} has no counterpart; known: {', '.join(_DIVIDED)}")
    draft.put("aggregation", _DIVIDED[how])
    if how == "seq-mean-token-sum-norm":
        text = "the constant is the longest answer allowed here, the padded width of the batch there"
        draft.note("differs", [f"{_ACTOR}loss_agg_mode"], text)
    _clips(draft, geometric=mode == "gspo")
    if draft.take("algorithm.filter_groups.enable"):
        draft.put("refill", True)
    draft.off(["algorithm.filter_groups.metric", "algorithm.filter_groups.max_num_gen_batches"])


def _clips(draft: Draft, *, geometric: bool) -> None:
    clip = draft.number(f"{_ACTOR}clip_ratio", 0.2)
    low, high = (draft.number(f"{_ACTOR}clip_ratio_{side}", clip) for side in ("low", "high"))
    rollouts.clips(draft, low, high, draft.number(f"{_ACTOR}clip_ratio_c", 3.0), geometric=geometric)


def _ppo(draft: Draft) -> None:
    """Advantages by a critic."""
    how = str(draft.take(f"{_ACTOR}loss_agg_mode", "token-mean"))
    if how != "token-mean":
        raise draft.error(
            f"loss_agg_mode {how} with adv_estimator gae: PPO divides by a step's tokens here; take it out"
        )
    for key in ("algorithm.filter_groups.enable", "reward_model.overlong_buffer.enable", f"{_ACTOR}use_kl_loss"):
        if draft.values.get(key):
            raise draft.error(f"{key} with adv_estimator gae is not built here: take one of them out")
        draft.off([key])
    draft.put("method", "ppo")
    draft.put("truncated", "keep")
    draft.put("gamma", float(draft.number("algorithm.gamma", 1.0)))
    draft.put_or_default("gae_lambda", draft.number("algorithm.lam"), 1.0)
    draft.put_or_default("value_clip", draft.number("critic.cliprange_value"), 0.5)
    rollouts.own_critic(draft, draft.number("critic.optim.lr"), 1e-5)
    rollouts.adam_of_torch(draft)
    first = draft.whole("trainer.critic_warmup", 0)
    draft.put_or_default("critic_warmup", max(0, first - 1), 0)
    if first > 0:
        text = "the rollout from which the policy learns there, the rollouts before it here"
        draft.note("differs", ["trainer.critic_warmup"], f"{first}: {text}")
    draft.note("differs", ["critic.model.path"], rollouts.CRITIC_BEGINS)
    _clips(draft, geometric=False)
    rollouts.entropy(draft, f"{_ACTOR}entropy_coeff")


def _divergence(draft: Draft) -> None:
    in_loss, in_reward = draft.take(f"{_ACTOR}use_kl_loss"), draft.take("algorithm.use_kl_in_reward")
    loss, reward = draft.number(f"{_ACTOR}kl_loss_coef", 0.001), draft.number(f"{_KL}kl_coef", 0.001)
    kind, course = draft.take(f"{_ACTOR}kl_loss_type"), draft.take(f"{_KL}type", "fixed")
    if in_loss and in_reward:
        raise draft.error("use_kl_loss and use_kl_in_reward are both on; here the divergence is charged in one place")
    draft.put("kl_coefficient", float(loss if in_loss else reward if in_reward else 0.0))
    if (in_loss or in_reward) and draft.options["method"] != "ppo":
        draft.put("kl_place", "loss" if in_loss else "reward")
    if in_loss:
        draft.note("differs", [f"{_ACTOR}kl_loss_type"], f"{kind or 'low_var_kl'}: {rollouts.PLAIN_K3}")
    if in_reward and course != "fixed":
        keys = [f"{_KL}{name}" for name in ("type", "target_kl", "horizon")]
        is_steered = draft.options["method"] == "ppo"
        draft.note("differs", keys, rollouts.KL_OF_TOKENS if is_steered else "the coefficient stays as it is here")
    if in_reward and draft.options["method"] == "ppo" and draft.take("algorithm.kl_penalty", "kl") not in ("kl", "k1"):
        draft.note("differs", ["algorithm.kl_penalty"], rollouts.K1_IN_REWARD)


def _reward(draft: Draft) -> None:
    path, name = draft.take("custom_reward_function.path"), draft.take("custom_reward_function.name")
    model = draft.take("reward_model.model.path") if draft.take("reward_model.enable") else None
    keys = ["custom_reward_function.path", "custom_reward_function.name"]
    rollouts.rewards(draft, [f"model:{model}"] if model else [], keys)
    if path:
        draft.note("differs", keys, f"write {path}:{name} anew, and name it in reward")
    length = draft.number("reward_model.overlong_buffer.len", 0)
    if draft.take("reward_model.overlong_buffer.enable") and length:
        draft.put("overlong_cache", round(length / draft.options["max_new_tokens"], 6))


def _steps(draft: Draft) -> None:
    keys = ("data.train_batch_size", f"{_ACTOR}ppo_mini_batch_size")
    rollout, prompts = rollouts.count(draft, keys[0], 1024), rollouts.count(draft, keys[1], 256)
    rollouts.prompts_of_a_step(draft, min(prompts, rollout), rollout, keys)
    answers, passes = draft.whole(f"{_ROLLOUT}n", 1), draft.whole(f"{_ACTOR}ppo_epochs", 1)
    draft.put("answers_per_prompt", answers)
    draft.put("updates_per_rollout", passes)
    of_rollout = max(1, rollout // prompts) * passes
    draft.put("temperature", float(draft.number(f"{_ROLLOUT}temperature", 1.0)))
    steps, epochs = draft.whole("trainer.total_training_steps"), draft.number("trainer.total_epochs")
    if steps and steps > 0:
        draft.put("max_steps", steps * of_rollout)
        draft.note("differs", ["trainer.total_training_steps"], "rollouts are counted there, optimizer steps here")
    else:
        draft.put_or_default("epochs", epochs, 30)
    for theirs, ours in (("save_freq", "save_steps"), ("test_freq", "eval_steps")):
        every = draft.whole(f"trainer.{theirs}", -1)
        if every > 0 and (ours != "eval_steps" or "eval_data" in draft.options):
            draft.put(ours, every * of_rollout)
    named = [one for one in as_list(draft.take("trainer.logger")) if one in _TRACKERS]
    if named:
        draft.put("report_to", ",".join(named))


def _optimizer(draft: Draft) -> None:
    draft.put_or_default("learning_rate", draft.number(f"{_OPTIM}lr"), 1e-6)
    styles = [draft.take(f"{_OPTIM}{name}") for name in ("lr_scheduler_type", "warmup_style")]
    draft.put("scheduler", "cosine" if "cosine" in styles else "constant")
    draft.put("warmup", float(draft.number(f"{_OPTIM}lr_warmup_steps_ratio", 0.0)))
    if draft.number(f"{_OPTIM}lr_warmup_steps", -1) > 0:
        text = "a number of steps there, a share of all steps here: set warmup"
        draft.note("differs", [f"{_OPTIM}lr_warmup_steps"], text)
    draft.trainer["weight_decay"] = draft.number(f"{_OPTIM}weight_decay", 0.01)
    clip = draft.number(f"{_ACTOR}grad_clip")
    if clip is not None:
        draft.trainer["max_grad_norm"] = clip
