"""Configurations of TRL, Axolotl and LLaMA-Factory become ours, and every option of theirs is accounted for."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import TrainingArguments
from trl import DPOConfig, KTOConfig, RewardConfig

from likelier.cli import importing
from likelier.cli import main as cli
from likelier.cli.importing import TOOLS, import_config
from likelier.cli.importing.common import Draft
from likelier.cli.importing.objectives import LOSSES
from likelier.cli.importing.text import note_lines, read_source, render
from likelier.objectives import METHODS, RewardModel, Scored
from likelier.online.config import parse_run
from likelier.training.config import parse, read_yaml
from likelier.utils.errors import ConfigError
from tests.helpers.import_cases import DIFFERENCES, NOTES, OPENRLHF, VERL
from tests.helpers.support import chat_pairs, labelled_rows, tiny_policy

with pytest.MonkeyPatch.context() as patch:
    patch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    from trl.experimental.cpo import CPOConfig, CPOTrainer
    from trl.experimental.orpo import ORPOConfig

CONFIGS = Path(__file__).parents[1] / "configs"
INFO = CONFIGS / "llamafactory" / "data"
FILES = sorted(file for file in CONFIGS.glob("*/*.*") if file.parent.name != "expected")


def said(draft: Draft) -> str:
    """All notes as one line of text, wherever they are wrapped."""
    return " ".join(" ".join(note_lines(draft)).split())


def written(draft: Draft, tmp_path: Path) -> Any:
    """What our reader makes of the rendered file."""
    path = tmp_path / "imported.yaml"
    path.write_text(render(draft), encoding="utf-8")
    return parse_run(read_yaml(str(path)))


def draft_of(tmp_path: Path, content: dict[str, Any] | str, tool: str | None = None, **more: Any) -> Draft:
    path = tmp_path / "source.yaml"
    text = content if isinstance(content, str) else yaml.safe_dump(content)
    path.write_text(text, encoding="utf-8")
    return import_config(str(path), tool, **more)


def trl(tmp_path: Path, **options: Any) -> Draft:
    needed = {"model_name_or_path": "m", "dataset_name": "d.jsonl", "output_dir": "o"}
    return draft_of(tmp_path, needed | options, "trl")


def axolotl(tmp_path: Path, **options: Any) -> Draft:
    needed = {"base_model": "m", "datasets": [{"path": "d.jsonl", "ds_type": "json"}], "learning_rate": "1e-6"}
    return draft_of(tmp_path, needed | {"rl": "dpo"} | options, "axolotl")


def factory(tmp_path: Path, **options: Any) -> Draft:
    needed = {"model_name_or_path": "m", "dataset": "someone/d", "dataset_dir": "ONLINE", "stage": "dpo"}
    return draft_of(tmp_path, needed | options, "llama-factory")


def verl(tmp_path: Path, **options: Any) -> Draft:
    return draft_of(tmp_path, importing.verl.flattened(VERL) | options, "verl")


def openrlhf(tmp_path: Path, **options: Any) -> Draft:
    return draft_of(tmp_path, OPENRLHF | options, "openrlhf")


BARE = {"model_name_or_path": "m", "dataset_name": "d.jsonl", "output_dir": "o"}
TOOL_OF = {"trl": trl, "axolotl": axolotl, "llama-factory": factory, "verl": verl, "openrlhf": openrlhf}


def refused(tool: str, tmp_path: Path, **options: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        TOOL_OF[tool](tmp_path, **options)
    assert str(tmp_path / "source.yaml") in str(caught.value)
    return str(caught.value)


# --- whole files ---------------------------------------------------------------------------------------------------


def name_of(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


def test_every_tool_has_at_least_four_files() -> None:
    assert sorted(map(name_of, FILES)) == sorted(NOTES)
    assert all(sum(file.parent.name == tool for file in FILES) >= 4 for tool in ("trl", "axolotl", "llamafactory"))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_becomes_exactly_this(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CONFIGS.parents[1])
    expected = CONFIGS / "expected" / f"{path.parent.name}-{path.stem}.yaml"
    draft = import_config(str(path.relative_to(CONFIGS.parents[1])))
    assert yaml.safe_load(render(draft)) == yaml.safe_load(expected.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_what_is_written_is_what_our_reader_makes_of_it(path: Path, tmp_path: Path) -> None:
    draft = import_config(str(path))
    again = written(draft, tmp_path)
    assert again == parse_run(draft.options | {"trainer": draft.trainer})
    assert again.run.method == draft.options["method"]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_key_is_translated_or_named_in_a_note(path: Path) -> None:
    draft = import_config(str(path))
    assert draft.accounted == set(read_source(str(path)))
    header = render(draft).split("\n\n", 1)[0]
    for key in draft.accounted - draft.translated:
        assert re.search(rf"\b{key}\b", header), key
    assert all(line.startswith("#") for line in header.splitlines())


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_the_notes_say_what_differs(path: Path) -> None:
    draft = import_config(str(path))
    for key, text in NOTES[name_of(path)].items():
        own = [note for note in draft.notes if key in note.keys]
        assert any(text in note.text for note in own), (key, own)
        assert key in said(draft)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_the_tool_is_recognised_from_the_keys(path: Path) -> None:
    tool = {"llamafactory": "LLaMA-Factory", "axolotl": "Axolotl", "trl": "TRL"}[path.parent.name]
    assert import_config(str(path)).tool == tool


# --- TRL -----------------------------------------------------------------------------------------------------------


def test_the_defaults_written_for_trl_are_those_of_the_installed_trl(tmp_path: Path) -> None:
    options = trl(tmp_path).options
    theirs = DPOConfig(output_dir=str(tmp_path), activation_checkpointing=True, use_cpu=True)
    assert options["beta"] == theirs.beta
    assert options["learning_rate"] == theirs.learning_rate
    assert options["epochs"] == theirs.num_train_epochs
    assert options["batch_size"] == theirs.per_device_train_batch_size * theirs.gradient_accumulation_steps
    assert options["scheduler"] == theirs.lr_scheduler_type.value
    assert options["warmup"] == theirs.warmup_steps
    assert options["max_length"] == theirs.max_length
    assert theirs.truncation_mode == "keep_start" and options["truncation"] == "cut-answer-right"
    assert theirs.weight_decay == 0 and theirs.max_grad_norm == 1 and theirs.disable_dropout


def test_the_defaults_of_kto_and_cpo_are_those_of_the_installed_trl(tmp_path: Path) -> None:
    kto, theirs = (
        trl(tmp_path, loss_type="kto").options,
        KTOConfig(output_dir=str(tmp_path), activation_checkpointing=True, use_cpu=True),
    )
    names = ("beta", "desirable_weight", "undesirable_weight", "learning_rate", "max_length")
    assert [kto[name] for name in names] == [getattr(theirs, name) for name in names]
    simpo, cpo = (
        trl(tmp_path, loss_type="simpo").options,
        CPOConfig(output_dir=str(tmp_path), activation_checkpointing=True, use_cpu=True),
    )
    assert simpo["beta"] == cpo.beta and simpo["gamma_beta_ratio"] * simpo["beta"] == pytest.approx(cpo.simpo_gamma)
    assert simpo["nll_weight"] == cpo.cpo_alpha


def test_every_loss_that_trl_documents_is_known() -> None:
    documented = set(re.findall(r"'([a-z_]+)'", DPOConfig.__dataclass_fields__["loss_type"].metadata["help"]))
    assert documented <= set(LOSSES["dpo"])
    assert set(CPOConfig.__dataclass_fields__["loss_type"].metadata["choices"]) == set(LOSSES["cpo"])


@pytest.mark.parametrize("beta", [0.1, 2.5])
def test_imported_simpo_has_the_loss_of_trls_trainer(beta: float, tmp_path: Path) -> None:
    options = {"loss_type": "simpo", "beta": beta, "simpo_gamma": 0.7, "label_smoothing": 0.1, "cpo_alpha": 0.0}
    ours = written(trl(tmp_path, **options), tmp_path).objective
    chosen, rejected, lengths = -3 * torch.rand(8, 1).double(), -3 * torch.rand(8, 1).double(), torch.arange(1, 17)
    theirs = SimpleNamespace(**options, alpha=0.0, accelerator=SimpleNamespace(device="cpu"))
    expected = CPOTrainer.cpo_loss(theirs, chosen[:, 0], rejected[:, 0])[0]
    logps = torch.cat([chosen, rejected], 1).flatten() * lengths
    found = ours.losses(Scored.of(logps, lengths, pairs=torch.arange(16).reshape(8, 2)))
    assert torch.allclose(found, expected, rtol=1e-6)


def test_a_reward_model_of_trl(tmp_path: Path) -> None:
    """Its defaults are those of the installed TRL; rows that are too long are left out there as well."""
    theirs = RewardConfig(output_dir=str(tmp_path), activation_checkpointing=True, use_cpu=True)
    for found in (trl(tmp_path, center_rewards_coefficient=None), draft_of(tmp_path, BARE, "trl", trainer="reward")):
        options = found.options
        assert options["method"] == "reward" and "center_weight" not in options and "beta" not in options
        assert options["learning_rate"] == theirs.learning_rate and options["max_length"] == theirs.max_length
        assert options["truncation"] == "drop" and theirs.center_rewards_coefficient is None
    assert written(trl(tmp_path, center_rewards_coefficient=0.01), tmp_path).objective == RewardModel(
        center_weight=0.01
    )
    assert "has one loss" in refused("trl", tmp_path, center_rewards_coefficient=0.01, loss_type="sigmoid")


def test_a_reward_model_begins_with_no_adapter_of_llama_factory(tmp_path: Path) -> None:
    draft = factory(tmp_path, stage="rm", adapter_name_or_path="saves/sft", ref_model="m")
    assert draft.options["model"] == "./name-your-model" and "reference" not in draft.options
    assert "merge them" in said(draft) and "a reward model has no reference" in said(draft)


@pytest.mark.parametrize("config", [DPOConfig, KTOConfig, CPOConfig, ORPOConfig, RewardConfig])
def test_no_option_of_trls_own_is_unknown(config: Any, tmp_path: Path) -> None:
    """Every field that TRL adds to, or changes in, transformers' arguments is known to the importer."""
    own = {
        name for part in config.__mro__ if part.__module__.startswith("trl") for name in vars(part)["__annotations__"]
    }
    own = {name for name in own if not name.startswith("_")}
    values = {item.name: item.default for item in dataclasses.fields(config) if item.name in own}
    values = {name: value for name, value in values.items() if not isinstance(value, type(dataclasses.MISSING))}
    draft = trl(tmp_path, **values | {"dataset_num_proc": 2, "pad_token": "<pad>", "loss_type": first_loss(config)})
    assert not [note.keys for note in draft.notes if note.kind == "unknown"]


@pytest.mark.parametrize("tool", ["trl", "llama-factory"])
def test_no_training_argument_of_transformers_is_unknown(tool: str, tmp_path: Path) -> None:
    unknown = []
    for item in dataclasses.fields(TrainingArguments):
        try:
            draft = TOOL_OF[tool](tmp_path, **{item.name: 1})
        except ConfigError:  # known well enough to be refused
            continue
        unknown += [key for note in draft.notes if note.kind == "unknown" for key in note.keys]
    assert unknown == []


def first_loss(config: Any) -> str | None:
    return {DPOConfig: "sigmoid", KTOConfig: "kto", CPOConfig: "simpo", ORPOConfig: "orpo"}.get(config)


@pytest.mark.parametrize("loss", [name for name, one in LOSSES["dpo"].items() if one.method])
def test_a_loss_of_trls_that_we_have_is_imported(loss: str, tmp_path: Path) -> None:
    draft = trl(tmp_path, loss_type=loss)
    assert draft.options["method"] == LOSSES["dpo"][loss].method in METHODS
    assert written(draft, tmp_path).run.method == LOSSES["dpo"][loss].method


@pytest.mark.parametrize("loss", [name for name, one in LOSSES["dpo"].items() if not one.method])
def test_a_loss_of_trls_that_we_do_not_have_is_refused_with_the_nearest(loss: str, tmp_path: Path) -> None:
    message = refused("trl", tmp_path, loss_type=loss)
    assert f"loss_type {loss} has no counterpart; the nearest here is" in message
    assert any(method in message.split("nearest")[1] for method in METHODS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss_type": ["sigmoid", "kto_pair", "sft"]}, "loss_type kto_pair has no counterpart"),
        ({"loss_type": ["sigmoid", "ipo", "ipo"]}, "one stands there twice; add up its weights"),
        ({"loss_type": ["aot", "aot_pair"]}, "two of them are aot here"),
        ({"loss_type": ["sigmoid", "ipo"], "loss_weights": [1, 0]}, "the weight of ipo is 0; it must be above 0"),
        ({"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0]}, "1 weights for 2 losses"),
        ({"loss_type": ["sigmoid", "sft"], "loss_weights": [0.0, 1.0]}, "must be above 0"),
        ({"loss_type": "apo_zero_unpaired"}, "the nearest here is apo_zero"),
        (
            {"loss_type": "hinge", "cpo_alpha": 1.0},
            "the nearest here is slic with delta 1 / beta",
        ),
        ({"loss_type": "ipo", "cpo_alpha": 1.0}, "the nearest here is cpo, or ipo"),
        (
            {"loss_type": "sigmoid", "cpo_alpha": 1.0, "alpha": 0.5},
            "alpha: 0.5 with loss_type sigmoid has no counterpart",
        ),
        ({"loss_type": "sigmoid", "cpo_alpha": 1.0, "label_smoothing": 0.1}, "with cpo has no counterpart"),
        ({"loss_type": "alphapo", "alpha": 0.5, "label_smoothing": 0.1}, "with alphapo has no counterpart"),
        ({"loss_type": "nonsense"}, "known of dpo: sigmoid, hinge"),
        ({"loss_type": "cpo"}, "the nearest here is the method cpo"),
        ({"f_divergence_type": "chi"}, "f_divergence_type: 'chi' is unknown; known: reverse_kl, forward_kl"),
        ({"f_divergence_type": ["chi"]}, "is unknown; known: reverse_kl, forward_kl"),
        ({"f_divergence_type": "js_divergence", "loss_type": "hinge"}, "the nearest here is f_dpo"),
        ({"f_divergence_type": "js_divergence", "loss_type": "kto"}, "an option of DPO's"),
        ({"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 1.5}, "1.5 has no counterpart"),
        ({"ld_alpha": 0.5, "loss_type": "hinge"}, "the nearest here is ld_dpo"),
        ({"ld_alpha": 0.5, "use_weighting": True}, "ld_alpha with wpo has no counterpart"),
        ({"ld_alpha": 0.5, "loss_type": "kto"}, "an option of DPO's"),
        ({"use_weighting": True, "loss_type": "hinge"}, "the nearest here is wpo"),
        ({"use_weighting": True, "loss_type": "kto"}, "an option of DPO's"),
        ({"reference_free": True}, "cpo with nll_weight: 0"),
        ({"packing": True}, "another TRL command"),
        ({"assistant_only_loss": True}, "another TRL command"),
        ({"lr_scheduler_type": "zigzag"}, "no schedule known here"),
        ({"learning_rate": "fast"}, "learning_rate: 'fast' is not a number"),
        ({"gradient_accumulation_steps": 1.5}, "not a whole number"),
        ({"loss_type": "ipo", "beta": 0}, "beta above 0"),
        ({"loss_type": "simpo", "beta": 0}, "beta above 0"),
        ({"beta": -1}, "translated, it would not run: dpo: beta=-1"),
        ({"lora_target_modules": 3, "use_peft": True}, "neither a name nor a list"),
        ({"dataset_mixer": "x"}, "must be a block"),
        ({"datasets": [{"name": "x"}]}, "a data set has path None"),
        ({"gradient_checkpointing": "some"}, "neither true nor false"),
    ],
)
def test_what_would_be_another_method_is_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    assert message in refused("trl", tmp_path, **options)


@pytest.mark.parametrize(
    ("tool", "options", "ours", "text"),
    DIFFERENCES,
    ids=[f"{one[0]}-{number}" for number, one in enumerate(DIFFERENCES)],
)
def test_a_difference_is_translated_and_said(
    tool: str, options: dict[str, Any], ours: dict[str, Any], text: str, tmp_path: Path
) -> None:
    draft = TOOL_OF[tool](tmp_path, **options)
    assert {name: draft.options.get(name) for name in ours} == ours
    assert text in said(draft)
    assert draft.accounted >= options.keys()
    written(draft, tmp_path)


_JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 40),
    st.floats(-1, 3),
    st.sampled_from(
        ["", "no", "x", "1e-4", "auto", "steps", "epoch", "a/b", "q_proj,v_proj", "cosine", "sigmoid", "lora"]
    ),
    st.lists(st.sampled_from(["sigmoid", "sft", "a.jsonl", 0.5, 3]), max_size=2),
    st.dictionaries(
        st.sampled_from(["path", "beta", "weight", "a/b", "data_files"]), st.sampled_from(["x", 0.5, 2]), max_size=2
    ),
)
_ACTOR = "actor_rollout_ref.actor."
VERL_KEYS = {
    *importing.verl.flattened(VERL),
    *(_ACTOR + name for name in ("clip_ratio", "clip_ratio_c", "loss_agg_mode", "use_kl_loss", "kl_loss_coef")),
    *(_ACTOR + name for name in ("ppo_epochs", "grad_clip", "entropy_coeff", "policy_loss.loss_mode")),
    *("algorithm.use_kl_in_reward", "algorithm.kl_ctrl.kl_coef", "data.truncation", "data.prompt_key"),
    *("reward_model.enable", "reward_model.overlong_buffer.len", "custom_reward_function.path", "ray_init.num_cpus"),
    *("actor_rollout_ref.model.lora_rank", "trainer.total_training_steps", "actor_rollout_ref.rollout.top_p"),
}
_KEYS = {
    tool: sorted({*rules, *(key for file in FILES if file.parent.name == folder for key in read_source(str(file)))})
    for tool, folder, rules in (
        ("trl", "trl", importing.trl.RULES),
        ("axolotl", "axolotl", importing.axolotl.RULES),
        ("llama-factory", "llamafactory", importing.llamafactory.RULES),
        ("verl", "", VERL_KEYS),
        ("openrlhf", "", {**importing.openrlhf.RULES, **OPENRLHF, "kl_estimator": 0, "use_kl_loss": 0, "lora_rank": 0}),
    )
}


@pytest.mark.slow
@pytest.mark.parametrize("tool", TOOLS)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_stands_in_a_file_is_accounted_for_or_bad_input(
    tool: str, tmp_path: Path, data: st.DataObject
) -> None:
    options = data.draw(st.dictionaries(st.sampled_from(_KEYS[tool]), _JUNK, max_size=4))
    try:
        draft = TOOL_OF[tool](tmp_path, **options)
    except ConfigError:
        return
    named = importing.verl.flattened(options) if tool == "verl" else options  # a block there is names with dots
    assert draft.accounted >= named.keys()
    written(draft, tmp_path)


def test_a_secret_is_not_repeated(tmp_path: Path) -> None:
    draft = trl(tmp_path, hub_token="hf_abcdef", env={"HF_TOKEN": "hf_ghijkl"})
    assert "hf_" not in render(draft)


def test_the_trainer_can_be_named_where_the_file_does_not_say_it(tmp_path: Path) -> None:
    source = {"model_name_or_path": "m", "dataset_name": "d.jsonl", "beta": 0.3}
    assert draft_of(tmp_path, source, trainer="kto").options["method"] == "kto"
    assert "does not say for which trainer" not in said(draft_of(tmp_path, source, trainer="dpo"))
    assert draft_of(tmp_path, source, trainer="cpo").options["method"] == "cpo"
    assert draft_of(tmp_path, source, trainer="orpo").options["method"] == "orpo"
    with pytest.raises(ConfigError, match="loss_type sigmoid has no counterpart; known of orpo: orpo"):
        draft_of(tmp_path, source | {"loss_type": "sigmoid"}, trainer="orpo")
    with pytest.raises(ConfigError, match="--trainer is about TRL's files"):
        draft_of(tmp_path, {"base_model": "m", "rl": "dpo"}, trainer="dpo")


# --- Axolotl and LLaMA-Factory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tool", "options", "message"),
    [
        ("axolotl", {"rl": "grpo"}, "the nearest here is the method grpo"),
        ("axolotl", {"rl": None}, "rl is missing"),
        ("axolotl", {"rl": "magic"}, "known: dpo, ipo, kto, simpo, orpo"),
        ("axolotl", {"learning_rate": None}, "learning_rate is missing"),
        ("axolotl", {"dpo_use_weighting": True, "rl": "ipo"}, "WPO"),
        ("axolotl", {"reward_model": True}, "rl: dpo and reward_model"),
        ("axolotl", {"process_reward_model": True}, "a reward for each step of an answer"),
        ("axolotl", {"center_rewards_coefficient": 0.01}, "it is about reward_model: true"),
        ("axolotl", {"adapter": "llama-adapter"}, "adapter: 'llama-adapter' has no counterpart"),
        ("axolotl", {"dpo_loss_type": ["kto_pair"]}, "the nearest here is kto"),
        ("axolotl", {"dpo_norm_loss": True, "dpo_loss_type": ["hinge"]}, "dpo_norm_loss"),
        ("axolotl", {"excess_length_strategy": "fold"}, "known: drop, truncate, raise"),
        ("axolotl", {"datasets": ["a/b"]}, "must be a block"),
        ("llama-factory", {"stage": "sft"}, "stage: sft is no preference training; known: dpo, kto, rm"),
        ("llama-factory", {"pref_loss": "kto_pair"}, "the nearest here is kto"),
        ("llama-factory", {"pref_bco_weight": 0.5, "pref_loss": "ipo"}, "BCO of mean log-ratios"),
        ("llama-factory", {"pref_bco_weight": -0.5}, "must be above 0"),
        ("llama-factory", {"ld_alpha": 0.5, "pref_loss": "hinge"}, "LD-DPO"),
        ("llama-factory", {"finetuning_type": "freeze"}, "the nearest is lora, or full"),
        ("llama-factory", {"stage": "kto", "pref_ftx": 0.5}, "dpo with nll_weight"),
    ],
)
def test_other_tools_methods_that_are_not_here_are_refused(
    tool: str, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    assert message in refused(tool, tmp_path, **options)


def test_what_is_missing_stops_the_run_and_is_said(tmp_path: Path) -> None:
    draft = draft_of(tmp_path, {"rl": "dpo", "learning_rate": 1e-6, "micro_batch_size": 2})
    assert (draft.options["model"], draft.options["data"]) == ("./name-your-model", "./name-your-data.jsonl")
    assert said(draft).startswith("To be filled in before this can run: model: the source names none")


@pytest.mark.parametrize(
    ("name", "data", "text"),
    [
        ("own_pairs", "own_pairs.jsonl", ""),
        ("english_mix", [{"path": "somebody/mixed-pairs", "subset": "en"}], "num_samples: all rows are taken"),
        ("english_mix", [{"path": "somebody/mixed-pairs", "subset": "en"}], "better to chosen, worse to rejected"),
        ("english_mix", [{"path": "somebody/mixed-pairs", "subset": "en"}], "images: only text"),
        ("alpaca_pairs", "alpaca_pairs.json", "only messages get one"),
        ("elsewhere", "./elsewhere", "a place that is not known here"),
        ("unregistered", "./unregistered", "does not have it"),
    ],
)
def test_llama_factorys_names_are_looked_up_in_its_registry(
    name: str, data: Any, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(INFO)
    draft = factory(tmp_path, dataset=name, dataset_dir=".")
    assert draft.options["data"] == data
    assert text in said(draft)


def test_a_registry_that_is_not_there_is_said_and_a_broken_one_is_an_error(tmp_path: Path) -> None:
    draft = factory(tmp_path, dataset="pairs", dataset_dir="data")
    assert draft.options["data"] == "./pairs" and "no dataset_info.json was found in data" in said(draft)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset_info.json").write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"dataset_info.json:1: broken JSON"):
        factory(tmp_path, dataset="pairs", dataset_dir="data")


# --- files that cannot be taken --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("beta: [1\nrl: dpo\n", "line 2"),
        ("beta: 1\nbeta: 2\n", "source.yaml:2: beta stands there for the second time"),
        ("- a\n- b\n", "expected names and values"),
        ("learning_rate: 1\nseed: 3\n", "no option that tells whose configuration it is"),
        ("rl: dpo\nstage: dpo\n", "options of several tools (axolotl: rl; llama-factory: stage)"),
        ("method: dpo\nmodel: m\nbeta: 0.1\n", "it is a run file of likelier already"),
    ],
)
def test_a_file_that_is_broken_or_of_no_tool_is_refused_by_name(content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        draft_of(tmp_path, content)
    assert message in str(caught.value) and "source.yaml" in str(caught.value)


def test_broken_json_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "source.json"
    path.write_text('{\n"stage": "dpo",\n}', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"source.json:3: broken JSON"):
        import_config(str(path))
    path.write_text("[]", encoding="utf-8")
    with pytest.raises(ConfigError, match="expected names and values, found list"):
        import_config(str(path))
    with pytest.raises(ConfigError, match="cannot be read"):
        import_config(str(tmp_path / "absent.json"))
    path.write_bytes(b'{"stage": "\xe9"}')
    with pytest.raises(ConfigError, match="not UTF-8"):
        import_config(str(path))


def test_json_and_yaml_of_the_same_options_are_the_same(tmp_path: Path) -> None:
    values = {"base_model": "m", "rl": "dpo", "learning_rate": 1e-5, "datasets": [{"path": "a/b"}]}
    path = tmp_path / "source.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    assert import_config(str(path)).options == draft_of(tmp_path, values).options


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_writes_to_a_file_or_to_standard_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = str(CONFIGS / "trl" / "ipo-minimal.yaml"), tmp_path / "ours.yaml"
    assert cli.main(["import-config", source]) == 0
    shown = capsys.readouterr()
    assert "AT EVERY TOKEN" in shown.err and parse(yaml.safe_load(shown.out)).run.method == "ipo"
    assert cli.main(["import-config", source, "--from", "trl", "--output", str(output)]) == 0
    assert output.read_text(encoding="utf-8") == shown.out
    assert f"written: {output}" in capsys.readouterr().err


def test_the_command_overwrites_nothing_and_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "source.yaml"
    source.write_text("rl: ebft\nbase_model: m\n", encoding="utf-8")
    assert cli.main(["import-config", str(source), "--output", str(source)]) == 2
    assert "would be overwritten" in capsys.readouterr().err
    assert cli.main(["import-config", str(source)]) == 2
    assert "ebft has no counterpart" in capsys.readouterr().err
    good = str(CONFIGS / "trl" / "ipo-minimal.yaml")
    assert cli.main(["import-config", good, "--output", str(tmp_path / "no" / "folder.yaml")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_the_command_offers_every_tool() -> None:
    for tool in TOOLS:
        with pytest.raises(SystemExit):
            cli.main(["import-config", "--from", tool])
    with pytest.raises(SystemExit):
        cli.main(["import-config", "x.yaml", "--from", "nanotron"])


# --- from one end to the other ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    policy = tiny_policy(dtype=torch.float32)
    policy.model.save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)
    return str(folder)


def _messages(content: Any) -> list[dict[str, str]]:
    return [{"role": part.role, "content": part.content} for part in content]


def _write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def _imported_and_trained(tmp_path: Path, name: str, changes: dict[str, Any]) -> dict[str, Any]:
    """Import one of the files with some options changed (None takes one out), train with it, give the run's card."""
    values = {**read_source(str(CONFIGS / name)), **changes}
    source, ours = tmp_path / "source.yaml", tmp_path / "ours.yaml"
    kept = {key: value for key, value in values.items() if key in values and value is not None}
    source.write_text(yaml.safe_dump(kept), encoding="utf-8")
    assert cli.main(["import-config", str(source), "--output", str(ours)]) == 0
    assert cli.main(["train", str(ours)]) == 0
    return json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_an_imported_trl_file_trains(tmp_path: Path, model: str) -> None:
    names = ("prompt", "chosen", "rejected")
    rows = [{name: _messages(getattr(pair, name)) for name in names} for pair in chat_pairs(12)]
    changes = {"model_name_or_path": model, "dataset_name": _write(tmp_path / "pairs.jsonl", rows), "cpo_alpha": 0.2}
    changes |= {"output_dir": str(tmp_path / "run"), "max_steps": 2, "gradient_accumulation_steps": 4, "bf16": False}
    card = _imported_and_trained(tmp_path, "trl/simpo.yaml", changes)
    assert (card["status"], card["steps"], card["method"]) == ("done", 2, "simpo")
    assert card["hyperparameters"]["gamma_beta_ratio"] == 0.5 and card["hyperparameters"]["nll_weight"] == 0.2


@pytest.mark.slow
def test_an_imported_axolotl_file_trains(tmp_path: Path, model: str) -> None:
    rows = [
        {"prompt": _messages(row.prompt), "completion": _messages(row.answer), "label": row.desirable}
        for row in labelled_rows(16)
    ]
    entry = {"path": _write(tmp_path / "labels.jsonl", rows), "ds_type": "json"}
    changes = {"base_model": model, "datasets": [entry], "output_dir": str(tmp_path / "run"), "max_steps": 2}
    changes |= {"batch_size": 8, "hub_model_id": None, "lora_r": 4}
    card = _imported_and_trained(tmp_path, "axolotl/kto-lora.yml", changes)
    assert (card["status"], card["steps"], card["method"]) == ("done", 2, "kto")
    assert card["hyperparameters"] == {"beta": 0.5, "desirable_weight": 0.2, "undesirable_weight": 1.0}


@pytest.mark.slow
def test_an_imported_llama_factory_file_trains(tmp_path: Path, model: str) -> None:
    rows = [
        {
            "conversations": [{"from": "human", "value": pair.prompt[0].content}],
            "chosen": {"from": "gpt", "value": pair.chosen[0].content},
            "rejected": {"from": "gpt", "value": pair.rejected[0].content},
        }
        for pair in chat_pairs(12)
    ]
    (tmp_path / "data").mkdir()
    _write(tmp_path / "data" / "pairs.jsonl", rows)
    columns = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"}
    info = {"pairs": {"file_name": "pairs.jsonl", "ranking": True, "formatting": "sharegpt", "columns": columns}}
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    changes = {"model_name_or_path": model, "dataset": "pairs", "enable_thinking": None, "bf16": False}
    changes |= {"output_dir": str(tmp_path / "run"), "max_steps": 2, "gradient_accumulation_steps": 4, "val_size": 0.25}
    card = _imported_and_trained(tmp_path, "llamafactory/dpo-lora.yaml", changes)
    assert (card["status"], card["steps"], card["method"]) == ("done", 2, "dpo")
    assert card["hyperparameters"] == {"beta": 0.1, "label_smoothing": 0.1, "nll_weight": 0.2}


@pytest.mark.parametrize(
    ("options", "how", "mix", "every"),
    [
        ({}, "soft", 0.6, 512),
        ({"ref_model_mixup_alpha": 0.3, "ref_model_sync_steps": 64}, "soft", 0.3, 64),
        ({"ref_model_mixup_alpha": 1.0, "loss_type": "ipo"}, "hard", None, 512),
    ],
)
def test_a_reference_that_moves_keeps_its_share_and_interval(
    tmp_path: Path, options: dict[str, Any], how: str, mix: float | None, every: int
) -> None:
    training = written(trl(tmp_path, sync_ref_model=True, **options), tmp_path).training
    assert (training.reference_moves, training.reference_mix, training.reference_every) == (how, mix, every)


def test_a_reference_that_moves_beside_an_adapter_is_told_as_a_difference(tmp_path: Path) -> None:
    draft = trl(tmp_path, sync_ref_model=True, use_peft=True)
    assert "TRL does not move a reference beside an adapter; here it is the base with a second adapter" in said(draft)
    stays = trl(tmp_path, ref_model_mixup_alpha=0.3)
    assert "reference_moves" not in stays.options and "without effect there" in said(stays)
