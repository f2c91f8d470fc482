"""Options: YAML = flags = dataclasses; nothing unknown, inert or of the wrong type gets through."""

from __future__ import annotations

import argparse
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from transformers import TrainingArguments

from likelier.cli import main as cli
from likelier.cli.flags import add_run_flags
from likelier.models.options import LoraOptions
from likelier.objectives import DPO, IPO, KTO, METHODS, SimPO
from likelier.training.arguments import LORA_RATE_FACTOR, learning_rate, training_arguments
from likelier.training.config import SECTIONS, RunConfig, RunOptions, hyperparameter_fields, parse, read_yaml
from likelier.training.options import TrainingOptions
from likelier.training.trainer_block import OURS, check_trainer_block
from likelier.utils.distributed import ALONE
from likelier.utils.errors import ConfigError
from tests.helpers.methods import CHOSEN, usual
from tests.helpers.support import lora_policy, tiny_policy

NEEDED = {"model": "m", "data": "d.jsonl", "output": "runs/a"}


def parsed(**values: Any) -> RunConfig:
    return parse({**NEEDED, **values})


def refused(**values: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        parsed(**values)
    return str(caught.value)


def from_yaml(tmp_path: Path, text: str) -> RunConfig:
    path = tmp_path / "run.yaml"
    path.write_text("model: m\ndata: d.jsonl\noutput: runs/a\n" + text, encoding="utf-8")
    return parse(read_yaml(str(path)))


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(allow_abbrev=False)
    add_run_flags(found)
    return found


def from_flags(*words: str) -> RunConfig:
    return parse(vars(parser().parse_args(["--model", "m", "--data", "d.jsonl", "--output", "runs/a", *words])))


# --- three ways to say the same ------------------------------------------------------------------------------------

SAME: list[tuple[str, list[str], RunConfig]] = [
    ("", [], RunConfig(RunOptions(**NEEDED), DPO())),
    (
        "method: ipo\ntau: 0.5\nlength_normalize: false\n",
        ["--method", "ipo", "--tau", "0.5", "--no-length-normalize"],
        RunConfig(RunOptions(method="ipo", **NEEDED), IPO(tau=0.5, length_normalize=False)),
    ),
    (
        "method: kto\nbeta: 0.2\ndesirable-weight: 1.5\nlearning-rate: 5e-6\nbatch_size: 64\n",
        ["--method=kto", "--beta=0.2", "--desirable-weight=1.5", "--learning-rate=5e-6", "--batch-size=64"],
        RunConfig(
            RunOptions(method="kto", **NEEDED),
            KTO(beta=0.2, desirable_weight=1.5),
            training=TrainingOptions(learning_rate=5e-6, batch_size=64),
        ),
    ),
    (
        "lora_r: 8\nlora_alpha: 32\nmax_steps: 10\ngroup_by: prompt\ntruncation: cut-prompt-left\nresume: true\n",
        [
            *("--lora-r", "8", "--lora-alpha", "32", "--max-steps", "10", "--group-by", "prompt"),
            *("--truncation", "cut-prompt-left", "--resume"),
        ],
        RunConfig(
            RunOptions(resume=True, **NEEDED),
            DPO(),
            LoraOptions(lora_r=8, lora_alpha=32.0),
            TrainingOptions(max_steps=10, group_by="prompt", truncation="cut-prompt-left"),
        ),
    ),
]


@pytest.mark.parametrize(("text", "words", "expected"), SAME)
def test_yaml_flags_and_dataclasses_say_the_same(
    tmp_path: Path, text: str, words: list[str], expected: RunConfig
) -> None:
    assert from_yaml(tmp_path, text) == expected
    assert from_flags(*words) == expected


def test_flags_win_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[RunConfig] = []
    monkeypatch.setattr("likelier.experiments.watched.train_watched", seen.append)
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({**NEEDED, "batch-size": 4, "beta": 0.3}), encoding="utf-8")
    assert cli.main(["train", str(path), "--batch-size", "8"]) == 0
    assert (seen[0].training.batch_size, seen[0].objective) == (8, DPO(beta=0.3))


def option_names() -> set[str]:
    own = {item.name for section in SECTIONS for item in fields(section) if item.metadata.get("flag", True)}
    return own | set(hyperparameter_fields())


def options_in_a_sum() -> set[str]:
    return {f"{method}.{name}" for name, owners in hyperparameter_fields().items() for method in owners}


def test_every_flag_is_a_field_and_every_field_a_flag() -> None:
    actions = [action for action in parser()._actions if action.dest != "help"]
    assert {action.dest for action in actions} == option_names() | options_in_a_sum()
    for action in actions:
        assert action.option_strings[0] == "--" + action.dest.replace("_", "-")
        assert action.default == argparse.SUPPRESS and action.help


def test_no_name_belongs_to_two_sections() -> None:
    names = [item.name for section in SECTIONS for item in fields(section)]
    assert len(names) == len(set(names))
    assert not set(names) & set(hyperparameter_fields())


def test_the_help_shows_every_flag_with_the_methods_own_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for name in option_names():
        assert "--" + name.replace("_", "-") in shown
    assert "simpo 2.0" in shown and "sigmoid_norm 5.0" in shown and "ipo from the data" in shown


# --- numbers and types ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "value"), [("5e-6", 5e-6), ("1e-05", 1e-5), ("0.001", 0.001), ("1", 1.0)])
def test_a_number_in_yaml_is_a_number_however_it_is_written(tmp_path: Path, text: str, value: float) -> None:
    found = from_yaml(tmp_path, f"learning_rate: {text}\n").training.learning_rate
    assert found == value and isinstance(found, float)


@pytest.mark.slow
@given(st.integers(1, 10**6), st.floats(1e-12, 1e3), st.integers(0, 2**32 - 1))
def test_numbers_survive_as_values_and_as_text(size: int, rate: float, seed: int) -> None:
    expected = TrainingOptions(batch_size=size, learning_rate=rate, seed=seed)
    assert parsed(batch_size=size, learning_rate=rate, seed=seed).training == expected
    assert parsed(batch_size=str(size), learning_rate=repr(rate), seed=str(seed)).training == expected


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("batch_size", "eight", "batch_size='eight' is not a whole number"),
        ("batch_size", 2.5, "batch_size=2.5 is not a whole number"),
        ("batch_size", True, "batch_size=True is not a whole number"),
        ("batch_size", None, "batch_size=None is not a whole number"),
        ("batch_size", float("inf"), "batch_size=inf is not a whole number"),
        ("batch_size", [8], "batch_size=[8] is not a whole number"),
        ("epochs", True, "epochs=True is not a number"),
        ("learning_rate", "fast", "learning_rate='fast' is not a number"),
        ("learning_rate", float("nan"), "learning_rate=nan is not a number"),
        ("learning_rate", float("inf"), "learning_rate=inf is not a number"),
        ("beta", "0,1", "beta='0,1' is not a number"),
        ("resume", "yes", "resume='yes' is str; it must be bool"),
        ("model", 7, "model=7 is int; it must be str"),
        ("scheduler", "square", "scheduler='square' is not one of: constant, cosine, linear"),
        ("order", True, "order=True is not one of: shuffled, file"),
        ("truncation", "keep_end", "truncation='keep_end' is not one of: drop, cut-prompt-left"),
    ],
)
def test_a_value_of_the_wrong_type_is_shown_with_what_it_must_be(name: str, value: Any, message: str) -> None:
    assert refused(**{name: value}).startswith(message)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", 0),
        ("max_steps", -1),
        ("eval_steps", -1),
        ("logging_steps", 0),
        ("token_budget", 0),
        ("max_length", 0),
        ("learning_rate", 0),
        ("epochs", -1),
        ("warmup", 1),
        ("warmup", -0.1),
        ("seed", -1),
        ("seed", 2**32),
        ("eval_fraction", 0),
        ("eval_fraction", 1),
        ("lora_r", 0),
        ("beta", 0),
        ("beta", -1),
        ("label_smoothing", 0.5),
    ],
)
def test_a_value_out_of_range_is_shown_with_its_name(name: str, value: Any) -> None:
    message = refused(**{name: value})
    assert name in message and "out of range" in message


@pytest.mark.parametrize(("name", "value"), [("lora_alpha", -1), ("lora_dropout", 1), ("lora_dropout", -0.1)])
def test_an_adapter_option_out_of_range_is_refused(name: str, value: float) -> None:
    message = refused(lora_r=4, **{name: value})
    assert name in message and "out of range" in message


@pytest.mark.parametrize("name", ["model", "data", "output"])
def test_a_run_needs_model_data_and_output(name: str) -> None:
    with pytest.raises(ConfigError, match=f"--{name} is missing"):
        parse({key: value for key, value in NEEDED.items() if key != name})


# --- unknown names -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "near"),
    [("learning-rat", "learning_rate"), ("batchsize", "batch_size"), ("betta", "beta"), ("lora_rank", "lora_r")],
)
def test_an_unknown_option_names_the_nearest_known_one(name: str, near: str) -> None:
    assert refused(**{name: 1}) == f"unknown option {name.replace('-', '_')!r}; did you mean {near}?"


def test_an_option_like_no_other_is_refused_without_a_guess() -> None:
    assert refused(xyzzy=1) == "unknown option 'xyzzy'"


def test_an_unknown_method_names_the_nearest_and_all() -> None:
    message = refused(method="smpo")
    assert "unknown method 'smpo'; did you mean simpo?" in message
    assert all(method in message for method in METHODS)


def test_flags_are_not_guessed_from_their_beginning() -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["train", "--learning", "1"])
    assert caught.value.code == 2


# --- options without effect ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "ipo", "beta": 0.1}, "beta has no effect on ipo"),
        ({"method": "dpo", "tau": 0.1}, "tau has no effect on dpo (it belongs to ipo)"),
        ({"method": "kto", "label_smoothing": 0.1}, "label_smoothing has no effect on kto"),
        (
            {"method": "dpo", "gamma_beta_ratio": 0.1},
            "gamma_beta_ratio has no effect on dpo (it belongs to simpo, alphapo)",
        ),
        ({"method": "robust", "label_smoothing": 0.1}, "label_smoothing has no effect on robust"),
        ({"method": "simpo", "reference": "base"}, "simpo uses no reference; drop reference"),
        ({"method": "simpo", "reference": "other"}, "simpo uses no reference; drop reference"),
        ({"method": "simpo", "reference_scores": "live"}, "simpo uses no reference; drop reference_scores"),
        ({"method": "simpo", "reference_store": "x"}, "simpo uses no reference; drop reference_store"),
        ({"lora_alpha": 16}, "lora_alpha=16.0 has no effect without lora_r"),
        ({"lora_dropout": 0.1}, "lora_dropout=0.1 has no effect without lora_r"),
        ({"lora_targets": "q_proj"}, "lora_targets='q_proj' has no effect without lora_r"),
        ({"load_in_4bit": True}, "load_in_4bit=True has no effect without lora_r"),
        ({"save_total_limit": 2}, "save_total_limit has no effect without save_steps"),
        ({"max_steps": 5, "epochs": 1}, "max_steps and epochs were both given"),
        ({"reference_scores": "live", "reference_store": "x"}, "reference_store has no effect"),
        ({"eval_data": "e.jsonl", "eval_fraction": 0.1}, "eval_data and eval_fraction were both given"),
    ],
)
def test_an_option_without_effect_is_refused_by_name(values: dict[str, Any], message: str) -> None:
    assert refused(**values).startswith(message)


def test_a_hyperparameter_of_another_method_shows_the_methods_own() -> None:
    assert refused(method="ipo", beta=0.1).endswith("ipo has: nll_weight, tau, length_normalize")


@pytest.mark.parametrize("method", METHODS)
def test_every_hyperparameter_goes_only_to_methods_that_have_it(method: str) -> None:
    for name, owners in hyperparameter_fields().items():
        value = {"beta": 3.0, "label_smoothing": 0.2, "flip_probability": 0.2}.get(name, True)
        value = 3.0 if name.endswith("_weight") or name in ("penalty", "tau", "gamma_beta_ratio", "delta") else value
        value = {"discopop_tau": 0.2, "divergence": "forward-kl", "alpha": 0.2, "trl_alpha": 0.2}.get(name, value)
        value = f"dpo=1 {'bco_pair' if method == 'mpo' else 'sppo'}=2" if name == "loss" else value
        value = 0.2 if name in ("beta_scaling", "margin_momentum", "ld_alpha", "score_temperature") else value
        value = "pair" if name == "beta_of" else value
        if method == "f_dpo" and name in ("alpha", "trl_alpha"):
            assert getattr(parsed(method=method, divergence="alpha", **{name: value}).objective, name) == value
        elif method in owners:
            made = parsed(**{"method": method, **CHOSEN.get(method, {}), name: value}).objective
            assert name == "loss" or getattr(made, name) == value
        else:
            message = refused(**{"method": method, **CHOSEN.get(method, {}), name: value})
            assert f"{name} has no effect on {method}" in message


# --- SimPO's beta --------------------------------------------------------------------------------------------------


def test_simpo_refuses_dpos_beta_and_says_why() -> None:
    message = refused(method="simpo", beta=0.1)
    assert "simpo: beta=0.1 is out of range" in message
    assert "per token" in message and "--allow-small-beta" in message


def test_simpo_takes_a_small_beta_where_it_is_asked_for() -> None:
    assert parsed(method="simpo", beta=0.1, allow_small_beta=True).objective == SimPO(beta=0.1, allow_small_beta=True)


# --- defaults ------------------------------------------------------------------------------------------------------

DEFAULTS: dict[str, tuple[dict[str, object], float]] = {
    "dpo": ({"nll_weight": 0.0, "beta": 0.1, "label_smoothing": 0.0}, 1e-6),
    "robust": ({"nll_weight": 0.0, "beta": 0.1, "flip_probability": 0.1}, 1e-6),
    "ipo": ({"nll_weight": 0.0, "tau": None, "length_normalize": True}, 1e-6),
    "kto": ({"beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0}, 2e-6),
    "simpo": (
        {
            "nll_weight": 0.0,
            "beta": 2.0,
            "gamma_beta_ratio": 0.5,
            "label_smoothing": 0.0,
            "allow_small_beta": False,
        },
        6e-7,
    ),
    "hinge": ({"nll_weight": 0.0, "beta": 0.05}, 1e-6),
    "sigmoid_norm": ({"nll_weight": 0.0, "beta": 5.0, "label_smoothing": 0.0}, 5e-7),
    "apo_zero": ({"nll_weight": 0.0, "beta": 0.1}, 1e-6),
    "apo_down": ({"nll_weight": 0.0, "beta": 0.1}, 1e-6),
    "dpop": ({"nll_weight": 0.0, "beta": 0.1, "penalty": 5.0}, 1e-6),
    "exo": ({"nll_weight": 0.0, "beta": 0.1, "label_smoothing": 0.001}, 1e-6),
    "nca": ({"nll_weight": 0.0, "beta": 0.01}, 5e-6),
    "sppo": ({"nll_weight": 0.0, "beta": 0.001}, 5e-7),
    "discopop": ({"nll_weight": 0.0, "beta": 0.05, "discopop_tau": 0.05}, 5e-7),
    "f_dpo": ({"nll_weight": 0.0, "beta": 0.1, "divergence": "js", "alpha": None, "trl_alpha": None}, 1e-6),
    "cal_dpo": ({"nll_weight": 0.0, "beta": 0.002}, 5e-7),
    "cpo": ({"nll_weight": 1.0, "beta": 0.1}, 1e-6),
    "orpo": ({"nll_weight": 0.0, "odds_weight": 0.1}, 8e-6),
    "alphapo": ({"nll_weight": 0.0, "beta": 2.5, "gamma_beta_ratio": 0.1, "alpha": 0.25}, 7e-7),
    "slic": ({"nll_weight": 0.0, "delta": 1.0, "likelihood_weight": 0.1}, 1e-6),
    "aot": ({"nll_weight": 0.0, "beta": 0.01, "label_smoothing": 0.0}, 1e-6),
    "aot_unpaired": ({"nll_weight": 0.0, "beta": 0.01, "label_smoothing": 0.0}, 1e-6),
    "wpo": ({"nll_weight": 0.0, "beta": 0.01, "label_smoothing": 0.0}, 1e-6),
    "ld_dpo": ({"nll_weight": 0.0, "beta": 0.1, "label_smoothing": 0.0, "ld_alpha": 0.5}, 1e-6),
    "infonca": ({"beta": 0.01, "score_temperature": 1.0}, 5e-6),
    "nca_scores": ({"beta": 0.01, "score_temperature": 1.0}, 5e-6),
    "sft": ({}, 1e-5),
    "reward": ({"center_weight": 0.0, "label_smoothing": 0.0}, 1e-5),
    "bco_pair": ({"nll_weight": 0.0, "beta": 0.01}, 5e-7),
    "bco": ({"beta": 0.01}, 5e-7),
    "beta_dpo": (
        {"nll_weight": 0.0, "beta": 0.1, "beta_scaling": 0.6, "margin_momentum": 0.9, "beta_of": "step"},
        5e-7,
    ),
    "mpo": (
        {
            "loss": "dpo=0.8 bco_pair=0.2",
            "nll_weight": 1.0,
            "dpo.beta": 0.1,
            "dpo.label_smoothing": 0.0,
            "bco_pair.beta": 0.1,
        },
        5e-6,
    ),
}


def test_every_method_has_its_own_defaults() -> None:
    found = {
        name: (kind().hyperparameters(), kind.learning_rate) for name, kind in METHODS.items() if name not in CHOSEN
    }
    assert found == DEFAULTS


def test_what_each_method_learns_from_and_which_need_no_reference() -> None:
    assert [name for name, kind in METHODS.items() if kind.data == "answers"] == ["sft"]
    assert [name for name, kind in METHODS.items() if kind.data == "labels"] == ["kto", "bco"]
    assert [name for name, kind in METHODS.items() if kind.needs_partner] == ["kto"]
    without = [name for name, kind in METHODS.items() if not kind.needs_reference]
    assert without == ["simpo", "cpo", "orpo", "alphapo", "slic", "sft", "reward"]
    assert [name for name, kind in METHODS.items() if kind.reads_values] == ["reward"]


@pytest.mark.parametrize("method", METHODS)
def test_the_learning_rate_is_the_methods_own_and_names_its_source(method: str) -> None:
    objective = usual(method)
    rate, source = learning_rate(TrainingOptions(), objective, tiny_policy())
    assert (rate, source) == (objective.learning_rate, objective.learning_rate_source) and source


def test_an_adapter_takes_a_larger_learning_rate_and_says_so() -> None:
    rate, source = learning_rate(TrainingOptions(), DPO(), lora_policy())
    assert 10 <= LORA_RATE_FACTOR <= 20
    assert rate == DPO.learning_rate * LORA_RATE_FACTOR and f"times {LORA_RATE_FACTOR} for LoRA" in source
    assert learning_rate(TrainingOptions(learning_rate=1e-3), DPO(), lora_policy()) == (1e-3, "given")


def test_defaults_of_training_are_the_stated_ones() -> None:
    given_defaults = {item.name: item.default for item in fields(TrainingOptions)}
    stated = {"batch_size": 32, "scheduler": "cosine", "order": "shuffled", "truncation": "drop", "seed": 42}
    assert stated.items() <= given_defaults.items()
    assert (TrainingOptions().warmup_share, TrainingOptions(scheduler="constant").warmup_share) == (0.1, 0.0)
    assert RunOptions(**NEEDED).eval_fraction is None and RunOptions(**NEEDED).reference == "start"


# --- the trainer block ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(OURS))
def test_a_name_that_contradicts_ours_is_refused_with_what_to_use(name: str) -> None:
    assert refused(trainer={name: 1}) == f"trainer.{name} would contradict ours; use {OURS[name]}"


def test_what_to_use_instead_is_an_option_a_command_or_nothing() -> None:
    known = option_names() | {"label_smoothing", "the"}
    for name, instead in OURS.items():
        word = instead.replace(":", " ").replace(",", " ").split()[0]
        assert word in known or word == "nothing", name


@pytest.mark.parametrize("name", ["dataloader_num_workers", "eval_delay", "fp16_full_eval", "label_names"])
def test_a_trainer_option_without_effect_is_refused(name: str) -> None:
    assert name in refused(trainer={name: 1})


@pytest.mark.parametrize("name", ["hub_token", "hub_model_id", "push_to_hub", "push_to_hub_token"])
def test_an_upload_is_asked_for_outside_the_trainer_block(name: str) -> None:
    message = refused(trainer={name: "hf_secret"})
    assert message.startswith(f"trainer.{name} would contradict ours; use push_to_hub, outside the trainer block")
    assert "the login" in message and "secret" not in message


def test_an_unknown_trainer_option_names_the_nearest() -> None:
    message = refused(trainer={"max_grad_nrom": 1})
    assert message == (
        "trainer.max_grad_nrom is no field of transformers.TrainingArguments; did you mean max_grad_norm?"
    )


@pytest.mark.parametrize("block", [[1], "text", 3])
def test_a_trainer_block_must_be_a_block(block: Any) -> None:
    with pytest.raises(ConfigError, match="trainer"):
        parsed(trainer=block)


def test_a_trainer_option_reaches_transformers_as_a_number(tmp_path: Path) -> None:
    options = from_yaml(tmp_path, "trainer:\n  weight_decay: 1e-2\n  max_grad_norm: 3\n  optim: adamw_torch\n").training
    arguments = training_arguments(options, DPO(), tiny_policy(), tmp_path, None, ALONE)
    assert (arguments.weight_decay, arguments.max_grad_norm) == (0.01, 3)


@pytest.mark.parametrize("value", ["much", [1], True, None])
def test_a_trainer_option_that_is_no_number_is_refused(value: Any) -> None:
    assert refused(trainer={"weight_decay": value}) == f"trainer.weight_decay={value!r} is not a number"


def test_no_name_is_given_to_transformers_twice(tmp_path: Path) -> None:
    """Every field that the block may set can be set beside ours."""
    for item in fields(TrainingArguments):
        if item.default is MISSING or not item.init:
            continue
        try:
            block = check_trainer_block({item.name: item.default})
        except ConfigError:
            continue
        training_arguments(TrainingOptions(trainer=block), DPO(), tiny_policy(), tmp_path, None, ALONE)


def test_a_value_that_transformers_refuses_is_bad_input(tmp_path: Path) -> None:
    options = parsed(trainer={"optim": "nonsense"}).training
    with pytest.raises(ConfigError, match="nonsense"):
        training_arguments(options, DPO(), tiny_policy(), tmp_path, None, ALONE)


# --- the YAML file -------------------------------------------------------------------------------------------------


def yaml_error(tmp_path: Path, content: bytes) -> str:
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_yaml(str(path))
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_yaml_file_that_cannot_be_read_is_bad_input(tmp_path: Path) -> None:
    assert "line 2" in yaml_error(tmp_path, b"model: m\nbeta: [0.1\n")
    assert "not valid YAML" in yaml_error(tmp_path, b"model: caf\xe9\n")
    assert "expected names and values, found list" in yaml_error(tmp_path, b"- a\n")
    assert "found NoneType" in yaml_error(tmp_path, b"")
    with pytest.raises(ConfigError, match=r"absent.yaml cannot be read: No such file"):
        read_yaml(str(tmp_path / "absent.yaml"))


@pytest.mark.parametrize("twice", [b"beta: 0.1\nbeta: 0.2\n", b"batch_size: 4\nbatch-size: 8\n"])
def test_an_option_that_stands_there_twice_is_refused_with_its_line(tmp_path: Path, twice: bytes) -> None:
    assert "run.yaml:2: " in yaml_error(tmp_path, twice)


def test_an_empty_trainer_block_is_none(tmp_path: Path) -> None:
    assert from_yaml(tmp_path, "trainer:\n").training.trainer == {}


@pytest.mark.parametrize("name", ["dpo.yaml", "kto.yaml"])
def test_the_examples_are_valid(name: str) -> None:
    path = Path(__file__).resolve().parents[2] / "examples" / name
    assert parse(read_yaml(str(path))).run.method == name.removesuffix(".yaml")
