"""No command fetches compiled code of the hub, whatever a model's configuration asks for."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import transformers as hf
from transformers import modeling_utils
from transformers.integrations import hub_kernels

from likelier.cli.main import main
from likelier.models.safe_loading import read_config
from tests.helpers.small_runs import pair_rows, save_tiny, write_rows
from tests.helpers.support import tiny_tokenizer

_ASKED: tuple[dict[str, Any], ...] = (
    {"attn_implementation": "someone/kernel"},
    {"_attn_implementation": "someone/kernel@main:attend"},
    {"attn_implementation": {"": "sdpa", "text_config": "someone/kernel"}},
    {"text_config": {"attn_implementation": "paged|someone/kernel"}},
    {"parts": [{"_attn_implementation_internal": "kernels-community/flash-attn3"}]},
    {"attn_implementation": "flash_attention_2"},
    {"experts_implementation": "sonicmoe"},
)
_COMMANDS = (
    ["train", "--model", "{model}", "--data", "{data}", "--output", "{out}"],
    ["estimate", "--model", "{model}"],
    ["recommend", "{data}", "--model", "{model}"],
    ["audit", "{data}", "--model", "{model}"],
    ["score", "--model", "{model}", "--data", "{data}", "--output", "{out}"],
    ["merge", "{model}", "{out}"],
    ["chat", "{model}", "--prompt", "a"],
)


@pytest.fixture
def cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package kernels as if it were installed, and a failure for whoever asks for one or opens a connection."""

    def asked(*args: Any, **others: Any) -> Any:
        pytest.fail(f"asked for {args}")

    monkeypatch.setattr(modeling_utils, "is_kernel", lambda name: bool(name) and "/" in name)
    monkeypatch.setattr(hub_kernels, "is_kernels_available", lambda *args, **others: True)
    monkeypatch.setattr(hub_kernels, "get_kernel", asked)
    monkeypatch.setattr(socket.socket, "connect", asked)


def _asking(folder: Path, changes: dict[str, Any]) -> Path:
    file = save_tiny(folder) / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return folder


@pytest.mark.parametrize("command", _COMMANDS, ids=lambda words: words[0])
def test_no_command_fetches_a_kernel(command: list[str], tmp_path: Path, cut_off: None, capsys: Any) -> None:
    data = write_rows(tmp_path / "pairs.jsonl", pair_rows())
    model = _asking(tmp_path / "model", _ASKED[0])
    words = [word.format(model=model, data=data, out=tmp_path / "out") for word in command]
    assert main(words) == 2
    assert "asks for the code 'someone/kernel' of the hub, which likelier does not fetch" in capsys.readouterr().err


@pytest.mark.parametrize("changes", _ASKED, ids=str)
def test_every_way_to_ask_for_a_kernel_is_seen(changes: dict[str, Any], tmp_path: Path, cut_off: None) -> None:
    with pytest.raises(Exception, match="which likelier does not fetch"):
        read_config(str(_asking(tmp_path / "model", changes)), "model")


def test_what_is_at_hand_may_be_named(tmp_path: Path) -> None:
    for changes in (
        {"attn_implementation": "sdpa"},
        {"experts_implementation": "eager"},
        {"attn_implementation": None},
    ):
        assert read_config(str(_asking(tmp_path / "model", changes)), "model").model_type == "llama"


def test_a_judge_fetches_no_kernel(tmp_path: Path, cut_off: None) -> None:
    from likelier.training.rewards import load_judge

    sizes = {"vocab_size": 384, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    config = hf.LlamaConfig(**sizes, num_attention_heads=4, num_labels=1, pad_token_id=0)
    hf.LlamaForSequenceClassification(config).save_pretrained(tmp_path / "judge")
    tiny_tokenizer().save_pretrained(tmp_path / "judge")
    file = tmp_path / "judge" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"attn_implementation": "someone/kernel"}))
    with pytest.raises(Exception, match="which likelier does not fetch"):
        load_judge(str(tmp_path / "judge"))(["a"], ["b"])


def test_a_models_own_code_is_refused_a_kernel_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_kernels, "is_kernels_available", lambda *args, **others: True)
    read_config(str(save_tiny(tmp_path / "model")), "model")
    with pytest.raises(ImportError, match="which likelier does not fetch"):
        hub_kernels.get_kernel("kernels-community/anything", version=1)
    assert hub_kernels.lazy_load_kernel("deep-gemm") is None
