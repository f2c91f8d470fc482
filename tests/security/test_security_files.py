"""Hostile files and folders: what is read, what is followed, what is shown of it."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import yaml

from likelier.cli import main as cli
from likelier.data import archives
from likelier.data.load import load_preferences
from likelier.data.slices import without_decoding
from likelier.data.sources import read_rows
from likelier.insight.audit import as_html as audit_page
from likelier.runs.card import RunCard, checked_card
from likelier.runs.folder import RunFolder, final_folder
from likelier.runs.hub import published_files
from likelier.runs.model_card import model_card
from likelier.runs.reader import read_run
from likelier.utils.errors import DataError, LikelierWarning, RunFolderError
from likelier.utils.files import below, cache_folder, seal, write_whole
from tests.helpers.report_runs import EVIL
from tests.helpers.small_runs import SmallRuns, read_card, train, write_card, write_rows
from tests.insight.test_report import Page
from tests.security.test_security import Bomb

# --- archives and data -----------------------------------------------------------------------------------------------


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "HARMLESS", 2**16)


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.json.gz", "rows.csv.gz"])
@pytest.mark.parametrize("content", [b" ", b"\xff"])
def test_a_gzip_bomb_is_refused_before_it_fills_the_memory(
    tmp_path: Path, small_limit: None, name: str, content: bytes
) -> None:
    bomb = tmp_path / name
    bomb.write_bytes(gzip.compress(content * 2**22))
    with pytest.raises(DataError, match=r"unpacks to over 100 times its [\d,]+ bytes|not UTF-8"):
        read_rows(bomb)


@pytest.mark.slow
def test_a_workbook_that_is_a_bomb_is_refused(tmp_path: Path, small_limit: None) -> None:
    bomb = tmp_path / "rows.xlsx"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as held:
        held.writestr("xl/workbook.xml", " " * 2**22)
    with pytest.raises(DataError, match="unpacks to over 100 times"):
        read_rows(bomb)


def test_a_workbooks_xml_cannot_expand_or_read_files(tmp_path: Path) -> None:
    """Entities that multiply, and one that names a file: neither is followed."""
    from openpyxl import Workbook

    book = Workbook()
    assert book.active is not None
    for line in (["prompt", "chosen", "rejected"], ["SECRET", "b", "c"]):
        book.active.append(line)
    book.save(tmp_path / "good.xlsx")
    (tmp_path / "secret").write_text("told", encoding="utf-8")
    lines = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))
    for evil, use in ((f'<!ENTITY e0 "ha">{lines}', "&e9;"), (f'<!ENTITY e SYSTEM "{tmp_path}/secret">', "&e;")):
        with zipfile.ZipFile(tmp_path / "good.xlsx") as old, zipfile.ZipFile(tmp_path / "bad.xlsx", "w") as new:
            for entry in old.namelist():
                text = old.read(entry).decode().replace("SECRET", use)
                head, mark, rest = (
                    text.partition("?>") if text.startswith("<?") else ("<?xml version='1.0'", "?>", text)
                )
                has_use = use in text
                new.writestr(entry, f"{head}{mark}<!DOCTYPE x [{evil}]>{rest}" if has_use else text)
        try:
            told = str(list(read_rows(tmp_path / "bad.xlsx").rows))
        except DataError as error:
            told = str(error)
        assert "told" not in told and "haha" not in told


def test_a_picture_in_a_data_set_is_not_fetched(tmp_path: Path) -> None:
    """`datasets` would ask the address that a row names for the picture. JSON columns are still read."""
    picture = {"bytes": None, "path": "http://outside.invalid/x.png"}
    made = datasets.Dataset.from_dict({"chosen": ["a"], "picture": [picture]})
    made = made.cast_column("picture", {"bytes": datasets.Value("binary"), "path": datasets.Value("string")})
    made.save_to_disk(tmp_path / "set")
    about = tmp_path / "set" / "dataset_info.json"
    info = json.loads(about.read_text(encoding="utf-8"))
    info["features"]["picture"] = {"_type": "Image"}
    about.write_text(json.dumps(info), encoding="utf-8")
    [(_, row)] = read_rows(tmp_path / "set").rows
    assert row == {"chosen": "a", "picture": picture}
    nested = datasets.Dataset.from_dict({"more": [[picture]], "one": [{"of": picture, "n": 1}], "read": ['{"a": 1}']})
    nested = nested.cast_column("more", datasets.List(datasets.Image())).cast_column("read", datasets.Json())  # type: ignore[arg-type]
    nested = nested.cast_column("one", {"of": datasets.Image(), "n": datasets.Value("int64")})
    assert next(iter(without_decoding(nested))) == {"more": [picture], "one": {"of": picture, "n": 1}, "read": {"a": 1}}


def test_a_loading_script_is_never_run(tmp_path: Path) -> None:
    """Neither one in a folder that is named, nor (`datasets` 4 and later) one on the hub."""
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "set.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')", encoding="utf-8")
    with pytest.raises(DataError, match="save_to_disk"):
        read_rows(folder)
    with pytest.raises(RuntimeError, match="scripts are no longer supported"):
        datasets.load_dataset(str(folder / "set.py"))
    assert not (tmp_path / "ran").exists()


# --- folders and links -----------------------------------------------------------------------------------------------

OUTSIDE = ["..", ".", "", "../x", "/etc", "a/b", "a/../..", "..\\x", "\0", None, 3, ["x"]]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_run_names_only_folders_of_its_own(tmp_path: Path, name: Any) -> None:
    outside = tmp_path / "x"
    outside.mkdir()
    write_card(outside, {"status": "done"})
    root = tmp_path / "run"
    root.mkdir()
    for status in ("done", "training"):
        write_card(root, {"stages": [{"name": "one", "folder": name, "status": status}]})
        for read in (final_folder, read_run):
            with pytest.raises(RunFolderError, match=r"is damaged: .*folder"):
                read(root)
    entry = {"name": "a", "setting": "a", "status": "done", "varied": {}, "folder": name}
    (root / "sweep.json").write_text(json.dumps({"runs": [entry]}), encoding="utf-8")
    assert cli.main(["compare", str(root)]) == 2
    assert below(root, "1-dpo") == root / "1-dpo"


def test_a_link_in_the_way_of_a_file_is_not_followed(tmp_path: Path) -> None:
    """Somebody else's link under a name that can be guessed, in a folder that several may write."""
    victim = tmp_path / "victim"
    victim.write_text("mine", encoding="utf-8")
    (tmp_path / f".out.json.{os.getpid()}.tmp").symlink_to(victim)
    write_whole(tmp_path / "out.json", b"new")
    assert (tmp_path / "out.json").read_bytes() == b"new" and victim.read_text(encoding="utf-8") == "mine"
    run = tmp_path / "run"
    run.mkdir()
    (run / ".lock").symlink_to(tmp_path / "made")
    with pytest.raises(RunFolderError, match="cannot be written"):
        RunFolder(run).lock()
    assert not (tmp_path / "made").exists()


def test_the_cache_is_its_owners_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIKELIER_CACHE", str(tmp_path / "a" / "cache"))
    write_whole(cache_folder() / "reference" / "x" / "one.scores", b"")
    assert cache_folder().stat().st_mode & 0o777 == 0o700
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    monkeypatch.setenv("LIKELIER_CACHE", str(shared))
    with pytest.warns(LikelierWarning, match="can be changed by others"):
        cache_folder()
    cache_folder()  # said once
    monkeypatch.setenv("LIKELIER_CACHE", "/proc/nowhere")
    assert cache_folder() == Path("/proc/nowhere")


def test_a_link_out_of_a_run_is_not_uploaded(runs: SmallRuns, tmp_path: Path) -> None:
    run = Path(shutil.copytree(runs.adapter, tmp_path / "run"))
    private = tmp_path / "private"
    private.write_text("mine", encoding="utf-8")
    (run / "vocab.txt").symlink_to(private)
    with pytest.raises(RunFolderError, match=r"vocab\.txt is a link that leads out"):
        published_files(run)
    (run / "vocab.txt").unlink()
    (run / "vocab.txt").symlink_to("run.json")
    assert "vocab.txt" in published_files(run)


# --- pages -----------------------------------------------------------------------------------------------------------


def harmless(html: str) -> Page:
    """A page without script, request, or way out of its text, and with a policy that forbids them anyway."""
    page = Page(html)
    policy = [attrs for name, attrs in page.elements if name == "meta" and "http-equiv" in attrs]
    assert policy == [
        {"http-equiv": "Content-Security-Policy", "content": "default-src 'none'; style-src 'unsafe-inline'"}
    ]
    names = [name for name, _ in page.elements]
    assert not {"script", "iframe", "object", "embed", "link", "img", "form", "base", "image", "foreignObject"} & {
        *names
    }
    for _, attrs in page.elements:
        assert not [name for name in attrs if name.startswith("on") or name in ("src", "srcset", "xlink:href")]
        assert (attrs.get("href") or "#").startswith("#")
    assert names.count("style") == html.count("</style>")
    assert not set(html) & {"\x1b", "\x07", "\x9b", "\u202e"}
    return page


def poisoned(value: Any, keep: tuple[str, ...] = ("status", "method", "when", "folder")) -> Any:
    """JSON in which every text is hostile, but for words that decide what is shown."""
    if isinstance(value, dict):
        return {name: part if name in keep else poisoned(part) for name, part in value.items()}
    if isinstance(value, list):
        return [poisoned(part) for part in value]
    return f"{EVIL} javascript:alert(1)" if isinstance(value, str) else value


@pytest.fixture
def evil_runs(runs: SmallRuns, tmp_path: Path) -> list[Path]:
    """Two runs under a name that is markup, whose files say nothing but markup."""
    found = []
    for number, run in enumerate((runs.adapter, runs.whole)):
        folder = Path(shutil.copytree(run, tmp_path / f"{number}<img src=x onerror=alert(1)>\x1b[31m"))
        for file in (folder / "run.json", folder / "audit.json", *(folder / "evaluations").glob("*.json")):
            if file.is_file():
                content = json.loads(file.read_text(encoding="utf-8"))
                content.pop("files", None)  # who changes the files leaves out what they were
                file.write_text(json.dumps(poisoned(content)), encoding="utf-8")
        found.append(folder)
    return found


def test_pages_and_tables_of_hostile_runs_are_harmless(
    evil_runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    for words in (
        *(["report", str(run), "--output", str(page)] for run in evil_runs),
        ["compare", *map(str, evil_runs), "--output", str(page)],
    ):
        assert cli.main(words) == 0, capsys.readouterr().err
        assert "javascript:" in harmless(page.read_text(encoding="utf-8")).text or words[0] == "compare"
        page.unlink()
    for words in (["diagnose", str(evil_runs[0])], ["watch", "--once", str(evil_runs[0])]):
        assert cli.main(words) in (0, 3)
    shown = capsys.readouterr()
    assert not set(shown.out + shown.err) & {"\x1b", "\x07", "\x9b", "\u202e"}


def test_the_audits_page_is_harmless(tmp_path: Path) -> None:
    from likelier.data.audit.checks import audit_records

    evil = EVIL.replace("\ud800", "")
    rows = [{"prompt": evil, "chosen": f"{evil} {n}", "rejected": f"{n}"} for n in (1, 1, 2)]
    data = load_preferences(write_rows(tmp_path / "<img src=x onerror=alert(1)>.jsonl", rows))
    audit = audit_records(data.train, data.unusable, show=True, name=f"{evil}.jsonl", format=evil)
    assert "<img src=http" in harmless(audit_page(audit)).text


def test_a_hostile_card_stays_inside_its_page(runs: SmallRuns) -> None:
    card = poisoned(read_card(runs.adapter)) | {"method": "dpo\n---\nlicense: evil\n", "status": "| --- |\n# head"}
    card["data"]["train"] = {"groups": EVIL, "unusable": EVIL}
    card["run"]["data"] = "www.e.vil |x| someone@e.vil"
    page = model_card(RunCard.of(card), f"{EVIL}\n# head")
    _, front, body = re.split(r"^---\n", page, maxsplit=2, flags=re.MULTILINE)
    assert set(yaml.safe_load(front)) == {"library_name", "pipeline_tag", "tags"}
    assert "\n# head" not in body and "www.e" not in body and "someone@" not in body and "://" not in body
    assert not {"<script", "<img", "\x1b"} & {part for part in ("<script", "<img", "\x1b") if part in body}
    for line in body.splitlines():
        if line.startswith("|") and "|---" not in line and line != "| | |" and "before" not in line:
            assert line.replace("\\|", "").count("|") in (3, 4)


@pytest.mark.parametrize("evil", [{"data": 3}, {"evaluation_end": {"eval_loss": "x"}}, {"stages": [3]}])
def test_a_damaged_card_is_our_error(evil: dict[str, Any]) -> None:
    with pytest.raises(RunFolderError, match=r"run\.json is damaged"):
        checked_card(evil, "run.json")


def test_a_pickle_in_a_checkpoint_does_not_run(runs: SmallRuns, tmp_path: Path) -> None:
    """Optimizer and random state are read with `weights_only`: a hostile one is an error."""
    run = train(runs.model, runs.pairs, tmp_path / "run", "--save-steps", "1")
    for file in ("config.json", "model.safetensors"):
        (run / file).unlink()
    write_card(run, read_card(run) | {"status": "failed"})
    shutil.rmtree(run / "checkpoints" / "step-2")
    checkpoint = run / "checkpoints" / "step-1"
    pickled = [file for file in checkpoint.iterdir() if file.suffix in (".pt", ".pth")]
    assert pickled
    for file in pickled:
        torch.save(Bomb(tmp_path / "ran"), file)
    seal(checkpoint)
    again = ["--model", runs.model, "--data", runs.pairs, "--output", run, "--batch-size", "4", "--max-steps", "2"]
    assert cli.main([*map(str, ["train", *again, "--save-steps", "1", "--resume"])]) != 0
    assert not (tmp_path / "ran").exists()
