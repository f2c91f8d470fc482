"""What `import-config` makes of verl's and OpenRLHF's configurations."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from likelier.cli.importing.verl import flattened
from likelier.utils.errors import ConfigError
from tests.cli.test_import_config import said
from tests.cli.test_import_online import imported
from tests.helpers.import_cases import OPENRLHF, VERL

ACTOR, ROLLOUT = "actor_rollout_ref.actor.", "actor_rollout_ref.rollout."


def test_a_whole_file_of_verl(tmp_path: Path) -> None:
    draft = imported(tmp_path, VERL)
    assert draft.tool == "verl"
    wanted = {"method": "grpo", "model": "m", "data": "train.parquet", "advantage": "std", "aggregation": "token"}
    wanted |= {"batch_size": 16, "answers_per_prompt": 5, "max_new_tokens": 256, "clip_dual": 3.0, "epochs": 3}
    wanted |= {"learning_rate": 2e-6, "scheduler": "constant", "report_to": "wandb", "save_steps": 20}
    assert {name: draft.options.get(name) for name in wanted} == wanted
    assert draft.trainer == {"weight_decay": 0.01}
    assert draft.accounted == set(flattened(VERL))
    assert "learnt from in pieces of 16" in said(draft) and "another signature" in said(draft)


def test_dotted_names_are_the_same_as_blocks(tmp_path: Path) -> None:
    assert imported(tmp_path, flattened(VERL)).options == imported(tmp_path, VERL).options


def test_references_to_other_names_are_resolved() -> None:
    found = flattened({"a": {"b": "${c.d}"}, "c": {"d": "${e}"}, "e": 7})
    assert found == {"a.b": 7, "c.d": 7, "e": 7}


@pytest.mark.parametrize(
    ("options", "expected", "words"),
    [
        ({f"{ACTOR}use_kl_loss": True}, {"kl_coefficient": 0.001, "kl_place": "loss"}, "plain k3"),
        (
            {"algorithm.use_kl_in_reward": True, "algorithm.kl_ctrl.kl_coef": 0.02},
            {"kl_coefficient": 0.02, "kl_place": "reward"},
            "",
        ),
        ({"algorithm.adv_estimator": "rloo"}, {"method": "rloo", "ratio": "token"}, ""),
        ({"algorithm.norm_adv_by_std_in_grpo": False}, {"advantage": "mean"}, ""),
        ({f"{ACTOR}loss_agg_mode": "seq-mean-token-sum-norm"}, {"aggregation": "constant"}, "the padded width"),
        (
            {f"{ACTOR}policy_loss.loss_mode": "gspo", f"{ACTOR}clip_ratio_low": 3e-4, f"{ACTOR}clip_ratio_high": 4e-4},
            {"method": "gspo", "clip_low": 3e-4, "clip_high": 4e-4, "clip_dual": None},
            "",
        ),
        (
            {"reward_model.overlong_buffer.enable": True, "reward_model.overlong_buffer.len": 64},
            {"overlong_cache": 0.25},
            "",
        ),
        ({"algorithm.filter_groups.enable": True}, {"refill": True}, ""),
        ({f"{ROLLOUT}top_p": 0.9}, {}, "whole distribution"),
        ({"trainer.total_training_steps": 10}, {"max_steps": 40}, "rollouts are counted there"),
        ({"data.prompt_key": "question"}, {"columns": {"prompt": "question"}}, ""),
        ({"actor_rollout_ref.model.lora_rank": 8}, {"lora_r": 8, "lora_alpha": 16}, ""),
    ],
)
def test_what_verl_says_otherwise(
    options: dict[str, Any], expected: dict[str, Any], words: str, tmp_path: Path
) -> None:
    draft = imported(tmp_path, flattened(VERL) | options)
    assert {name: draft.options.get(name) for name in expected} == expected
    assert words in said(draft)


@pytest.mark.parametrize(
    ("options", "expected", "words"),
    [
        ({}, {"method": "grpo", "advantage": "std", "batch_size": 16, "columns": {"prompt": "input"}}, ""),
        ({"advantage_estimator": "dr_grpo"}, {"method": "grpo", "advantage": "mean"}, ""),
        ({"advantage_estimator": "rloo"}, {"method": "rloo", "ratio": "token"}, ""),
        ({"init_kl_coef": 0.01}, {"kl_coefficient": 0.01, "kl_place": "reward"}, "token by token after it"),
        ({"init_kl_coef": 0.01, "use_kl_loss": True}, {"kl_place": "loss"}, "plain k3"),
        ({"eps_clip_low_high": [0.2, 0.27]}, {"clip_low": 0.2, "clip_high": 0.27}, ""),
        ({"reward_pretrain": "rm"}, {"reward": ["model:rm"]}, ""),
        ({"remote_rm_url": "reward.py"}, {}, "another protocol"),
        ({"rollout_batch_size": 64}, {"batch_size": 16}, "learnt from in pieces of 16"),
        ({"overlong_buffer_len": 256}, {"overlong_cache": 0.25}, ""),
        ({"vllm_num_engines": 4, "zero_stage": 3}, {}, "the policy itself writes"),
    ],
)
def test_what_openrlhf_says_otherwise(
    options: dict[str, Any], expected: dict[str, Any], words: str, tmp_path: Path
) -> None:
    draft = imported(tmp_path, OPENRLHF | options)
    assert draft.tool == "OpenRLHF" and draft.accounted == set(OPENRLHF | options)
    assert {name: draft.options.get(name) for name in expected} == expected
    assert words in said(draft)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (flattened(VERL) | {"algorithm.adv_estimator": "remax"}, "the nearest are gae, grpo and rloo"),
        (flattened(VERL) | {f"{ACTOR}policy_loss.loss_mode": "clip-cov"}, "has no counterpart"),
        (flattened(VERL) | {f"{ACTOR}use_kl_loss": True, "algorithm.use_kl_in_reward": True}, "in one place"),
        (flattened(VERL) | {f"{ACTOR}loss_agg_mode": "other"}, "known: token-mean"),
        (OPENRLHF | {"advantage_estimator": "reinforce"}, "REINFORCE++"),
        (OPENRLHF | {"n_samples_per_prompt": 0}, "n_samples_per_prompt: 0 must be at least 1"),
        (flattened(VERL) | {f"{ACTOR}ppo_mini_batch_size": 0}, "must be at least 1"),
        (OPENRLHF | {"agent_func_path": "agent.py"}, "several turns are not built"),
        ({"pretrain": "m", "beta": 0.1, "nll_loss_coef": 0.2, "dataset": "d"}, "nll_loss_coef as nll_weight"),
    ],
)
def test_what_is_another_method_is_refused(values: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        imported(tmp_path, values)
