"""Secrets are told to nobody, and a whole run speaks to nobody."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from likelier.runs.folder import RunFolder
from likelier.utils.errors import HubError
from likelier.utils.redaction import HIDDEN, without_secrets
from tests.helpers.small_runs import SmallRuns, pair_rows, read_card, save_tiny, write_rows

TOKEN = "hf_" + "pLaNtEdSeCrEt" * 2
PASSWORD = "planted-password-7"


# --- secrets and the network -----------------------------------------------------------------------------------------


def test_secrets_are_taken_out_and_words_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", PASSWORD)
    for hidden in (
        TOKEN,
        f"401 for url https://huggingface.co/x (token {TOKEN})",
        "https://someone:swordfish@host/data",
        "https://host/data?x=1&access_token=abc",
        "https://host/data?X-Amz-Signature=abc",
        "Authorization: Bearer abcdefghijklmnopqrst",
        "ghp_" + "a" * 36,
        f"key {PASSWORD} of an environment variable",
    ):
        told = json.dumps(without_secrets({"a": [hidden, {"b": hidden}]}))
        assert HIDDEN in told and not [
            word for word in (TOKEN, "swordfish", "=abc", "abcdef", "aaa", PASSWORD) if word in told
        ]
    plain = {
        "token_budget": 1024,
        "eos_token": "</s>",
        "data": "me@host/x",
        "model": "hf/model_key=1",
        "n": [1.5, None],
    }
    assert without_secrets(plain) == plain
    assert without_secrets({"token": "x", "hub_token": "y", "password": 3}) == {
        "token": HIDDEN,
        "hub_token": HIDDEN,
        "password": 3,
    }


def test_the_hubs_words_hold_no_token(runs: SmallRuns, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    from likelier.runs.hub import push_run

    def refuse(*words: object, **more: object) -> None:
        raise RuntimeError(f"401 for https://someone:{TOKEN}@huggingface.co")

    monkeypatch.setattr("likelier.runs.hub.check_repository", lambda repository: None)
    monkeypatch.setattr(huggingface_hub, "HfApi", refuse)
    with pytest.raises(HubError) as told:
        push_run(runs.adapter, "someone/name")
    assert TOKEN not in str(told.value) and "401" in str(told.value)


QUIET = """
import socket, sys
asked = []
def refuse(*words, **more):
    asked.append(words)
    raise OSError(f"the network was asked for: {words}")
for name in ("connect", "connect_ex", "sendto"):
    setattr(socket.socket, name, refuse)
for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "create_connection"):
    setattr(socket, name, refuse)
from likelier.cli.main import main
model, data, root = sys.argv[1:]
lora = ["--lora-r", "4", "--eval-fraction", "0.25", "--save-steps", "1", "--eval-new-tokens", "4"]
for number in ("1", "2"):
    words = ["train", f"{root}/run.yaml", "--model", model, "--data", data, "--output", f"{root}/{number}", *lora]
    assert main([*words, "--seed", number]) == 0
assert main(["report", f"{root}/1"]) == 0
assert main(["diagnose", f"{root}/1"]) in (0, 3)
assert main(["compare", f"{root}/1", f"{root}/2", "--output", f"{root}/compare.html"]) == 0
page = ["--output", f"{root}/audit.html", "--format", "html"]
assert main(["audit", data, "--model", model, *page]) in (0, 3)
assert main(["inspect", f"{root}/1", "--row", "1", "--html", f"{root}/inspect.html"]) == 0
assert main(["chat", f"{root}/1", "--prompt", "hello", "--max-new-tokens", "2"]) == 0
assert main(["score", "--model", f"{root}/1", "--data", data, "--output", f"{root}/scores.jsonl"]) == 0
assert main(["merge", f"{root}/1", f"{root}/merged"]) == 0
assert not asked, asked
"""


class Whole(NamedTuple):
    """The folder of everything that a user may do with a model, done in one process, and what was said."""

    root: Path
    said: str


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """HF_HUB_OFFLINE is not set: nothing is asked for because nothing wants to."""
    root = tmp_path_factory.mktemp("whole")
    model, data = save_tiny(root / "tiny"), write_rows(root / "pairs.jsonl", pair_rows())
    address = f"https://someone:{PASSWORD}@host/x?token={TOKEN}"
    options = {"batch_size": 4, "max_steps": 2, "trainer": {"run_name": address}}
    (root / "run.yaml").write_text(yaml.safe_dump(options), encoding="utf-8")
    names = ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    environment |= {"HF_TOKEN": TOKEN, "WANDB_API_KEY": PASSWORD, "HF_HOME": str(root / "hf")}
    environment |= {"LIKELIER_CACHE": str(root / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", QUIET, str(model), str(data), str(root)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Whole(root, done.stdout + done.stderr)


@pytest.mark.slow
def test_nothing_is_asked_of_the_network(whole: Whole) -> None:
    assert (whole.root / "merged" / "model.safetensors").is_file() and "the network was asked" not in whole.said


@pytest.mark.slow
def test_no_written_file_holds_a_secret(whole: Whole) -> None:
    read = 0
    for file in whole.root.rglob("*"):
        if file.is_file() and file.name != "run.yaml":
            content, read = file.read_bytes(), read + 1
            assert TOKEN.encode() not in content and PASSWORD.encode() not in content, file.name
    assert read > 50 and TOKEN not in whole.said and PASSWORD not in whole.said
    card = read_card(whole.root / "1")
    assert card["options"]["trainer"]["run_name"] == f"https://{HIDDEN}@host/x?token={HIDDEN}"


@pytest.mark.slow
def test_a_run_with_a_hidden_secret_can_still_go_on(whole: Whole) -> None:
    """What is recorded is compared with what is given, both without secrets."""
    run, card = RunFolder(whole.root / "1"), read_card(whole.root / "1")
    options = {"run_name": f"https://someone:{PASSWORD}@host/x?token={TOKEN}"}
    run.check_fingerprint(run.read_fingerprint(), card["fingerprint"] | {"trainer": options})
