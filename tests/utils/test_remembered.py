"""Facts on disk: found again under the same key alone, found out again where their file is damaged."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from likelier.utils import remembered
from likelier.utils.errors import LikelierWarning, RunFolderError
from likelier.utils.remembered import recall, remember

KEY = {"model": "llama", "length": 8}


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("LIKELIER_CACHE", str(tmp_path / "cache"))
    remembered._warn_once.cache_clear()
    return tmp_path / "cache"


def file_of(cache: Path) -> Path:
    (found,) = (cache / "remembered").rglob("*.json")
    return found


@pytest.mark.parametrize("fact", [0.1, "equal within 1e-6", {"a": [1, 2.5], "b": None}, False])
def test_a_fact_comes_back_as_it_was(fact: Any) -> None:
    assert recall("trial", KEY) is None
    remember("trial", KEY, fact)
    assert recall("trial", KEY) == fact


@pytest.mark.parametrize("other", [{**KEY, "length": 9}, {"model": "llama"}, {**KEY, "more": 1}])
def test_another_key_finds_nothing(other: dict[str, Any]) -> None:
    remember("trial", KEY, 1)
    assert recall("trial", other) is None
    assert recall("another-kind", KEY) is None


@pytest.mark.parametrize("package", ["likelier", "torch", "transformers", "peft"])
def test_another_version_finds_nothing(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    remember("trial", KEY, 1)
    now = remembered.versions()
    monkeypatch.setattr(remembered, "versions", lambda: {**now, package: "99"})
    assert recall("trial", KEY) is None


def test_other_code_of_ours_finds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    remember("trial", KEY, 1)
    monkeypatch.setattr(remembered, "_source", lambda: "edited")
    assert recall("trial", KEY) is None


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def changed(content: bytes) -> bytes:
    """Another fact beside the old checksum."""
    return json.dumps({**json.loads(content), "fact": 2}).encode()


def of_another_key(content: bytes) -> bytes:
    found = json.loads(content)
    return json.dumps({**found, "key": {**found["key"], "length": 9}}).encode()


def without_content(content: bytes) -> bytes:
    return b""


def a_list(content: bytes) -> bytes:
    return b"[1]"


@pytest.mark.parametrize("damage", [cut, changed, of_another_key, without_content, a_list])
def test_a_damaged_file_is_named_and_found_out_again(cache: Path, damage: Any) -> None:
    remember("trial", KEY, 1)
    file = file_of(cache)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.warns(LikelierWarning, match="damaged; it is found again"):
        assert recall("trial", KEY) is None
    assert not file.exists()
    remember("trial", KEY, 3)
    assert recall("trial", KEY) == 3


def test_what_cannot_be_written_is_told_once_and_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(remembered, "write_whole", full)
    with pytest.warns(LikelierWarning, match="No space left on device"):
        remember("trial", KEY, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        remember("trial", KEY, 1)
        assert recall("trial", KEY) is None


@pytest.mark.parametrize("linked", ["folder", "file"])
def test_a_link_is_not_followed(cache: Path, tmp_path: Path, linked: str) -> None:
    remember("trial", KEY, 1)
    place = file_of(cache) if linked == "file" else file_of(cache).parent
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunFolderError, match="is a link"):
        recall("trial", KEY)


def test_two_processes_may_write_one_fact(cache: Path) -> None:
    remember("trial", KEY, 1)
    remember("trial", KEY, 1)
    assert recall("trial", KEY) == 1
    assert [path.name for path in file_of(cache).parent.iterdir()] == [file_of(cache).name]
