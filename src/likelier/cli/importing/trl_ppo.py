"""TRL: dumps of PPOConfig, and the files of its script `ppo.py`, as both were from version 0.12 until PPO left it.

A rollout is per_device_train_batch_size x gradient_accumulation_steps x processes prompts there, with an answer each.
"""

from __future__ import annotations

from math import ceil

from likelier.cli.importing import arguments, trl, trl_online
from likelier.cli.importing.common import NO_MODEL, Draft, Rule, decided, each, finish, left_out, missing, refused
from likelier.cli.importing.rollouts import CRITIC_BEGINS, K1_IN_REWARD, NO_REWARD, adam_of_torch, count

MARKS = frozenset(
    {"num_ppo_epochs", "num_mini_batches", "whiten_rewards", "vf_coef", "cliprange_value", "sft_model_path"}
)

_COUNTED = decided("it is counted from the other sizes there")
_SHAPING = "write it into a reward function, and name that in reward beside the model; take the line out"
_ONLY_THEN = decided("without effect there: the option that would use it is not set")
_OLD = refused(
    "an option of PPOConfig before TRL 0.12, whose loop stood in one's own script; give the run's options by hand "
    "(docs/coming-from-trl.md)"
)
RULES: dict[str, Rule] = {
    **trl_online.RULES,
    **each(_COUNTED, "num_total_batches", "micro_batch_size", "local_batch_size", "batch_size"),
    **each(_COUNTED, "local_mini_batch_size", "mini_batch_size"),
    "local_rollout_forward_batch_size": arguments.MEMORY,
    "num_sample_generations": decided("answers are written to rollouts/ every rollout_steps, and shown in the report"),
    "exp_name": decided("a run is called as its folder; for a tracker, set run_name in the trainer block"),
    "ds3_gather_for_generation": arguments.PROCESS,
    "model_adapter_name": left_out("one adapter is trained, the policy's"),
    "ref_adapter_name": left_out("name the reference's adapter folder in reference"),
    **each(refused(_SHAPING), "reward_shaping_enable_length", "reward_shaping_enable_repetition"),
    "reward_shaping_enable_eos": refused(_SHAPING),
    **each(_ONLY_THEN, "reward_shaping_length_coef", "reward_shaping_repetition_coef"),
    **each(_ONLY_THEN, "reward_shaping_repetition_ngram", "reward_shaping_eos_bonus"),
    **each(_ONLY_THEN, "reward_shaping_eos_missing_penalty", "reward_shaping_eos_out_of_range_penalty"),
    **each(_ONLY_THEN, "reward_shaping_eos_min_len", "reward_shaping_eos_max_len"),
    **each(_OLD, "adap_kl_ctrl", "init_kl_coef", "kl_penalty", "target", "horizon", "ppo_epochs", "early_stopping"),
    **each(_OLD, "use_score_scaling", "use_score_norm", "score_clip", "ratio_threshold", "target_kl", "steps"),
}


def translate(draft: Draft) -> None:
    """Fill the draft."""
    _models(draft)
    trl.data(draft)
    arguments.output(draft, "trainer_output")
    _loss(draft)
    _answers(draft)
    steps = _sizes(draft)
    arguments.rate(draft, 5e-5)
    arguments.schedule(draft, "lr_scheduler_type", "linear")
    arguments.warmup(draft, "lr_scheduler_type", 0.0)
    arguments.order(draft)
    _optimizer(draft)
    trl.adapter(draft, dropout_off=True)
    if "lora_r" in draft.options:
        draft.note("differs", ["use_peft"], "the critic is trained whole there; here it is an adapter on the same base")
    trl.precision(draft)
    arguments.saving(draft)
    arguments.evaluation(draft, arguments.logging(draft, 10))
    _as_steps(draft, steps)
    arguments.hub(draft)
    finish(draft, RULES)


def _models(draft: Draft) -> None:
    """The policy is the script's sft_model_path; model_name_or_path only brings the tokenizer there."""
    begins, named = draft.take("sft_model_path"), draft.take("model_name_or_path")
    draft.put("model", begins or named or missing(draft, "model", NO_MODEL))
    if begins and named and begins != named:
        draft.note("differs", ["model_name_or_path"], "only its tokenizer is read there; here each model's own")
    judge = draft.take("reward_model_path")
    draft.put("method", "ppo")
    draft.put("reward", [f"model:{judge}" if judge else missing(draft, "reward", NO_REWARD)])
    draft.note("decided", ["reward_model_path"], f"the script makes the value model of it as well; {CRITIC_BEGINS}")


def _loss(draft: Draft) -> None:
    clip = float(draft.number("cliprange", 0.2))
    draft.put("clip_low", clip)
    draft.put("clip_high", clip)
    for theirs, ours, default in (
        ("kl_coef", "kl_coefficient", 0.05),
        ("gamma", "gamma", 1.0),
        ("lam", "gae_lambda", 0.95),
        ("cliprange_value", "value_clip", 0.2),
        ("vf_coef", "value_coefficient", 0.1),
    ):
        draft.put(ours, float(draft.number(theirs, default)))
    if draft.take("whiten_rewards"):
        draft.put("whiten", "both")
    if draft.take("kl_estimator") == "k3":
        draft.note("differs", ["kl_estimator"], f"k3: {K1_IN_REWARD}")
    text = "the score stands at an answer's last token here, one place behind it there, on a padding token"
    draft.note("differs", (), f"{text}, whose value the critic learns as well")


def _answers(draft: Draft) -> None:
    draft.put_or_default("max_new_tokens", draft.whole("response_length"), 53)
    draft.put_or_default("temperature", draft.number("temperature"), 0.7)
    penalty = draft.number("missing_eos_penalty")
    draft.put("truncated", "penalty" if penalty else "keep")
    if penalty:
        draft.put("missing_eos_penalty", float(penalty))
    stop = draft.take("stop_token")
    if draft.given("stop_token_id"):
        text = "answers end at the end tokens of the model's generation_config here, or at a text (stop)"
        draft.note("differs", ["stop_token_id"], text)
    elif not stop:
        text = "no answer ends before response_length there; here the model's end token ends it, as with stop_token eos"
        draft.note("differs", ["stop_token"], f"without stop_token {text}")


_SIZES = ("per_device_train_batch_size", "gradient_accumulation_steps")


def _sizes(draft: Draft) -> int:
    """Prompts of a step, passes over a rollout and how long; gives the optimizer steps of one of their rollouts."""
    each_device, accumulated = (count(draft, key, default) for key, default in zip(_SIZES, (8, 1), strict=True))
    processes = max(count(draft, key, 1) for key in ("num_processes", "world_size"))
    passes, pieces = draft.whole("num_ppo_epochs", 4), count(draft, "num_mini_batches", 1)
    rollout = each_device * accumulated * processes
    a_pass = max(1, pieces // accumulated)
    draft.put("batch_size", max(1, rollout // a_pass))
    draft.put("updates_per_rollout", passes)
    per = "1 process is assumed, multiply by the number that ran" if processes == 1 else f"{processes} processes"
    text = f"a rollout is {rollout} prompts: {each_device} a device x {accumulated} accumulated, {per}"
    draft.note("differs", (*_SIZES, "num_processes", "world_size"), text)
    if a_pass > 1:
        text = (
            f"a rollout is learnt from in {a_pass} pieces there; here each piece's answers are written by the policy "
        )
        draft.note("differs", ["num_mini_batches"], text + "as it is then")
    elif pieces > 1:
        text = "gradients are accumulated over all of them there, so that a pass is one optimizer step, as here"
        draft.note("decided", ["num_mini_batches"], text)
    _duration(draft, rollout)
    return a_pass * passes


def _duration(draft: Draft, rollout: int) -> None:
    """In rollouts, as everything that counts steps there."""
    if (draft.number("max_steps") or 0) > 0:
        draft.note("decided", ["max_steps"], "PPOTrainer goes by total_episodes and num_train_epochs")
    episodes = draft.whole("total_episodes")
    if not episodes:
        draft.put_or_default("epochs", draft.number("num_train_epochs"), 3.0)
        return
    draft.put("max_steps", ceil(episodes / rollout))
    if draft.given("num_train_epochs"):
        draft.note("decided", ["num_train_epochs"], "total_episodes wins over it there too")


def _optimizer(draft: Draft) -> None:
    if not draft.given("adam_epsilon"):
        adam_of_torch(draft)
    draft.take("max_grad_norm")
    draft.trainer["max_grad_norm"] = 0
    text = "gradients are not clipped there, whatever it says, and 0 leaves them here, where 1 is the default"
    draft.note("differs", ["max_grad_norm"], f"max_grad_norm: {text}")


def _as_steps(draft: Draft, steps: int) -> None:
    """Rollouts are counted there, optimizer steps here."""
    named = [name for name in ("max_steps", "save_steps", "eval_steps", "logging_steps") if name in draft.options]
    for name in named:
        draft.options[name] *= steps
    if named and steps > 1:
        text = f"rollouts are counted there, optimizer steps here: {steps} a rollout, by which they were multiplied"
        keys = ("total_episodes", "save_steps", "eval_steps", "logging_steps")
        draft.note("differs", keys, text)
