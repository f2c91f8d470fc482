"""What `import-config` makes of runs that learn from their own answers."""

from __future__ import annotations

import dataclasses
import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml
from trl import GRPOConfig, RLOOConfig

from likelier.cli.importing import import_config
from likelier.cli.importing.common import Draft
from likelier.cli.importing.trl_online import LOSSES, NEAREST
from likelier.online.config import parse_online
from likelier.utils.errors import ConfigError
from tests.cli.test_import_config import said

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from trl.experimental.online_dpo import OnlineDPOConfig

TRL = {"model_name_or_path": "m", "dataset_name": "d.jsonl", "output_dir": "o", "reward_funcs": ["my.short"]}


def imported(tmp_path: Path, values: dict[str, Any], tool: str | None = None, **more: Any) -> Draft:
    path = tmp_path / "source.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return import_config(str(path), tool, **more)


def trl(tmp_path: Path, **options: Any) -> Draft:
    return imported(tmp_path, TRL | options)


ONLINE_DPO = (OnlineDPOConfig, "online_dpo")


@pytest.mark.parametrize(("config", "trainer"), [(GRPOConfig, "grpo"), (RLOOConfig, "rloo"), ONLINE_DPO])
def test_a_dump_of_trl_s_configuration_is_known_to_the_last_option(config: Any, trainer: str, tmp_path: Path) -> None:
    made = config(output_dir=str(tmp_path / "o"), use_cpu=True, bf16=False, report_to=[], activation_checkpointing=True)
    path = tmp_path / "config.json"
    path.write_text(made.to_json_string(), encoding="utf-8")
    draft = import_config(str(path))
    assert draft.options["method"] == trainer
    assert draft.accounted == set(json.loads(made.to_json_string()))
    assert not [note.keys for note in draft.notes if note.kind == "unknown"]


@pytest.mark.parametrize("config", [GRPOConfig, RLOOConfig])
def test_the_defaults_that_are_written_out_are_trl_s(config: Any, tmp_path: Path) -> None:
    trainer = config.__name__.removesuffix("Config").lower()
    options = imported(tmp_path, TRL, "trl", trainer=trainer).options
    theirs = {item.name: item.default for item in dataclasses.fields(config)}
    assert options["answers_per_prompt"] == theirs["num_generations"]
    assert options["max_new_tokens"] == theirs["max_completion_length"]
    assert options["updates_per_rollout"] == theirs["num_iterations"]
    assert options["learning_rate"] == theirs["learning_rate"]
    assert options.get("kl_coefficient", 0) == theirs["beta"]
    assert options["clip_low"] == options["clip_high"] == theirs["epsilon"] and theirs["epsilon_high"] is None
    assert options["epochs"] == theirs["num_train_epochs"]


def test_online_dpo_has_trl_s_defaults_and_options(tmp_path: Path) -> None:
    values = {**TRL, "reward_model_path": "runs/rm"}
    del values["reward_funcs"]
    draft = imported(tmp_path, values)
    theirs = {item.name: item.default for item in dataclasses.fields(OnlineDPOConfig)}
    options = draft.options
    assert (options["method"], options["preference_loss"], options["beta"]) == ("online_dpo", "dpo", 0.1)
    assert (options["reward"], options["answers_per_prompt"]) == (["model:runs/rm"], 2)
    assert options["max_prompt_length"] == theirs["max_length"] - theirs["max_new_tokens"]
    for name in ("max_new_tokens", "temperature", "learning_rate"):
        assert options[name] == theirs[name]
    assert "is skipped here" in said(draft)
    parse_online({name: value for name, value in options.items() if value is not None})
    given = {"loss_type": "ipo", "beta": [0.2, 0.1], "missing_eos_penalty": 1, "max_new_tokens": 32, "temperature": 1}
    draft = imported(tmp_path, values | given)
    expected = {"preference_loss": "ipo", "beta": 0.2, "truncated": "penalty", "missing_eos_penalty": 1}
    assert {name: draft.options[name] for name in expected} == expected
    assert "each epoch has its own" in said(draft)
    with pytest.raises(ConfigError, match="loss_type hinge is none of a pair of own answers"):
        imported(tmp_path, values | {"loss_type": "hinge"})


def test_every_loss_that_trl_documents_is_known() -> None:
    documented = set(
        re.findall(r"'([a-z_]+)'(?: \(default\))?: ", GRPOConfig.__dataclass_fields__["loss_type"].metadata["help"])
    )
    assert documented == LOSSES.keys() | NEAREST.keys()


@pytest.mark.parametrize(
    ("options", "expected", "words"),
    [
        ({"loss_type": "dapo"}, {"method": "grpo", "aggregation": "token", "advantage": "std"}, "the loss alone"),
        ({"loss_type": "bnpo"}, {"method": "grpo", "aggregation": "token"}, "each micro-batch is divided by its own"),
        ({"loss_type": "dr_grpo", "scale_rewards": False}, {"method": "dr_grpo", "advantage": "mean"}, ""),
        ({"scale_rewards": "batch"}, {"advantage": "mean"}, "which Adam undoes"),
        (
            {"loss_type": "cispo"},
            {"method": "cispo", "weight_high": None, "clip_low": None},
            "EVERY RATIO IS CLAMPED TO 0.2",
        ),
        ({"loss_type": "cispo", "epsilon_high": 5.0}, {"method": "cispo", "weight_high": 5.0}, ""),
        (
            {"loss_type": "grpo", "importance_sampling_level": "sequence"},
            {"method": "gspo", "clip_low": 0.05, "clip_high": 0.05, "aggregation": "sequence-mean"},
            "0.2 never holds",
        ),
        (
            {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4},
            {"method": "gspo", "clip_low": 3e-4, "clip_high": 4e-4},
            "",
        ),
        ({"beta": 0.04, "use_bias_correction_kl": False}, {"kl_coefficient": 0.04}, "the other direction's KL"),
        ({"delta": 4.0}, {"clip_dual": 4.0}, ""),
        ({"max_prompt_length": 64}, {"max_prompt_length": 64, "prompt_truncation": "cut-prompt-left"}, ""),
        ({"num_generations": 4, "per_device_train_batch_size": 6}, {"batch_size": 1}, "no whole number of prompts"),
        ({"num_generations": 4, "num_processes": 2}, {"batch_size": 4}, "2 processes"),
        ({"generation_batch_size": 32}, {}, "answers for 4 optimizer steps are written at once"),
        ({"reward_weights": [0.5]}, {"reward_weights": None}, "a single reward has the weight 1"),
        ({"reward_model_name_or_path": "rm"}, {"reward": ["model:rm", "my:short"]}, ""),
        ({"use_peft": True, "lora_r": 8, "lora_dropout": 0.1}, {"lora_r": 8, "lora_dropout": None}, "dropout"),
        ({"shuffle_dataset": False}, {"order": "file"}, ""),
        ({"top_k": 50, "repetition_penalty": 1.1}, {}, "whole distribution"),
    ],
)
def test_what_means_something_else_in_trl_is_translated_and_said(
    options: dict[str, Any], expected: dict[str, Any], words: str, tmp_path: Path
) -> None:
    draft = trl(tmp_path, **{"num_generations": 8} | options)
    assert {name: draft.options.get(name) for name in expected} == expected
    assert words in said(draft)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"loss_type": "sapo"}, "the nearest is dapo"),
        ({"loss_type": "nonsense"}, "known: dapo, bnpo, grpo"),
        ({"loss_type": "cispo", "importance_sampling_level": "sequence"}, "take one of them"),
        ({"entropy_coef": 0.01}, "no entropy is added"),
        ({"sync_ref_model": True}, "a fixed one"),
        ({"reward_clip_range": [-1, 1]}, "bound the reward in its function"),
        ({"reward_funcs": ["get_soft_overlong_punishment"]}, "overlong_cache"),
    ],
)
def test_what_would_be_another_method_is_refused(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        trl(tmp_path, **{"num_generations": 8} | options)
