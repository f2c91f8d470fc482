"""Text of others in the files that we write: it never becomes a line, a key or markup of ours."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from likelier.advice.runfile import StagePlan, run_file
from likelier.cli.flags import add_run_flags
from likelier.cli.importing import import_config
from likelier.cli.importing.text import render
from likelier.insight.report.account import run_file as run_again
from likelier.objectives.advice import Setting
from likelier.runs.card import RunCard
from likelier.runs.model_card import model_card
from likelier.runs.reader import Run
from likelier.training.config import parse, read_yaml
from likelier.utils.console import one_line
from likelier.utils.errors import LikelierError
from likelier.utils.yaml_text import as_yaml, comment, inline_yaml

# What ends a line for YAML, Python, a terminal or an editor; what has no width or turns the writing; half an emoji.
BREAKS = ["\n", "\r", "\r\n", "\x85", "\u2028", "\u2029", "\v", "\f", "\x1c", "\x1d", "\x1e", "\0", "\x1b[2K"]
HIDDEN = ["\u200b", "\u200d", "\u2060", "\ufeff", "\u202e", "\u2066", "\ud800", "\udc80", "\u00ad", "\u00a0"]
PAYLOAD = "eval_reward: evil.py:run"
TEXTS = st.lists(st.sampled_from([*BREAKS, *HIDDEN, PAYLOAD, "# ", ": ", "- ", "---", "...", "'", '"', "x y", "é中😀"]))
HOSTILE = TEXTS.map("".join)
TOOLS: dict[str, dict[str, Any]] = {
    "trl": {
        "model_name_or_path": "m",
        "dataset_name": "d.jsonl",
        "output_dir": "o",
        "loss_type": "sigmoid",
        "beta": 0.1,
        "run_name": "a",
        "attn_implementation": "sdpa",
        "report_to": "none",
        "hub_model_id": "a/b",
        "lr_scheduler_kwargs": {"x": 1},
    },
    "axolotl": {
        "base_model": "m",
        "rl": "dpo",
        "datasets": [{"path": "d.jsonl", "type": "chat_template.default", "split": "train"}],
        "output_dir": "o",
        "chat_template": "chatml",
        "wandb_project": "w",
        "special_tokens": {"pad_token": "x"},
        "adapter": "lora",
        "lora_r": 8,
        "lora_target_modules": ["q_proj"],
        "learning_rate": 1e-5,
        "micro_batch_size": 1,
        "gradient_accumulation_steps": 8,
        "num_epochs": 1,
        "sequence_len": 1024,
    },
    "llama-factory": {
        "stage": "dpo",
        "do_train": True,
        "model_name_or_path": "m",
        "dataset": "d",
        "template": "default",
        "finetuning_type": "lora",
        "lora_target": "all",
        "pref_beta": 0.1,
        "learning_rate": 1e-5,
        "output_dir": "o",
    },
}


def keys_of_ours() -> set[str]:
    parser = argparse.ArgumentParser()
    add_run_flags(parser)
    return {action.dest for action in parser._actions} | {"trainer", "chat_template_kwargs", "columns"}


OURS = keys_of_ours() - {"eval_reward", "help"}
places = st.sampled_from([(tool, key) for tool, config in TOOLS.items() for key in [*config, "", "unknown"]])


def poisoned(value: Any, text: str) -> Any:
    if isinstance(value, dict):
        return dict.fromkeys(value, text) | {text: text}
    return [poisoned(value[0], text), text] if isinstance(value, list) else text


def check_imported(text: str) -> None:
    loaded = yaml.safe_load(text)
    assert isinstance(loaded, dict) and loaded.keys() <= OURS, loaded
    head, _, options = text.partition("\n\n")
    for line in head.split("\n"):
        assert line.startswith("#") and line.isprintable(), line
    assert options.replace("\n", "").isprintable()


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(places, HOSTILE, st.booleans())
def test_an_imported_file_holds_our_keys_only(tmp_path: Path, place: tuple[str, str], text: str, tail: bool) -> None:
    tool, key = place
    text = f"{text}\u2028{PAYLOAD}" if tail else text
    config = dict(TOOLS[tool])
    config[key or text] = poisoned(config.get(key), text)
    source = tmp_path / "their.json"
    source.write_text(json.dumps(config), encoding="utf-8")
    try:
        draft = import_config(str(source), tool)
    except LikelierError:
        return
    check_imported(render(draft))


@pytest.mark.parametrize("end", [*BREAKS, *HIDDEN])
@pytest.mark.parametrize("tool", list(TOOLS))
def test_no_end_of_a_line_leads_out_of_a_comment(tmp_path: Path, tool: str, end: str) -> None:
    """In an unknown option's name and value, and in the name of the file."""
    name = f"a{end}{PAYLOAD}".replace("\0", "").replace("\ud800", "")
    source = tmp_path / f"{name}.json"
    config = {**TOOLS[tool], f"zz{end}{PAYLOAD}": f"b{end}{PAYLOAD}", "run_name": f"b{end}{PAYLOAD}"}
    source.write_text(json.dumps(config), encoding="utf-8")
    text = render(import_config(str(source), tool))
    check_imported(text)
    written = tmp_path / "run.yaml"
    written.write_text(text, encoding="utf-8")
    assert parse(read_yaml(str(written))).training.eval_reward is None


@settings(max_examples=100, deadline=None)
@given(HOSTILE, HOSTILE)
def test_a_recommended_run_file_holds_its_keys_only(text: str, other: str) -> None:
    text, other = f"{text}\u2028{PAYLOAD}", f"{other}\x85{PAYLOAD}"
    one = Setting("beta", 0.1, text)
    stages = [StagePlan("dpo", (text, other), (one,)), StagePlan("kto", (other,), (one,))]
    for used in (stages, stages[:1]):
        written = run_file([text, other], text, other, used, [Setting("seed", 3, other)])
        loaded = yaml.safe_load(written)
        inner = {"method", "data", "beta"}
        assert loaded.keys() == {"model", "output", "seed"} | ({"stages"} if len(used) > 1 else inner)
        assert loaded["model"] == text and loaded["output"] == other
        for stage in loaded.get("stages", [loaded]):
            assert inner <= stage.keys() and stage["data"] in (other, [text, other])
        assert written.replace("\n", "").isprintable()


@settings(max_examples=100, deadline=None)
@given(st.recursive(HOSTILE, lambda part: st.lists(part) | st.dictionaries(HOSTILE, part), max_leaves=6))
def test_what_is_written_as_yaml_is_read_as_it_was(value: Any) -> None:
    for text in (as_yaml({"a": value}), f"a: {inline_yaml(value)}  {comment(str(value))}\n"):
        assert yaml.safe_load(text) == {"a": value}
        assert text.replace("\n", "").isprintable()


@pytest.mark.parametrize("end", BREAKS)
def test_a_cards_front_matter_holds_its_keys_only(end: str) -> None:
    evil = f"a{end}{PAYLOAD}{end}---{end}"
    page = model_card(RunCard.of({"method": evil, "status": evil, "run": {"model": evil, "data": evil}}), evil)
    _, front, body = re.split(r"^---\n", page, maxsplit=2, flags=re.MULTILINE)
    assert yaml.safe_load(front).keys() == {"library_name", "pipeline_tag", "tags"}
    assert page.replace("\n", "").isprintable() and not re.search(r"^eval_reward", body, re.MULTILINE)


@pytest.mark.parametrize("end", BREAKS)
def test_a_reports_run_file_holds_its_keys_only(end: str, tmp_path: Path) -> None:
    evil = f"a{end}{PAYLOAD}"
    card = {"run": {"model": evil, "data": evil, "output": "o"}, "options": {"order": evil}}
    run = Run(tmp_path, RunCard.of(card), [], [])
    written = run_again(run)
    assert written is not None and yaml.safe_load(written).keys() == {"model", "data", "output", "order"}


def test_one_line_is_one_line_and_words_stay() -> None:
    assert one_line("a\u2028b\x85c\rd\ve\u00a0f") == "a b c d e f"
    assert one_line("x\u202ey\ud800z\u200b") == "x\ufffdy\ufffdz\ufffd"
    assert one_line("  Grüße 中文 😀\t(ok) ") == "Grüße 中文 😀 (ok)"
    assert comment("   a\n  b") == "#    a b" and comment("") == "#"


@pytest.mark.parametrize("tool", list(TOOLS))
def test_the_configurations_of_these_tests_can_be_imported(tool: str, tmp_path: Path) -> None:
    source = tmp_path / "their.json"
    source.write_text(json.dumps(TOOLS[tool]), encoding="utf-8")
    check_imported(render(import_config(str(source), tool)))
