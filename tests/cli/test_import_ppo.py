"""What `import-config` makes of PPO in TRL, OpenRLHF and verl."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainingArguments

from likelier.cli.importing import import_config
from likelier.cli.importing.verl import flattened
from likelier.utils.errors import ConfigError
from tests.cli.test_import_config import said
from tests.cli.test_import_online import imported
from tests.helpers.import_cases import OPENRLHF, OPENRLHF_CRITIC, PPO_CONFIG, VERL, VERL_CRITIC

TRL = {
    "sft_model_path": "m",
    "model_name_or_path": "m",
    "reward_model_path": "rm",
    "dataset_name": "d.jsonl",
    "output_dir": "o",
}
ACTOR, KL = "actor_rollout_ref.actor.", "algorithm.kl_ctrl."


def test_a_dump_of_ppo_config_is_known_to_the_last_option(tmp_path: Path) -> None:
    made = TrainingArguments(str(tmp_path / "o"), use_cpu=True, report_to=[], activation_checkpointing=True).to_dict()
    path = tmp_path / "config.json"
    path.write_text(json.dumps(made | PPO_CONFIG, default=str), encoding="utf-8")
    draft = import_config(str(path))
    assert draft.tool == "TRL" and draft.options["method"] == "ppo"
    assert draft.accounted == made.keys() | PPO_CONFIG.keys()
    assert not [note.keys for note in draft.notes if note.kind == "unknown"]


def test_the_options_of_a_dump_and_those_of_a_file_that_leaves_them_out_are_the_same(tmp_path: Path) -> None:
    defaults = {name: value for name, value in PPO_CONFIG.items() if value is not None}
    short = imported(tmp_path, {"num_ppo_epochs": 4} | TRL)
    whole = imported(tmp_path, defaults | TRL)
    assert short.options == whole.options and short.trainer == whole.trainer
    assert short.options["learning_rate"] == TrainingArguments.learning_rate
    assert short.trainer == {"adam_epsilon": TrainingArguments.adam_epsilon, "max_grad_norm": 0}
    wanted = {"clip_low": 0.2, "clip_high": 0.2, "kl_coefficient": 0.05, "gamma": 1.0, "gae_lambda": 0.95}
    wanted |= {"value_clip": 0.2, "value_coefficient": 0.1, "updates_per_rollout": 4, "batch_size": 8}
    wanted |= {"max_new_tokens": 53, "temperature": 0.7, "truncated": "keep", "epochs": 3.0, "reward": ["model:rm"]}
    assert {name: short.options.get(name) for name in wanted} == wanted


@pytest.mark.parametrize(
    ("options", "expected", "words"),
    [
        ({"sft_model_path": "policy"}, {"model": "policy"}, "only its tokenizer is read there"),
        ({"sft_model_path": None}, {"model": "m"}, ""),
        ({"reward_model_path": None}, {"reward": ["./name-your-rewards.py:reward"]}, "the source names none"),
        ({"whiten_rewards": True}, {"whiten": "both"}, ""),
        ({"kl_estimator": "k3"}, {}, "does not pull along the divergence's gradient"),
        ({"missing_eos_penalty": 1.0}, {"truncated": "penalty", "missing_eos_penalty": 1.0}, ""),
        ({"stop_token": "eos"}, {}, "on a padding token"),
        ({}, {}, "without stop_token no answer ends before response_length"),
        ({"stop_token_id": 2}, {}, "the end tokens of the model's generation_config"),
        ({"gradient_accumulation_steps": 4, "num_processes": 2}, {"batch_size": 64}, "2 processes"),
        ({"gradient_accumulation_steps": 4, "num_mini_batches": 4}, {"batch_size": 32}, "a pass is one optimizer step"),
        ({"num_mini_batches": 4}, {"batch_size": 2}, "in 4 pieces"),
        ({"total_episodes": 80}, {"max_steps": 40, "epochs": None}, "4 a rollout"),
        (
            {"total_episodes": 80, "num_mini_batches": 2, "save_steps": 3, "warmup_steps": 2},
            {"max_steps": 80, "save_steps": 24, "warmup": 0.2},
            "8 a rollout",
        ),
        ({"max_steps": 9}, {"max_steps": None, "epochs": 3.0}, "goes by total_episodes"),
        ({"max_grad_norm": 1.0}, {}, "gradients are not clipped there"),
        ({"use_peft": True, "lora_r": 8}, {"lora_r": 8}, "an adapter on the same base"),
    ],
)
def test_what_means_something_else_in_trl(
    options: dict[str, Any], expected: dict[str, Any], words: str, tmp_path: Path
) -> None:
    draft = imported(tmp_path, {"num_ppo_epochs": 4} | TRL | options)
    assert {name: draft.options.get(name) for name in expected} == expected
    assert words in said(draft)


@pytest.mark.parametrize(
    ("options", "expected", "words"),
    [
        (
            {},
            {"method": "ppo", "gae_lambda": 1.0, "value_clip": 0.5, "score_clip": 10.0, "critic_warmup": 0}
            | {"critic_learning_rate": 9e-6, "kl_coefficient": 0.01, "kl_place": None, "truncated": "keep"},
            "clipped together",
        ),
        ({"lambd": 0.95, "gamma": 0.99, "value_clip": 0.2}, {"gae_lambda": 0.95, "gamma": 0.99, "value_clip": 0.2}, ""),
        ({"freezing_actor_steps": 5}, {"critic_warmup": 5}, ""),
        ({"entropy_loss_coef": 0.01}, {"entropy_coefficient": 0.01}, ""),
        ({"freezing_actor_steps": 5, "rollout_batch_size": 64}, {"batch_size": 16, "critic_warmup": 20}, ""),
        ({"reward_clip_range": [-5, 5]}, {"score_clip": 5.0}, ""),
        ({"reward_clip_range": [-1, 5]}, {"score_clip": None}, "the same on both sides"),
        ({"kl_target": 0.1, "kl_horizon": 5000}, {"kl_target": None}, "nats a token there, nats an answer here"),
        ({"kl_estimator": "k3"}, {}, "does not pull along"),
        ({"no_advantage_std_norm": True}, {}, "their mean alone"),
        ({"critic_pretrain": "rm"}, {}, "the critic begins as the reward model"),
        ({"adam_betas": [0.9, 0.99]}, {}, ""),
    ],
)
def test_a_critic_of_openrlhf(options: dict[str, Any], expected: dict[str, Any], words: str, tmp_path: Path) -> None:
    draft = imported(tmp_path, OPENRLHF_CRITIC | options)
    assert draft.tool == "OpenRLHF" and draft.accounted == set(OPENRLHF_CRITIC | options)
    assert {name: draft.options.get(name) for name in expected} == expected
    assert words in said(draft)
    betas = options.get("adam_betas", [0.9, 0.95])
    assert draft.trainer == {"adam_epsilon": 1e-8, "adam_beta1": betas[0], "adam_beta2": betas[1]}


@pytest.mark.parametrize(
    ("options", "expected", "words"),
    [
        (
            {},
            {"method": "ppo", "gae_lambda": 1.0, "value_clip": 0.5, "critic_warmup": 0, "critic_learning_rate": 1e-5}
            | {"kl_coefficient": 0.0, "clip_dual": 3.0, "truncated": "keep", "kl_place": None, "batch_size": 16},
            "clipped together",
        ),
        ({"trainer.critic_warmup": 3}, {"critic_warmup": 8}, "the rollouts before it here"),
        ({"trainer.critic_warmup": 1}, {"critic_warmup": 0}, ""),
        ({f"{ACTOR}entropy_coeff": 0.001}, {"entropy_coefficient": 0.001}, ""),
        (
            {"critic.optim.lr": "3e-6", "critic.cliprange_value": 0.2},
            {"critic_learning_rate": 3e-6, "value_clip": 0.2},
            "",
        ),
        ({"algorithm.lam": 0.95, "algorithm.gamma": 0.9}, {"gae_lambda": 0.95, "gamma": 0.9}, ""),
        ({"algorithm.use_kl_in_reward": True, f"{KL}kl_coef": 0.02}, {"kl_coefficient": 0.02, "kl_place": None}, ""),
        (
            {"algorithm.use_kl_in_reward": True, f"{KL}type": "adaptive", f"{KL}target_kl": 0.1},
            {"kl_target": None},
            "nats a token there",
        ),
        ({"algorithm.use_kl_in_reward": True, "algorithm.kl_penalty": "k3"}, {}, "does not pull along"),
        ({"critic.model.path": "rm", "critic.ppo_epochs": 2}, {}, "the critic begins as the reward model"),
        (
            {"trainer.total_training_steps": 10, f"{ACTOR}ppo_epochs": 2},
            {"max_steps": 80},
            "rollouts are counted there",
        ),
    ],
)
def test_a_critic_of_verl(options: dict[str, Any], expected: dict[str, Any], words: str, tmp_path: Path) -> None:
    draft = imported(tmp_path, VERL_CRITIC | options)
    assert draft.tool == "verl" and draft.accounted == set(VERL_CRITIC | options)
    assert {name: draft.options.get(name) for name in expected} == expected
    assert words in said(draft)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (TRL | {"num_ppo_epochs": 4, "reward_shaping_enable_eos": True}, "write it into a reward function"),
        (TRL | {"num_ppo_epochs": 4, "adap_kl_ctrl": True}, "before TRL 0.12"),
        (TRL | {"num_ppo_epochs": 4, "num_mini_batches": 0}, "must be at least 1"),
        (OPENRLHF_CRITIC | {"use_kl_loss": True}, "use_kl_loss with advantage_estimator gae"),
        (OPENRLHF_CRITIC | {"policy_loss_type": "gspo"}, "policy_loss_type gspo with advantage_estimator gae"),
        (OPENRLHF_CRITIC | {"reward_clip_range": "wide"}, "not a number"),
        (VERL_CRITIC | {f"{ACTOR}use_kl_loss": True}, "use_kl_loss with adv_estimator gae"),
        (VERL_CRITIC | {f"{ACTOR}loss_agg_mode": "seq-mean-token-sum"}, "divides by a step's tokens"),
        (VERL_CRITIC | {"algorithm.filter_groups.enable": True}, "not built here"),
    ],
)
def test_what_ppo_has_not_is_refused(values: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        imported(tmp_path, values)


def test_without_a_word_on_advantages_both_have_a_critic(tmp_path: Path) -> None:
    without = {name: value for name, value in OPENRLHF.items() if name != "advantage_estimator"}
    assert imported(tmp_path, without).options["method"] == "ppo"
    of_verl = {name: value for name, value in flattened(VERL).items() if name != "algorithm.adv_estimator"}
    assert imported(tmp_path, of_verl).options["method"] == "ppo"


def test_trl_s_trainer_can_be_named(tmp_path: Path) -> None:
    draft = imported(tmp_path, {"model_name_or_path": "m", "dataset_name": "d.jsonl"}, "trl", trainer="ppo")
    assert draft.options["method"] == "ppo"


def test_a_name_that_two_tools_have_does_not_hide_whose_file_it_is(tmp_path: Path) -> None:
    of_axolotl = {"lr_scheduler": "cosine", "wandb_project": "p"}
    assert imported(tmp_path, OPENRLHF_CRITIC | {"n_samples_per_prompt": 1} | of_axolotl).tool == "OpenRLHF"
