"""Nothing in a folder of ours is followed out of it: not for reading, not for writing, not for deleting."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from likelier.cli import main as cli
from likelier.data.token_cache import RecordIds, TokenFolder
from likelier.experiments.sweep.record import SweepRecord
from likelier.runs.folder import RunFolder, final_folder
from likelier.runs.ownership import take_away_begun
from likelier.runs.reader import read_run
from likelier.scoring.reference.store import ReferenceStore
from likelier.utils.errors import RunFolderError
from likelier.utils.files import append_line, below, flaw_of, made_anew, moved_when_whole, seal
from tests.helpers.small_runs import SmallRuns, pair_rows, train, write_card, write_rows

FILES = ["run.json", "metrics.jsonl", "audit.json", "README.md"]
FOLDERS = ["evaluations", "skipped", "checkpoints", ".new-files"]
WAYS = ["dangling", "file", "folder"]


def outside(root: Path, way: str) -> Path:
    """Somebody's own file or folder, or a place where nothing is yet."""
    place = root / "outside" / way
    place.parent.mkdir(exist_ok=True)
    if way == "file":
        place.write_text("{}\n", encoding="utf-8")
    elif way == "folder":
        place.mkdir()
        (place / "step-7.json").write_text("{}", encoding="utf-8")
        (place / "step-9").mkdir()
        (place / "step-9" / "mine").write_text("mine", encoding="utf-8")
    return place


def state(root: Path) -> dict[str, Any]:
    """Every entry below a folder with what it holds and when it changed."""
    return {
        str(path.relative_to(root)): (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in [root, *root.rglob("*")]
    }


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", [*FILES, *FOLDERS])
def test_a_run_does_not_begin_or_go_on_over_a_link(name: str, way: str, resume: bool, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / name).symlink_to(outside(tmp_path, way))
    before = state(tmp_path)
    with pytest.raises(RunFolderError, match=r"is a link, and nothing in a folder of likelier is followed"):
        RunFolder(run).open(resume=resume)
    assert state(tmp_path) == before


@pytest.mark.parametrize("inner", ["step-1", ".staging", "step-1/model.safetensors", "step-1/deep/link"])
def test_a_checkpoint_with_a_link_is_not_used(inner: str, tmp_path: Path) -> None:
    run, place = tmp_path / "run", outside(tmp_path, "folder")
    link = run / "checkpoints" / inner
    link.parent.mkdir(parents=True)
    link.symlink_to(place)
    before = state(tmp_path)
    with pytest.raises(RunFolderError, match="is a link"):
        RunFolder(run).open(resume=True)
    if inner != ".staging":
        assert "is a link" in str(flaw_of(run / "checkpoints" / "step-1"))
    assert state(tmp_path) == before


@pytest.mark.parametrize("name", ["../../outside/file", "/etc/hostname", "deep/../../x"])
def test_a_manifest_names_nothing_elsewhere(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints" / "step-1"
    folder.mkdir(parents=True)
    seal(folder)
    assert flaw_of(folder) is None
    (folder / "manifest.json").write_text(json.dumps({"files": {name: 3}}), encoding="utf-8")
    assert "a file elsewhere" in str(flaw_of(folder))


@pytest.fixture
def run(runs: SmallRuns, tmp_path: Path) -> Path:
    return Path(shutil.copytree(runs.adapter, tmp_path / "run"))


@pytest.mark.parametrize("name", [*FILES[:3], "evaluations", "evaluations/step-2.json", "skipped"])
def test_what_a_run_wrote_is_not_read_through_a_link(name: str, run: Path, tmp_path: Path) -> None:
    real = tmp_path / "real"
    if (run / name).exists():
        (run / name).rename(real)
    else:
        real.mkdir()
    (run / name).symlink_to(real)
    with pytest.raises(RunFolderError, match="is a link"):
        read_run(run)
    for command in ("report", "diagnose"):
        assert cli.main([command, str(run)]) == 2
    assert not (run / "report.html").exists()


def test_nothing_is_written_or_deleted_through_a_link_that_came_later(run: Path, tmp_path: Path) -> None:
    folder, place = RunFolder(run), outside(tmp_path, "folder")
    for name in ("evaluations", "skipped"):
        shutil.rmtree(run / name, ignore_errors=True)
        (run / name).symlink_to(place)
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").symlink_to(tmp_path / "made")
    before = state(tmp_path / "outside")
    for write in (
        lambda: folder.write_evaluation({"step": 3}),
        lambda: folder.write_skipped({"step": 3}),
        lambda: folder.append_metrics({"step": 3}),
        lambda: folder.go_back_to(-1),
        lambda: folder.read_metrics(),
        lambda: folder.read_evaluation(7),
        lambda: take_away_begun(run),
    ):
        with pytest.raises(RunFolderError, match=r"is a link|Too many levels"):
            write()
    assert state(tmp_path / "outside") == before and not (tmp_path / "made").exists()


@pytest.mark.parametrize("way", WAYS)
def test_a_line_and_the_models_files_replace_no_links_end(way: str, tmp_path: Path) -> None:
    run, place = tmp_path / "run", outside(tmp_path, way)
    run.mkdir()
    before = state(tmp_path / "outside")
    for name in ("log", "config.json", ".new-files"):
        (run / name).symlink_to(place)
    with pytest.raises(OSError, match="Too many levels"):
        append_line(run / "log", "x")
    with moved_when_whole(run) as staging:
        (staging / "config.json").write_text("ours", encoding="utf-8")
    assert (run / "config.json").read_text(encoding="utf-8") == "ours" and not (run / "config.json").is_symlink()
    (run / "templates").symlink_to(place)
    with pytest.raises(RunFolderError, match="is a link"), moved_when_whole(run) as staging:
        (staging / "templates").mkdir()
    assert state(tmp_path / "outside") == before


@pytest.mark.parametrize("way", WAYS)
def test_stages_and_sweeps_stay_in_their_folder(way: str, tmp_path: Path, runs: SmallRuns) -> None:
    root, place = tmp_path / "root", outside(tmp_path, way)
    root.mkdir()
    write_card(root, {"status": "done", "stages": [{"name": "one", "folder": "1-dpo", "status": "done"}]})
    (root / "1-dpo").symlink_to(place)
    for read in (final_folder, read_run, lambda folder: below(folder, "1-dpo")):
        with pytest.raises(RunFolderError, match="is a link"):
            read(root)
    swept = tmp_path / "swept"
    swept.mkdir()
    (swept / "sweep.json").symlink_to(place)
    with pytest.raises(RunFolderError, match="is a link"):
        SweepRecord.read(swept)
    before = state(tmp_path)
    words = ["sweep", "--vary", "dpo.beta=0.1,0.2", "--model", runs.model, "--data", runs.pairs, "--output", swept]
    words += ["--eval-fraction", "0.25"]
    assert cli.main([*map(str, words)]) == 2 and cli.main([*map(str, words), "--resume"]) == 2
    assert state(tmp_path) == before


@pytest.mark.parametrize("way", WAYS)
def test_a_cache_is_not_left(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIKELIER_CACHE", str(tmp_path / "cache"))
    place, cache = outside(tmp_path, way), tmp_path / "cache"
    (cache / "reference").mkdir(parents=True)
    (cache / "tokens").mkdir()
    before, ids = state(tmp_path / "outside"), np.arange(3, dtype=np.int32)
    (cache / "reference" / "identity").symlink_to(place)
    with pytest.raises(RunFolderError, match="is a link"):
        ReferenceStore(cache / "reference", "identity")
    (cache / "reference" / "other").mkdir()
    (cache / "reference" / "other" / "a.scores").symlink_to(place)
    store = ReferenceStore(cache / "reference", "other")
    assert len(store) == 0
    (cache / "tokens" / "key").symlink_to(place)
    with pytest.raises(RunFolderError, match="is a link"):
        TokenFolder(cache / "tokens" / "key").read()
    (cache / "tokens" / f".new.{os.getpid()}").symlink_to(place)
    TokenFolder(cache / "tokens" / "new").write([RecordIds(ids, (ids,), False)])
    assert state(tmp_path / "outside") == before
    for name in ("reference", "tokens"):
        shutil.rmtree(cache / name)
        (cache / name).symlink_to(place)
    with pytest.raises(RunFolderError, match="is a link"):
        ReferenceStore(cache / "reference", "identity")
    assert state(tmp_path / "outside") == before


def test_a_temporary_folder_is_made_anew(tmp_path: Path) -> None:
    place = outside(tmp_path, "folder")
    before = state(place)
    for way in ("link", "folder", "nothing"):
        folder = tmp_path / way
        if way == "link":
            folder.symlink_to(place)
        elif way == "folder":
            (folder / "old").mkdir(parents=True)
        made_anew(folder)
        assert folder.is_dir() and not folder.is_symlink() and not list(folder.iterdir())
    assert state(place) == before


def test_the_users_own_folder_may_be_a_link(runs: SmallRuns, tmp_path: Path) -> None:
    """A run on another disk, a cache and a store there."""
    disk = tmp_path / "disk"
    for name in ("run", "cache", "store"):
        (disk / name).mkdir(parents=True)
        (tmp_path / name).symlink_to(disk / name)
    data = write_rows(tmp_path / "pairs.jsonl", pair_rows())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIKELIER_CACHE", str(tmp_path / "cache"))
        more = ["--reference-store", str(tmp_path / "store"), "--save-steps", "1", "--eval-fraction", "0.25"]
        train(runs.model, data, tmp_path / "run", *more)
    assert (disk / "run" / "model.safetensors").is_file() and list((disk / "store").glob("*/*.scores"))
    assert cli.main(["report", str(tmp_path / "run")]) == 0 and (disk / "run" / "report.html").is_file()
