"""What is on disk when a machine stops: files written whole, checkpoints rotated, slices of several ranks."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from likelier.models.sharding import ShardedCheckpoint, _rows, save_shards
from likelier.runs.checkpoints import FINGERPRINT, Checkpoints, differences, step_of
from likelier.utils.distributed import ALONE
from likelier.utils.errors import LikelierWarning, RunFolderError
from likelier.utils.files import flaw_of, moved_when_whole, seal, write_whole
from tests.helpers.slices import recut
from tests.helpers.support import tiny_model

# --- written whole ---------------------------------------------------------------------------------------------------


BY_DESCRIPTOR = Path("/proc/self/fd")
by_descriptor = pytest.mark.skipif(not BY_DESCRIPTOR.is_dir(), reason="looks at files by their descriptors")


def content_of(path: str | Path) -> bytes:
    return Path(path).read_bytes() if Path(path).is_file() else b""


def number_of(path: Path) -> int:
    return path.stat().st_ino


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class Disk:
    """Notes, in order, what is made sure of and what is moved: names, and the content at that time."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.log: list[tuple[str, int, bytes]] = []
        fsync, replace = os.fsync, os.replace

        def synced(descriptor: int) -> None:
            fsync(descriptor)
            self.log.append(("synced", os.fstat(descriptor).st_ino, content_of(f"/proc/self/fd/{descriptor}")))

        def moved(old: Any, new: Any) -> None:
            self.log.append(("moved", number_of(Path(old)), content_of(old)))
            replace(old, new)

        patch.setattr(os, "fsync", synced)
        patch.setattr(os, "replace", moved)


@by_descriptor
def test_a_file_is_on_disk_before_it_takes_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"old")
    disk = Disk(monkeypatch)
    for content in (b"new", b"", bytes(100_000)):
        disk.log.clear()
        write_whole(tmp_path / "file", content)
        inode, folder = number_of(tmp_path / "file"), number_of(tmp_path)
        assert disk.log == [("synced", inode, content), ("moved", inode, content), ("synced", folder, b"")]
        assert names_in(tmp_path) == ["file"]


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write_whole(tmp_path / "file", b"old")

    def fail(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, name, fail)
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "file", b"new")
    assert names_in(tmp_path) == ["file"] and (tmp_path / "file").read_bytes() == b"old"


@by_descriptor
def test_files_are_on_disk_before_they_are_moved_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    with moved_when_whole(tmp_path) as staging:
        (staging / "weights").write_bytes(b"weights")
        (staging / "inner").mkdir()
        (staging / "inner" / "settings").write_bytes(b"settings")
    moves = [number for number, entry in enumerate(disk.log) if entry[0] == "moved"]
    before = {entry[2] for entry in disk.log[: moves[0]]}
    assert {b"weights", b"settings"} <= before
    assert len(moves) == 2 and disk.log[-1][:2] == ("synced", number_of(tmp_path))


# --- checkpoints -----------------------------------------------------------------------------------------------------


def put(checkpoints: Checkpoints, step: int, keep: int | None = None) -> Path:
    staged = checkpoints.staging / "new"
    staged.mkdir(parents=True)
    (staged / "weights").write_bytes(bytes(100 + step))
    (staged / "fingerprint.json").write_text(json.dumps({"step": step}))  # its name in the folders of every version
    return checkpoints.put(staged, step, keep)


def tear(checkpoints: Checkpoints, *steps: int) -> None:
    for step in steps:
        os.truncate(checkpoints.path / f"step-{step}" / "weights", 10)


def there(checkpoints: Checkpoints) -> list[int]:
    return sorted(step_of(path) for path in checkpoints.path.iterdir())


@pytest.mark.parametrize(
    ("torn", "now", "keep", "left"),
    [
        ((4, 6), 3, 1, [3]),  # newer torn ones do not push the new one out
        ((4, 6), 3, 2, [2, 3]),
        ((6,), 4, 1, [4]),
        ((2, 4), 8, 1, [8]),
        ((4,), 8, 2, [6, 8]),
        ((), 8, 3, [4, 6, 8]),
        ((2, 4, 6), 8, None, [2, 4, 6, 8]),
    ],
)
def test_rotation_keeps_the_newest_whole_ones(
    tmp_path: Path, torn: Sequence[int], now: int, keep: int | None, left: list[int]
) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for step in (2, 4, 6):
        put(checkpoints, step)
    tear(checkpoints, *torn)
    assert put(checkpoints, now, keep) == checkpoints.path / f"step-{now}"
    assert there(checkpoints) == left
    assert flaw_of(checkpoints.path / f"step-{now}") is None


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_whatever_is_torn_the_checkpoint_just_written_is_whole_and_stays(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    checkpoints = Checkpoints(tmp_path_factory.mktemp("rotation") / "checkpoints")
    whole: set[int] = set()
    for step in data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=6)):
        keep = data.draw(st.integers(1, 3))
        put(checkpoints, step, keep)
        whole = set(sorted(whole | {step}, reverse=True)[:keep])
        assert set(there(checkpoints)) == whole
        torn = data.draw(st.sets(st.sampled_from(sorted(whole))))
        tear(checkpoints, *torn)
        whole -= torn
        newest = checkpoints.newest()
        assert newest == (checkpoints.path / f"step-{max(whole)}" if whole else None)


def test_the_newest_whole_one_is_found_and_read(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.newest() is None and checkpoints.read_fingerprint() is None and checkpoints.flaws() == {}
    for step in (2, 10, 9):  # as numbers, not as texts
        put(checkpoints, step)
    assert checkpoints.newest() == checkpoints.path / "step-10"
    tear(checkpoints, 10)
    with pytest.warns(LikelierWarning, match="step-10 is not whole") as told:
        assert checkpoints.newest(warned=True) == checkpoints.path / "step-9"
        checkpoints.newest(warned=True)
    assert len(told) == 1 and checkpoints.read_fingerprint() == {"step": 9}
    assert list(checkpoints.flaws()) == [10, 9, 2]
    assert not checkpoints.staging.exists()


def test_a_step_written_again_replaces_the_torn_one(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    put(checkpoints, 4)
    tear(checkpoints, 4)
    put(checkpoints, 4, 1)
    assert there(checkpoints) == [4] and checkpoints.newest() == checkpoints.path / "step-4"


@pytest.mark.parametrize(
    ("name", "step"),
    [("step-12", 12), ("step-3.json", 3), ("step-3.rank-1.json", 3), ("step-", -1), ("xstep-3", -1), ("step-3x", -1)],
)
def test_the_step_in_a_name(name: str, step: int) -> None:
    assert step_of(Path(name)) == step


def test_every_part_of_a_fingerprint_counts_and_an_unknown_reference_does_not() -> None:
    before = {"beta": 0.1, "data_hash": "a", "eval_hash": "b", "reference": "c", "token_budget": None}
    assert differences(before, dict(before)) is None and differences({}, before) is None
    for name in before:
        said = differences(before, before | {name: "other"})
        assert said is not None and f"{name}: was {before[name]!r}, is 'other'" in said
        assert ("the training data changed" in said) == (name == "data_hash")
        assert ("the evaluation data changed" in said) == (name == "eval_hash")
    assert differences(before, before | {"reference": None}) is None
    assert differences(before | {"reference": None}, before) is None
    assert differences(before, before | {"new": 1}) is not None


def test_what_a_run_began_with_is_said_in_words() -> None:
    now = {"policy": "a", "tokenizer": "b", "chat": "c", "date": "d", "data_hash": "e"}
    words = {"policy": "the model", "tokenizer": "the tokenizer", "chat": "the chat template", "date": "the date"}
    for name, what in words.items():
        said = differences(now, now | {name: "other", "data_hash": "other"})  # the tokens are others as well
        assert said is not None and said.startswith(what) and "the training data" not in said
        assert ("data_hash: " in said) == (name != "date")
    assert str(differences(now, now | {"policy": "x", "chat": "x"})).startswith(
        "the model that the run begins with (its weights or its config) and the chat template"
    )
    assert differences(dict.fromkeys(now), now | {"date": None, "data_hash": None}) is None


def test_checkpoints_that_lead_elsewhere_are_not_followed(tmp_path: Path) -> None:
    put(Checkpoints(tmp_path / "other"), 3)
    (tmp_path / "checkpoints").symlink_to(tmp_path / "other")
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for asked in (checkpoints.flaws, checkpoints.newest, checkpoints.read_fingerprint):
        with pytest.raises(RunFolderError, match="checkpoints is a link"):
            asked()


def test_a_fingerprint_that_cannot_be_read_is_an_error_of_its_folder(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    final = put(checkpoints, 3)
    (final / FINGERPRINT).write_text("[]".ljust((final / FINGERPRINT).stat().st_size))  # JSON, of the same size
    with pytest.raises(RunFolderError, match="step-3 cannot be resumed"):
        checkpoints.read_fingerprint()


def test_a_sealed_folder_is_whole_until_a_file_is_missing_or_has_another_size(tmp_path: Path) -> None:
    folder = tmp_path / "step-1"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "weights").write_bytes(bytes(10))
    (folder / "empty").write_bytes(b"")
    seal(folder)
    assert flaw_of(folder) is None
    for content in (bytes(9), bytes(11), b""):
        (folder / "inner" / "weights").write_bytes(content)
        assert f"inner/weights has {len(content)} bytes instead of 10" in (flaw_of(folder) or "")
    (folder / "inner" / "weights").unlink()
    assert flaw_of(folder) == "weights is missing"


# --- slices ----------------------------------------------------------------------------------------------------------


@given(length=st.integers(0, 60), size=st.integers(1, 12))
@settings(max_examples=200, deadline=None)
def test_the_ranks_rows_are_torch_chunks(length: int, size: int) -> None:
    """Disjoint, in order, covering everything; FSDP cuts as `torch.chunk` does: the last ranks may have none."""
    rows = [_rows(length, size, rank) for rank in range(size)]
    assert [number for own in rows for number in own] == list(range(length))
    chunks = [len(part) for part in torch.arange(length).chunk(size)] if length else []
    assert [len(own) for own in rows] == (chunks + [0] * size)[:size]
    assert max(map(len, rows)) == ceil(length / size)


@pytest.mark.parametrize(("written", "read"), [(1, 3), (2, 3), (3, 2), (5, 4), (4, 1)])
def test_one_number_of_ranks_reads_what_another_has_written(tmp_path: Path, written: int, read: int) -> None:
    model = tiny_model()
    save_shards(tmp_path / "slices", model, torch.optim.AdamW(model.parameters()), ALONE)
    recut(tmp_path / "slices", written)
    slices = ShardedCheckpoint(tmp_path / "slices")
    with slices._open() as files:
        for name, weight in model.named_parameters():
            length = len(weight)
            ranks = [list(slices._pieces(files, name, length, _rows(length, read, rank))) for rank in range(read)]
            assert torch.equal(torch.cat([piece for own in ranks for piece in own]), weight.detach())
            assert [sum(map(len, own)) for own in ranks] == [len(_rows(length, read, rank)) for rank in range(read)]
