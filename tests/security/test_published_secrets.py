"""No file that may be published holds a secret: of the environment, in an address, in a path, or half of one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from likelier.cli import main as cli
from likelier.data.records import UnusableRows
from likelier.runs.folder import RunFolder
from likelier.runs.hub import published_files
from likelier.runs.model_card import model_card
from likelier.runs.reader import read_run
from likelier.utils.files import base_names
from likelier.utils.redaction import HIDDEN, without_secrets
from tests.helpers.small_runs import SmallRuns, read_card, write_card

ENVIRONMENT = "Zx9-planted/env+secret"  # its last part alone is half of it
TOKEN = "hf_" + "pLaNtEdToKeN" * 2
ADDRESS = f"https://me:swordfish-7@host/x?access_token=Qwerty12345&sig=Abcdef99#{TOKEN}"
NEVER = [ENVIRONMENT, "env+secret", "Zx9-planted", TOKEN, "swordfish-7", "Qwerty12345", "Abcdef99"]


class Place(NamedTuple):
    """A run whose folder, base, data and card hold secrets."""

    root: Path
    run: Path
    data: Path


def holds_none(*texts: str) -> None:
    for text in texts:
        assert not [secret for secret in NEVER if secret in text], text


@pytest.fixture
def place(runs: SmallRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("SOME_API_KEY", ENVIRONMENT)
    root = tmp_path / ENVIRONMENT
    root.parent.mkdir()
    shutil.copytree(runs.model, root / TOKEN)
    run = Path(shutil.copytree(runs.adapter, root / f"run-{TOKEN}"))
    data = Path(shutil.copy(runs.pairs, root / "pairs.jsonl"))
    settings = json.loads((run / "adapter_config.json").read_text(encoding="utf-8"))
    settings["base_model_name_or_path"] = str(root / TOKEN)
    (run / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    card = read_card(run)
    card["run"] |= {"model": str(root / TOKEN), "data": str(data), "output": str(run)}
    card["options"]["trainer"] = {"run_name": ADDRESS}
    card["error"] = f"{root}: {ADDRESS}"
    write_card(run, card)
    return Place(root, run, data)


def test_a_merged_models_papers(place: Place, tmp_path: Path) -> None:
    for out in (place.root / "merged", place.root / f"out-{TOKEN}"):
        assert cli.main(["merge", str(place.run), str(out)]) == 0
        for name in ("README.md", "merge.json", "config.json", "generation_config.json", "tokenizer_config.json"):
            holds_none((out / name).read_text(encoding="utf-8"))
    assert HIDDEN in (place.root / "merged" / "merge.json").read_text(encoding="utf-8")
    (place.root / "merged" / "README.md").write_text(f"see {ADDRESS}", encoding="utf-8")
    config = json.loads((place.root / "merged" / "config.json").read_text(encoding="utf-8"))
    text = json.dumps(config | {"_name_or_path": str(place.root)})
    (place.root / "merged" / "config.json").write_text(text, encoding="utf-8")
    published = published_files(place.root / "merged")
    for name in ("README.md", "config.json", "merge.json"):
        content = published[name]
        holds_none(content.decode() if isinstance(content, bytes) else content.read_text(encoding="utf-8"))


def test_pages_and_what_is_uploaded(place: Place, runs: SmallRuns, capsys: pytest.CaptureFixture[str]) -> None:
    out = place.root / "page.html"
    evil, other, data = str(place.run), str(runs.whole), str(place.data)
    for words in (
        ["report", evil, "--output", str(out)],
        ["compare", evil, other, "--output", str(out)],
        ["inspect", evil, "--row", "1", "--html", str(out)],
        ["audit", data, "--format", "html", "--output", str(out)],
        ["audit", data, "--output", str(out), "--overwrite"],
        ["audit", data, "--format", "json", "--output", str(out), "--overwrite"],
    ):
        assert cli.main(words) in (0, 3), capsys.readouterr().err
        holds_none(out.read_text(encoding="utf-8"))
    for name, content in published_files(place.run).items():
        if isinstance(content, bytes):
            holds_none(content.decode())
        elif content.suffix in (".json", ".md", ".jsonl", ".jinja"):
            holds_none(name, content.read_text(encoding="utf-8"))


def test_cards_and_accounts(place: Place, tmp_path: Path) -> None:
    holds_none(model_card(RunFolder(place.run).card(), base_names(str(place.run))), read_run(place.run).name)
    folder = RunFolder(tmp_path / "new")
    folder.path.mkdir()
    folder.update_card({"a": ADDRESS, "b": [str(place.root)]})
    folder.write_audit(1, UnusableRows(), {"data": f"{place.root}/x.jsonl"})
    folder.write_skipped({"step": 1, "cause": ADDRESS, "rows": [{"source": f"{place.root}/x:1"}]})
    for file in folder.path.rglob("*.json"):
        holds_none(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "text",
    [
        ENVIRONMENT,
        f"/home/me/{ENVIRONMENT}",
        f"/home/me/{ENVIRONMENT}/model",
        f"C:\\x\\{TOKEN}\\model",
        ADDRESS,
        f"s3://bucket/{TOKEN}?X-Amz-Signature=Abcdef99",
        "https://Zx9-planted-0123456789@host/x",
    ],
)
def test_secrets_go_before_paths_are_cut(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("other_token", ENVIRONMENT)
    holds_none(base_names(text), *base_names([text, {"a": text}])[0:1], str(without_secrets(text)))
