"""What must never happen, whatever a file holds: code that runs, a terminal or page that obeys data, a secret told."""

from __future__ import annotations

import ast
import json
import logging
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForSequenceClassification

import likelier
from likelier.cli import main as cli
from likelier.cli import merge
from likelier.data.options import ChatOptions
from likelier.data.records import Message
from likelier.data.rendering import render
from likelier.models.policy import load_policy
from likelier.models.safe_loading import say_what_a_file_names
from likelier.models.tokenizer import tokenizer_of
from likelier.training.rewards import load_judge
from likelier.utils.console import plain_warnings, printable, put, say, warn
from likelier.utils.errors import DataError, LikelierError, LikelierWarning, ModelError
from likelier.utils.redaction import without_secrets
from likelier.utils.terminal import SafeConsole
from tests.helpers.small_runs import SmallRuns, save_tiny
from tests.helpers.support import tiny_model, tiny_tokenizer

SOURCES = Path(likelier.__file__).parent
HOSTILE = "\x1b[31mred\x1b]0;title\x07 \x9b2J \u202eeno [red]kept[/red] [link=http://e.vil]here[/link]"


# --- what stands in the source ---------------------------------------------------------------------------------------


@cache
def calls() -> list[tuple[Path, str, ast.Call]]:
    """Every call in the package: where, what is called in words, and the call."""
    found = []
    for path in SOURCES.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                found.append((path, ast.unparse(node.func), node))
    return found


def given(call: ast.Call, name: str) -> str | None:
    return next((ast.unparse(one.value) for one in call.keywords if one.arg == name), None)


def calls_of(*ends: str) -> Iterator[tuple[str, ast.Call]]:
    for path, name, call in calls():
        if name in ends or name.endswith(tuple(f".{end}" for end in ends)):
            yield f"{path.relative_to(SOURCES)}:{call.lineno}", call


@pytest.mark.slow
def test_no_module_that_runs_what_it_reads_is_imported() -> None:
    never = {
        "pickle",
        "cPickle",
        "marshal",
        "shelve",
        "dill",
        "cloudpickle",
        "joblib",
        "subprocess",
        "pty",
        "telnetlib",
    }
    never |= {"urllib", "http", "requests", "httpx", "ftplib", "smtplib", "webbrowser", "ctypes", "code"}
    for path in SOURCES.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            talks = path == SOURCES / "utils" / "service.py"  # to a server that the user named
            for name in names:
                assert name.split(".")[0] not in (never - {"http", "urllib"} if talks else never), (
                    f"{path.relative_to(SOURCES)} imports {name}"
                )


@pytest.mark.slow
def test_nothing_opens_a_connection_by_itself() -> None:
    """Ranks are joined by torch (its store, and collectives that pickle nothing); the hub is asked by its client."""
    for path, name, call in calls():
        where = f"{path.relative_to(SOURCES)}:{call.lineno}: {name}"
        assert not name.startswith("socket.") or name == "socket.gethostname", where
        assert not re.search(r"(gather|broadcast|scatter|send|recv)_object", name), where


def test_nothing_evaluates_text_or_asks_a_shell() -> None:
    names = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "os.startfile", "runpy.run_path"}
    for path, name, call in calls():
        assert name not in names, f"{path.relative_to(SOURCES)}:{call.lineno}: {name}"
        assert not name.startswith(("os.exec", "os.spawn")), f"{path.relative_to(SOURCES)}:{call.lineno}: {name}"


def test_what_the_user_names_as_code_is_run_in_one_place_only() -> None:
    assert {where.split(":")[0] for where, _ in calls_of("exec_module")} == {"utils/user_code.py"}


def test_loaders_are_the_safe_ones() -> None:
    for where, call in calls_of("torch.load"):
        assert given(call, "weights_only") == "True", where
    for where, call in calls_of("np.load", "np.save", "numpy.load"):
        assert given(call, "allow_pickle") == "False", where
    assert not [where for where, _ in calls_of("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load")]
    for where, call in calls_of("yaml.compose", "yaml.parse"):
        assert given(call, "Loader") == "yaml.SafeLoader", where
    for where, call in calls_of("Environment"):
        assert given(call, "autoescape") == "True", where


def test_no_model_brings_code_and_weights_are_safetensors() -> None:
    harmless = ("GenerationConfig.", "PeftModel.")
    found = calls_of("from_pretrained", "from_config")
    loads = [(where, call) for where, call in found if not ast.unparse(call.func).startswith(harmless)]
    assert len(loads) >= 7
    for where, call in loads:
        settings = {given(call, "trust_remote_code"), *(ast.unparse(one.value) for one in call.keywords if not one.arg)}
        assert settings & {"False", "safe"}, f"{where}: it would ask whether to run the model's code"
        if ast.unparse(call.func).startswith(("AutoConfig", "AutoTokenizer")):
            assert where.startswith("models/safe_loading.py"), f"{where}: read in one place, there"
        elif call.func.attr == "from_pretrained":  # type: ignore[union-attr]
            assert given(call, "use_safetensors") == "True", where
    for path in SOURCES.rglob("*.py"):
        text = path.read_text(encoding="utf-8").replace(" ", "")
        assert "trust_remote_code=True" not in text and '"trust_remote_code":True' not in text, path


def test_text_reaches_the_terminal_by_safe_ways_only() -> None:
    ours = {f"cli/{command}.py" for command in ("audit", "diagnose", "recommend", "estimate")}
    for where, call in calls_of("print"):
        assert where.startswith("utils/console.py") or not call.args or ".print" in ast.unparse(call.func), where
    for where, _ in calls_of("stdout.write", "stderr.write"):
        assert where.split(":")[0] in ours, where  # what `SafeConsole` rendered, or JSON in ASCII
    for where, call in calls_of("Console"):
        assert ast.unparse(call.func) != "Console", where


# --- models ----------------------------------------------------------------------------------------------------------


class Bomb:
    """What a pickled file does when it is read: it makes a file."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.place,)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "model")


def edit(file: Path, **changes: Any) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(content | changes), encoding="utf-8")


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.pt", "model.ckpt"])
def test_pickled_weights_are_not_read(model: Path, tmp_path: Path, file: str) -> None:
    (model / "model.safetensors").unlink()
    torch.save({"weights": Bomb(tmp_path / "ran")}, model / file)
    with pytest.raises(
        ModelError, match=rf"holds its weights in {file}.*only safetensors.*\n.*save_pretrained"
    ) as told:
        load_policy(model)
    assert not (tmp_path / "ran").exists() and str(model) in str(told.value)


def test_the_conversion_that_is_named_works(model: Path) -> None:
    weights = dict(load_policy(model).model.state_dict())
    (model / "model.safetensors").unlink()
    torch.save(weights, model / "pytorch_model.bin")
    with pytest.raises(ModelError) as told:
        load_policy(model)
    exec(shlex.split(str(told.value).splitlines()[-1])[2], {})
    load_policy(model)


def test_sharded_safetensors_are_read_and_their_index_stays_in_its_folder(model: Path) -> None:
    policy = load_policy(model)
    before = {name: weight.clone() for name, weight in policy.model.state_dict().items()}
    (model / "model.safetensors").unlink()
    policy.model.save_pretrained(model, max_shard_size="100KB")
    index = model / "model.safetensors.index.json"
    assert len(list(model.glob("model-*.safetensors"))) > 1
    after = load_policy(model).model.state_dict()
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())
    known = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    for evil in ("../other/model.safetensors", "/etc/passwd", "pytorch_model.bin", "..", 3):
        edit(index, weight_map=known | {next(iter(known)): evil})
        with pytest.raises(ModelError, match=r"must be a \*\.safetensors beside it"):
            load_policy(model)


def test_a_config_that_names_other_weights_or_code_of_the_hub_is_refused(model: Path) -> None:
    shutil.copy(model / "config.json", model / "kept.json")
    for changes, words in (
        ({"transformers_weights": "adapter_model.bin"}, "only safetensors are loaded"),
        ({"attn_implementation": "someone/kernel"}, "asks for the code 'someone/kernel' of the hub"),
        ({"text_config": {"_attn_implementation": "someone/kernel"}}, "does not fetch"),
        ({"experts_implementation": {"text": "someone/kernel@main"}}, "does not fetch"),
    ):
        edit(model / "config.json", **changes)
        with pytest.raises(ModelError, match=words):
            load_policy(model)
        shutil.copy(model / "kept.json", model / "config.json")


def test_code_that_a_model_brings_is_never_run_nor_asked_about(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda prompt="": pytest.fail("it asks whether to run the code"))
    (model / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')", encoding="utf-8")
    shutil.copytree(model, tmp_path / "copy")
    edit(model / "config.json", model_type="unheard-of", auto_map={"AutoConfig": "evil.C"})
    edit(tmp_path / "copy" / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.T"] * 2}, tokenizer_class="New")
    for folder in (model, tmp_path / "copy"):
        for load in (load_policy, tokenizer_of):
            with pytest.raises(ModelError, match="brings Python code of its own, which likelier never runs"):
                load(str(folder))
    assert not (tmp_path / "ran").exists()


def test_a_pickled_adapter_is_not_read(runs: SmallRuns, tmp_path: Path) -> None:
    adapter = Path(shutil.copytree(runs.adapter, tmp_path / "adapter"))
    (adapter / "adapter_model.safetensors").rename(tmp_path / "kept")
    torch.save({"weights": Bomb(tmp_path / "ran")}, adapter / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"in adapter_model\.bin.*\n.*peft.*save_pretrained"):
        load_policy(adapter)
    assert not (tmp_path / "ran").exists()


def test_an_adapter_on_an_adapter_is_refused(runs: SmallRuns, tmp_path: Path) -> None:
    """transformers would put both on the model, or fetch the inner one's base, without a word."""
    outer = Path(shutil.copytree(runs.adapter, tmp_path / "outer"))
    inner = Path(shutil.copytree(runs.adapter, tmp_path / "inner"))
    for name in ("config.json", "model.safetensors"):
        shutil.copy(runs.model / name, inner / name)
    edit(outer / "adapter_config.json", base_model_name_or_path=str(inner))
    with pytest.raises(ModelError, match="is an adapter and cannot be loaded as a whole model"):
        load_policy(outer)


def test_a_hub_id_that_a_file_names_is_said_before_it_is_looked_up(
    runs: SmallRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = Path(shutil.copytree(runs.adapter, tmp_path / "adapter"))
    edit(adapter / "adapter_config.json", base_model_name_or_path="someone/base")
    with pytest.raises(ModelError, match="someone/base"):
        load_policy(adapter)
    assert "adapter_config.json names someone/base, which is no folder here" in capsys.readouterr().err
    for local in ("demo", str(tmp_path), "/nowhere/prefs.jsonl", "../x", ""):
        say_what_a_file_names(local, "run.json")
    assert capsys.readouterr().err == ""


def test_a_judge_is_held_to_the_same(tmp_path: Path) -> None:
    config = tiny_model().config
    config.num_labels, config.pad_token_id = 1, 0
    folder = tmp_path / "judge"
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    assert len(load_judge(str(folder))(["a"], ["b"])) == 1
    (folder / "model.safetensors").unlink()
    torch.save({"weights": Bomb(tmp_path / "ran")}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="only safetensors"):
        load_judge(str(folder))(["a"], ["b"])
    assert not (tmp_path / "ran").exists()


def test_weights_of_another_kind_inside_a_safetensors_name_are_refused(model: Path, tmp_path: Path) -> None:
    torch.save({"weights": Bomb(tmp_path / "ran")}, model / "model.safetensors")
    with pytest.raises(ModelError):
        load_policy(model)
    assert not (tmp_path / "ran").exists()


def test_chat_templates_run_in_a_sandbox(tmp_path: Path) -> None:
    tokenizer, talk = tiny_tokenizer(), (Message("user", "hello"),)
    for evil in (
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__.os.popen('true') }}",
        f"{{% include '{tmp_path}' %}}",
    ):
        tokenizer.chat_template = evil
        with pytest.raises(DataError, match="chat template"):
            render(tokenizer, talk, ChatOptions(), "row 1")


# --- the terminal ----------------------------------------------------------------------------------------------------


def is_harmless(text: str) -> bool:
    return not set(text) & {"\x1b", "\x07", "\x9b", "\x08", "\r", "\u202e", "\u2066"} and text == printable(text)


def test_what_is_said_warned_and_put_is_printable(capsys: pytest.CaptureFixture[str]) -> None:
    say(HOSTILE)
    put(HOSTILE)
    with pytest.warns(LikelierWarning) as seen:
        warn(HOSTILE)
    shown = capsys.readouterr()
    for text in (shown.out, shown.err, str(seen[0].message)):
        assert is_harmless(text) and "[red]kept[/red]" in text


def test_json_is_exact_in_a_pipe_and_printable_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    put("\x9b\u202e", exact=True)
    assert capsys.readouterr().out == "\x9b\u202e\n"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    put("\x9b\u202e", exact=True)
    assert is_harmless(capsys.readouterr().out)


def test_a_rich_console_shows_text_and_no_markup() -> None:
    from io import StringIO

    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    table = Table(title=HOSTILE, caption=HOSTILE)
    table.add_column(HOSTILE)
    table.add_row(HOSTILE)
    table.add_row(Text(HOSTILE))
    console = SafeConsole(file=StringIO(), width=200)
    console.print(HOSTILE, table, Panel(Text(HOSTILE), title=Text(HOSTILE)))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert is_harmless(shown) and shown.count("[link=http://e.vil]") == 8
    assert len({len(line) for line in shown.splitlines() if line[:1] in "│┃"}) <= 2  # the tables stay straight


class Hostile(LikelierError):
    """An error that quotes data."""


@pytest.mark.parametrize("error", [Hostile(HOSTILE), RuntimeError(HOSTILE)])
def test_errors_are_printed_harmless(
    error: Exception, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(flags: object) -> None:
        raise error

    monkeypatch.setattr(merge, "run", fail)
    assert cli.main(["merge", "run", "out"]) == (2 if isinstance(error, LikelierError) else 1)
    told = capsys.readouterr().err
    assert is_harmless(told) and "[red]kept[/red]" in told


def test_names_of_files_and_columns_are_printed_harmless(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / f"{HOSTILE.replace('/', '-')}.jsonl"
    rows = [
        {"prompt": HOSTILE, "chosen": f"a{HOSTILE}", "rejected": "b"},
        {"prompt": "q", "chosen": "", "rejected": ""},
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    odd = tmp_path / "odd.jsonl"
    odd.write_text(json.dumps({HOSTILE: 1, "x": HOSTILE}) + "\n", encoding="utf-8")
    cli.main(["audit", str(data), "--show", "--fail-on", "warning"])
    cli.main(["audit", str(odd)])
    cli.main(["convert", str(data), str(tmp_path / "\x1b[31m.jsonl")])
    cli.main(["train", "--model", "\x1b[31m/x", "--data", str(odd), "--output", str(tmp_path / "out")])
    shown = capsys.readouterr()
    assert "[red]kept" in shown.out and "[red]kept" in shown.err
    assert is_harmless(shown.out) and is_harmless(shown.err)


def test_what_libraries_log_is_printable(capsys: pytest.CaptureFixture[str]) -> None:
    before = logging.getLogRecordFactory()
    try:
        plain_warnings()
        plain_warnings()  # once is enough
        record = logging.getLogRecordFactory()("x", logging.WARNING, "f", 1, "weight %s", ("\x1b]0;title\x07",), None)
        assert record.getMessage() == "weight \ufffd]0;title\ufffd"
    finally:
        logging.setLogRecordFactory(before)


def test_ordinary_names_are_no_secrets() -> None:
    for name in (
        "hf_ultrafeedbackbinarized.jsonl",
        "sk-hynix-support-tickets.jsonl",
        "s3://bucket@v1/x",
        "a/sk-learn-runs-v2",
    ):
        assert without_secrets(name) == name
    for text in (
        "HTTPS://u:p@h/x",
        "https://u:p/w@h",
        "postgresql://u:p@ss@h",
        "my_hf_AbCdEfGhIjKlMnOpQrStUvWxYz012345",
    ):
        assert "***" in without_secrets(text) and "p@ss" not in without_secrets(text)
