"""What is proposed for a shell does what it says there, whatever a file or folder is called."""

from __future__ import annotations

import ast
import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from likelier.data.builtin import BUILT_IN
from likelier.experiments.sweep.plan import variations
from likelier.insight.report.account import demo_command, how_again, run_file
from likelier.models.safe_loading import check_adapter_folder, check_model_folder
from likelier.runs.card import checked_card
from likelier.runs.reader import Run
from likelier.utils.errors import ConfigError, ModelError
from likelier.utils.shell import CODE, names_code, quoted

EVIL = ["a b", "$(touch ran)", "`touch ran`", "a; touch ran", "a'b\"c", 'x"; touch ran; "', "*", "~root", "a\\b", "é中"]
UNSEEN = ["a\nb", "a\x1b[31mb", "a\u202eb", "a'\n\\b", "a\tb"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*EVIL, *UNSEEN])
def test_a_shell_reads_the_name_as_it_is(name: str, tmp_path: Path) -> None:
    word = quoted(name)
    assert word.isprintable()
    shell = ["bash", "-c", f'printf "%s|" {word}']
    done = subprocess.run(shell, cwd=tmp_path, capture_output=True, check=True)
    assert done.stdout == name.encode() + b"|" and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["--output=x", "-rf", "-"])
def test_a_name_is_no_flag(name: str) -> None:
    assert shlex.split(quoted(name)) == [f"./{name}"]


@pytest.mark.parametrize("name", EVIL)
@pytest.mark.parametrize("kind", ["model.bin", "adapter_model.bin"])
def test_the_conversion_names_the_folder_and_runs_nothing_else(name: str, kind: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    (folder / kind).write_bytes(b"")
    check = check_model_folder if kind == "model.bin" else lambda where, _: check_adapter_folder(where)
    with pytest.raises(ModelError) as told:
        check(folder, name)
    assert "can run any code" in str(told.value) and "If you trust it" in str(told.value)
    python, flag, code = shlex.split(str(told.value).split("\n")[-1])
    texts = {node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)}
    assert (python, flag) == ("python", "-c") and texts == {str(folder)}


def run_of(folder: Path, **card: Any) -> Run:
    return Run(folder, checked_card(card, "run.json"), [], [])


@pytest.mark.parametrize("name", EVIL)
def test_the_reports_commands_quote(name: str, tmp_path: Path) -> None:
    run = run_of(tmp_path, run={"data": BUILT_IN, "model": name})
    assert shlex.split(demo_command(run) or "") == ["likelier", "demo", "--model", name]
    inner = tmp_path / "run"
    inner.mkdir()
    (tmp_path / "sweep.json").write_text(json.dumps({"words": [f"dpo.beta={name}"], "seeds": [1, 2]}), "utf-8")
    swept = run_of(inner, sweep={"file": "/etc/passwd", "held_out": {"named": "d", "seed": 1, "from_own_data": False}})
    words = shlex.split(how_again(swept)[1])
    assert words == ["likelier", "sweep", "FILE", "--vary", f"dpo.beta={name}", "--seeds", "1", "2"]


def test_a_sweeps_record_is_read_beside_the_run_only(tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"words": ["private"], "seeds": [1]}), encoding="utf-8")
    for named in (str(other), "../other.json", "../../x"):
        inner = tmp_path / "run"
        inner.mkdir(exist_ok=True)
        card = {"sweep": {"file": named, "held_out": {"seed": 1, "from_own_data": False}}}
        assert how_again(run_of(inner, **card))[1] == "likelier sweep FILE"


@pytest.mark.parametrize("where", ["run", "options", "chat"])
def test_a_run_file_that_names_code_says_so(where: str, tmp_path: Path) -> None:
    card: dict[str, dict[str, str]] = {"run": {"model": "m", "data": "d", "output": "o"}}
    assert CODE not in (run_file(run_of(tmp_path, **card)) or "")
    card.setdefault(where, {})["eval_reward"] = "evil.py:f"
    assert (run_file(run_of(tmp_path, **card)) or "").startswith(f"# {CODE}")


def test_a_sweeps_words_that_name_code_say_so(tmp_path: Path) -> None:
    inner = tmp_path / "run"
    inner.mkdir()
    (tmp_path / "sweep.json").write_text(json.dumps({"words": ["dpo.eval-reward=e.py:f"], "seeds": [1]}), "utf-8")
    command = how_again(run_of(inner, sweep={"held_out": {"seed": 1, "from_own_data": False}}))[1]
    assert command.endswith(f"# {CODE}") and shlex.split(command, comments=True)[-1] == "dpo.eval-reward=e.py:f"
    assert names_code("--eval-reward") and not names_code("rewards")


def test_a_message_of_a_sweep_quotes_the_file() -> None:
    with pytest.raises(ConfigError) as told:
        variations(["$(touch ran).yaml"])
    assert "likelier sweep '$(touch ran).yaml' --vary" in str(told.value)
