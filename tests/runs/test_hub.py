"""Uploading: what leaves this machine, what does not, and one clear error for whatever the hub says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest

from likelier.runs.hub import check_repository, published_files, push_run
from likelier.utils.errors import HubError, RunFolderError
from tests.helpers.small_runs import SmallRuns, read_card, staged, write_card


class FakeHub:
    """Takes what it is given."""

    private = True
    error: Exception | None = None
    uploads: list[dict[str, Any]]

    def create_repo(self, repository: str, *, private: bool, exist_ok: bool) -> str:
        assert exist_ok
        self.created = (repository, private)
        return f"https://hub.example/{repository}"

    def repo_info(self, repository: str) -> SimpleNamespace:
        return SimpleNamespace(private=self.private)

    def create_commit(self, repository: str, operations: list[Any], *, commit_message: str) -> None:
        if self.error is not None:
            raise self.error
        assert commit_message.startswith("likelier ")
        self.uploads.append({operation.path_in_repo: operation.path_or_fileobj for operation in operations})


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub()
    fake.uploads = []
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: fake)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_token")
    monkeypatch.setattr(huggingface_hub, "is_offline_mode", lambda: False)
    return fake


def content(upload: dict[str, Any], name: str) -> str:
    found = upload[name]
    return found.decode() if isinstance(found, bytes) else Path(found).read_text(encoding="utf-8")


def test_a_run_is_uploaded_without_what_belongs_to_this_machine(runs: SmallRuns, tmp_path: Path, hub: FakeHub) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs.adapter, run)
    for name in (".lock", "samples.json", "report.html", "notes.txt"):
        (run / name).write_text("mine", encoding="utf-8")
    for folder in ("checkpoints/step-1", "reference/ab"):
        (run / folder).mkdir(parents=True)
        (run / folder / "model.safetensors").write_text("mine", encoding="utf-8")
    audit = {
        "rows": 3,
        "usable": 1,
        "excerpt": "the text of a row",
        "findings": [
            {
                "name": "empty-answer",
                "count": 2,
                "text": "secret",
                "examples": [f"{tmp_path}/my data/pairs.jsonl:3", "a row's text: 12", "rows, row 2", {"text": "x"}],
            }
        ],
    }
    (run / "audit.json").write_text(json.dumps(audit), encoding="utf-8")
    assert push_run(run, "me/mine") == "https://hub.example/me/mine"
    assert hub.created == ("me/mine", True)
    (upload,) = hub.uploads
    assert sorted(upload) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "audit.json",
        "chat_template.jinja",
        "metrics.jsonl",
        "run.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    for name in upload:
        if name.endswith((".json", ".jsonl", ".md", ".jinja")):
            assert str(tmp_path) not in content(upload, name) and str(runs.model.parent) not in content(upload, name)
    assert json.loads(content(upload, "run.json"))["run"]["data"] == "pairs.jsonl"
    assert json.loads(content(upload, "adapter_config.json"))["base_model_name_or_path"] == "tiny"
    finding = {"name": "empty-answer", "count": 2, "examples": ["pairs.jsonl:3", "rows, row 2"]}
    assert json.loads(content(upload, "audit.json")) == {"rows": 3, "usable": 1, "findings": [finding]}


def test_the_last_stage_of_a_staged_run_is_uploaded(runs: SmallRuns, tmp_path: Path, hub: FakeHub) -> None:
    root = staged(tmp_path / "staged", ("sft", runs.adapter), ("dpo", runs.whole))
    push_run(root, "me/mine", private=False)
    assert hub.created == ("me/mine", False)
    assert "model.safetensors" in hub.uploads[0] and "adapter_config.json" not in hub.uploads[0]


def test_a_demo_adapter_names_the_base_that_others_can_have(runs: SmallRuns, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs.adapter, run)
    card = read_card(run)
    write_card(run, card | {"run": card["run"] | {"model": "demo"}})
    settings = published_files(run)["adapter_config.json"]
    assert isinstance(settings, bytes)
    assert json.loads(settings)["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_a_folder_without_finished_model_is_refused(runs: SmallRuns, tmp_path: Path, hub: FakeHub) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs.whole, run)
    write_card(run, read_card(run) | {"status": "failed"})
    with pytest.raises(RunFolderError, match="not finished"):
        push_run(run, "me/mine")
    with pytest.raises(RunFolderError, match="holds no model"):
        push_run(tmp_path, "me/mine")
    assert not hub.uploads


def test_a_public_repository_is_not_taken_for_a_private_one(runs: SmallRuns, hub: FakeHub) -> None:
    hub.private = False
    with pytest.raises(HubError, match="is public already"):
        push_run(runs.whole, "me/mine")
    assert not hub.uploads
    push_run(runs.whole, "me/mine", private=False)
    assert len(hub.uploads) == 1


@pytest.mark.parametrize("error", [OSError("no route to host"), RuntimeError("403 Forbidden\nmore"), ValueError("")])
def test_whatever_the_hub_says_is_one_error(runs: SmallRuns, hub: FakeHub, error: Exception) -> None:
    hub.error = error
    with pytest.raises(HubError, match="did not take the upload") as caught:
        push_run(runs.whole, "me/mine")
    assert (str(error).split("\n")[0] or "ValueError") in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["mine", "me/", "a/b/c", "me/mi ne", "me/x--y", "me/x.git", "https://hub/me/mine", ""])
def test_a_name_that_is_none_is_refused(hub: FakeHub, name: str) -> None:
    with pytest.raises(HubError, match="is no name of a hub repository"):
        check_repository(name)


def test_a_missing_token_is_said_beforehand(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    check_repository("me/mine")
    monkeypatch.setattr(huggingface_hub, "is_offline_mode", lambda: True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE"):
        check_repository("me/mine")
    monkeypatch.setattr(huggingface_hub, "is_offline_mode", lambda: False)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(HubError, match="hf auth login"):
        check_repository("me/mine")

    def expired() -> str:
        raise RuntimeError("the login has expired")

    monkeypatch.setattr(huggingface_hub, "get_token", expired)
    with pytest.raises(HubError, match="has expired"):
        check_repository("me/mine")
