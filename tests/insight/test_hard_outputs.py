"""Outputs that cannot be written, for every command but `train` that writes one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers.fuzzing import command, files_below
from tests.helpers.small_runs import SmallRuns

HELD = ["--max-steps", "1", "--warmup", "0", "--eval-fraction", "0.3"]
FEW = ["--answers", "1", "--max-new-tokens", "2"]


def read_only_refuses() -> bool:
    return os.geteuid() != 0


@pytest.fixture
def outputs(runs: SmallRuns) -> dict[str, list[object]]:
    """Commands that write, with OUT for the place."""
    return {
        "convert": ["convert", runs.pairs, "OUT/rows.jsonl"],
        "audit": ["audit", runs.pairs, "--output", "OUT/audit.html", "--format", "html"],
        "clean": ["audit", runs.pairs, "--drop", "exact-duplicates", "--write", "OUT/clean.jsonl"],
        "score": ["score", "--model", runs.adapter, "--data", runs.pairs, "--output", "OUT/scores.jsonl"],
        "report": ["report", runs.adapter, "--output", "OUT/report.html"],
        "compare": ["compare", runs.adapter, runs.whole, "--output", "OUT/compare.html"],
        "merge": ["merge", runs.adapter, "OUT/merged"],
        "inspect": ["inspect", runs.adapter, "--row", "1", "--html", "OUT/row.html"],
        "recommend": ["recommend", runs.pairs, "--model", runs.model, "--memory", "8GB", "--output", "OUT/run.yaml"],
        "import-config": ["import-config", "FILE", "--from", "trl", "--trainer", "dpo", "--output", "OUT/run.yaml"],
        "sample": ["sample", "--model", runs.model, "--data", runs.pairs, *FEW, "--output", "OUT/answers.jsonl"],
        "sweep": ["sweep", "--model", runs.model, "--data", runs.pairs, "--output", "OUT/sweep", *HELD],
    }


COMMANDS = ["convert", "audit", "clean", "score", "report", "compare", "merge", "inspect", "recommend"]
COMMANDS += ["import-config", "sweep", "sample"]


def placed(words: list[object], out: Path, folder: Path) -> list[object]:
    (folder / "trl.yaml").write_text("model_name_or_path: m\ndataset_name: d\nbeta: 0.1\n", encoding="utf-8")
    found = (str(word).replace("OUT", str(out)) if str(word).startswith("OUT") else word for word in words)
    return [folder / "trl.yaml" if word == "FILE" else word for word in found]


@pytest.mark.parametrize("name", COMMANDS)
def test_an_output_below_a_file_is_refused(outputs: dict[str, list[object]], tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    found = command(*placed(outputs[name], tmp_path / "file", tmp_path))
    assert found.code == 2 and str(tmp_path / "file") in found.err, found
    assert (tmp_path / "file").read_text(encoding="utf-8") == "x"


@pytest.mark.skipif(not read_only_refuses(), reason="root writes into read-only folders")
@pytest.mark.parametrize("name", COMMANDS)
def test_a_read_only_output_is_refused(outputs: dict[str, list[object]], tmp_path: Path, name: str) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    found = command(*placed(outputs[name], folder, tmp_path))
    assert found.code == 2 and "Permission denied" in found.err, found
    assert files_below(folder) == {}


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a small tmpfs with these options; where that is not permitted, the test is skipped."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str) -> Path:
        words = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
        return folder

    yield mount
    subprocess.run(["umount", str(folder)], capture_output=True, check=False)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_disk_that_cannot_be_written_is_refused(
    outputs: dict[str, list[object]], mounted: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    disk = mounted("ro,size=64k")
    found = command(*placed(outputs[name], disk, tmp_path))
    assert found.code == 2 and "Read-only file system" in found.err, found


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_leaves_nothing_half_written(
    outputs: dict[str, list[object]], mounted: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    disk = mounted("size=4k")
    (disk / "filler").write_bytes(b"x" * 4096)
    found = command(*placed(outputs[name], disk, tmp_path))
    assert found.code in (2, 3), found
    assert "Traceback" not in found.err and ("No space left" in found.err or "os error 28" in found.err), found
    assert list(files_below(disk)) == ["filler"]
