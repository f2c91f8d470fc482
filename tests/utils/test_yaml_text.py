"""YAML that is read: nothing in a file is lost in silence, whatever its depth."""

from pathlib import Path
from typing import Any

import pytest

from likelier.cli.importing import import_config
from likelier.experiments.stages import parse_stages
from likelier.training.config import parse, read_yaml
from likelier.utils.errors import ConfigError
from likelier.utils.strict_json import BrokenJson, parse_json
from likelier.utils.yaml_text import BrokenYaml, parse_yaml

HEAD = "model: m\ndata: d.jsonl\noutput: out\n"
STAGES = (
    HEAD + "stages:\n- method: dpo\n  beta: 0.1\n- method: dpo\n  name: again\n  beta: 0.1\n  seed: 1\n  beta: 0.2\n"
)
TWICE = {
    "at the top": (HEAD + "beta: 0.1\nbeta: 0.2\n", 5, "beta", 4),
    "with a dash": (HEAD + "batch-size: 4\nbatch_size: 8\n", 5, "batch_size", 4),
    "in quotation marks": (HEAD + "'beta': 0.1\nbeta: 0.2\n", 5, "beta", 4),
    "in a stage": (STAGES, 11, "beta", 9),
    "in a stage with a dash": (STAGES.replace("beta: 0.2", "save-steps: 4\n  save_steps: 8"), 12, "save_steps", 11),
    "under trainer": (HEAD + "trainer:\n  weight_decay: 0\n  optim: a\n  weight_decay: 1\n", 7, "weight_decay", 5),
    "on one line": (HEAD + "trainer: {optim: a, optim: b}\n", 4, "optim", 4),
    "in a list of data sets": (HEAD.replace("d.jsonl", "\n- path: a\n  weight: 1\n  weight: 2"), 5, "weight", 4),
    "in a name's columns": (HEAD + "columns:\n  chosen: a\n  chosen: b\n", 6, "chosen", 5),
    "as merges": ("a: &a {x: 1}\nb: &b {x: 2}\nc:\n  <<: *a\n  <<: *b\n", 5, "<<", 4),
    "behind an anchor": ("a: &a\n  x: 1\n  x: 2\nb: *a\n", 3, "x", 2),
    "of two kinds that are equal": ("a:\n  1: x\n  1.0: y\n", 3, "1.0", 2),
}  # fmt: skip


@pytest.mark.parametrize("case", TWICE)
def test_a_name_that_stands_there_twice_is_refused_with_both_lines(tmp_path: Path, case: str) -> None:
    text, line, name, first = TWICE[case]
    file = tmp_path / "run.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read_yaml(str(file))
    assert str(caught.value) == (
        f"{file}:{line}: {name} stands there for the second time (first in line {first}); keep one"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: &a {x: 1, y: 1}\nb: {<<: *a, x: 2}\n", {"x": 2, "y": 1}),
        ("a: &a {x: 1}\nc: &c {<<: *a, x: 2}\nb: {<<: *c}\n", {"x": 2}),
        ("a: &a {x: 1}\nc: &c {x: 2, z: 3}\nb: {<<: [*a, *c], z: 4}\n", {"x": 1, "z": 4}),
        ("a: &a {x: 1}\nb: [*a, *a]\n", [{"x": 1}, {"x": 1}]),
        ("a: {x: 1}\nb: {a: {x: 1}}\n", {"a": {"x": 1}}),
        ("b:\n  1: x\n  '1': y\n  null: z\n", {1: "x", "1": "y", None: "z"}),
    ],
)
def test_anchors_and_merges_say_what_they_said(text: str, expected: Any) -> None:
    assert parse_yaml(text)["b"] == expected


def test_merged_options_and_stages_are_read(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        HEAD + "trainer: &t {optim: adamw_torch}\nstages:\n- {method: dpo, trainer: {<<: *t, optim: sgd}}\n"
    )
    assert parse_stages(read_yaml(str(file))).runs[0].config.training.trainer == {"optim": "sgd"}
    file.write_text(HEAD + "trainer: {<<: &t {optim: sgd}, weight_decay: 0.5}\n")
    assert parse(read_yaml(str(file))).training.trainer == {"optim": "sgd", "weight_decay": 0.5}


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n"])
def test_no_value_is_none(text: str) -> None:
    assert parse_yaml(text) is None


@pytest.mark.parametrize(
    "text", ["a: 1\n---\na: 2\n", "!!python/object/apply:os.getcwd []", "? [a]\n: 1\n", "=: 1\n=: 2"]
)
def test_what_is_no_plain_value_is_refused(text: str) -> None:
    with pytest.raises(BrokenYaml):
        parse_yaml(text)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.yaml", "rl: dpo\ndatasets:\n- path: a\n  split: b\n  split: c\n", ":5: split stands there for the second"),
        ("a.yaml", "trl:\n  beta: 1\n  beta: 2\nrl: dpo\n", ":3: beta stands there for the second time (first in"),
        ("a.json", '{"rl": "dpo", "trl": {"beta": 1, "beta": 2}}', "the name 'beta' stands twice"),
        ("a.json", '{"rl": "dpo", "rl": "ipo"}', "the name 'rl' stands twice"),
    ],
)  # fmt: skip
def test_configurations_of_other_tools_hold_a_name_once(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        import_config(str(tmp_path / name))
    assert message in str(caught.value) and str(tmp_path / name) in str(caught.value)


def test_json_holds_a_name_once_at_every_depth() -> None:
    with pytest.raises(BrokenJson, match="the name 'b' stands twice"):
        parse_json('{"a": [{"b": 1, "b": 2}]}')
