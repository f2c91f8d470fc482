"""Chat templates that write nothing, half a character or no text, or never end: one message, no traceback."""

import io
import json
import shutil
from pathlib import Path

import pytest
import torch

from likelier.cli import main as cli
from likelier.data.audit.checks import audit_records
from likelier.data.options import ChatOptions
from likelier.data.records import Message
from likelier.data.rendering import RowRefused, render
from likelier.data.tokenize import tokenize_records
from likelier.data.vocabulary import require_rows
from likelier.models.classifier import Classifier
from tests.helpers.small_runs import write_rows
from tests.helpers.support import CHATML, chat_pairs, tiny_model, tiny_tokenizer

_ODD = {
    "nothing": ("{{ '' }}", "the chat template writes nothing"),
    "nothing but a comment": ("{# {{ messages }} #}", "the chat template writes nothing"),
    "half a character": (CHATML + "{{ '\\ud800' }}", r"the chat template writes half a character \(U\+D800\)"),
    "the other half": ("{{ '\\udfff' }}" + CHATML, r"the chat template writes half a character \(U\+DFFF\)"),
    "a number": ("{{ messages | length }}", "the chat template leaves out of the answer"),
    "a loop without end": ("{% for i in range(10**9) %}x{% endfor %}", "refuses the roles 'user': Range too big"),
    "more than a memory": ("{{ 'a' * 10**15 }}", "refuses the roles 'user': MemoryError"),
    "itself": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "refuses the roles 'user': maximum recursion"),
    "no template": ("{% for %}", "refuses the roles 'user': Expected an expression"),
    "another file": ("{% include 'x' %}", "refuses the roles 'user': no loader"),
    "Python": ("{{ ''.__class__.__mro__ }}", "refuses the roles 'user': access to attribute '__class__'"),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("odd") / "model"
    tiny_model(dtype=torch.float32).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", _ODD)
def test_every_row_is_unusable_with_what_is_wrong(kind: str) -> None:
    tokenizer, pairs = tiny_tokenizer(), chat_pairs(4)
    tokenizer.chat_template, words = _ODD[kind]
    found = tokenize_records(pairs, tokenizer, max_length=512, losses="collect")
    assert not found.groups and len(found.unusable) == 4
    with pytest.raises(RowRefused, match=words):
        raise RowRefused("a row", "reason", next(iter(found.unusable)).detail)
    audit = audit_records(pairs, tokenizer=tokenizer, max_length=512)
    assert any(finding.name in ("template-refuses", "text-lost") and finding.count == 4 for finding in audit.findings)


@pytest.mark.parametrize("kind", ["nothing", "half a character", "a loop without end", "itself"])
@pytest.mark.parametrize("command", ["train", "chat", "preview", "audit"])
def test_no_command_ends_in_a_traceback(
    model: Path,
    tmp_path: Path,
    kind: str,
    command: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    odd, data = shutil.copytree(model, tmp_path / "model"), tmp_path / "pairs.jsonl"
    (odd / "chat_template.jinja").write_text(_ODD[kind][0])
    talks = [
        {"prompt": [{"role": "user", "content": f"say {number}"}], "chosen": f"yes {number}", "rejected": "no"}
        for number in range(4)
    ]
    write_rows(data, talks)
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n"))
    train = ["--method", "dpo", "--data", str(data), "--model", str(odd), "--output", str(tmp_path / "run")]
    arguments = {"train": train, "chat": [str(odd), "--reference", str(model)]}.get(
        command, [str(data), "--model", str(odd)]
    )
    status = cli.main([command, *arguments])
    told = capsys.readouterr()
    assert status == {"train": 2, "audit": 3}.get(command, 0)  # a conversation goes on, a preview shows why
    assert "template" in told.out + told.err and "a fault of likelier" not in told.err


def test_half_a_character_of_the_data_is_named_too() -> None:
    tokenizer = tiny_tokenizer()
    with pytest.raises(RowRefused, match=r"rows:1: the chat template writes half a character \(U\+DC00\)"):
        render(tokenizer, (Message("user", "a\udc00"),), ChatOptions(), "rows:1")


@pytest.mark.parametrize("kind", ["half a character", "nothing", "itself"])
def test_judges_and_the_look_at_a_vocabulary_take_the_same_care(kind: str) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = _ODD[kind][0]
    with pytest.raises(RowRefused, match="answer 1: the chat template"):
        Classifier(None, tokenizer, "the judge").row_of((Message("user", "a"),), "b", "answer 1")
    tokenizer.add_tokens(["<|new|>"])
    require_rows(tokenizer, len(tokenizer) - 1, "tiny")


def test_a_row_alone_can_be_the_one_that_is_refused() -> None:
    tokenizer, pairs = tiny_tokenizer(), chat_pairs(4)
    last = json.dumps(pairs[1].chosen[0].content)  # type: ignore[union-attr]
    tokenizer.chat_template = f"{{% if messages[-1].content == {last} %}}{{{{ '\\ud800' }}}}{{% endif %}}{CHATML}"
    found = tokenize_records(pairs, tokenizer, max_length=512)
    assert list(found.kept) == [0, 2, 3]
