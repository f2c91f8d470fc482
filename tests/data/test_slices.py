"""Slices of splits: of a saved folder and of a hub id, with rows numbered as in their split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from likelier.data.load import load_preferences
from likelier.data.options import DataSet
from likelier.data.sources import read_rows
from likelier.utils.errors import ConfigError, DataError


def table(name: str, count: int) -> datasets.Dataset:
    rows = [{"prompt": f"{name} {n}", "chosen": "yes", "rejected": "no"} for n in range(count)]
    return datasets.Dataset.from_list(rows)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slices") / "saved"
    datasets.DatasetDict({"train": table("train", 20), "test": table("test", 5)}).save_to_disk(str(path))
    return path


def prompts(path: str | Path, split: str | None) -> list[str]:
    return [row["prompt"] for _, row in read_rows(DataSet(str(path), split=split)).rows]


SLICES = {
    "train[:50%]": [f"train {n}" for n in range(10)],
    "train[10:12]": ["train 10", "train 11"],
    "train[-2:]": ["train 18", "train 19"],
    "train[95%:]": ["train 19"],
    "train[:1]+test[3:]": ["train 0", "test 3", "test 4"],
    "test + train[19:]": [*(f"test {n}" for n in range(5)), "train 19"],
    "test": [f"test {n}" for n in range(5)],
}


@pytest.mark.parametrize("split", SLICES)
def test_slices_of_a_folder(saved: Path, split: str) -> None:
    assert prompts(saved, split) == SLICES[split]


@pytest.mark.parametrize("split", SLICES)
def test_slices_of_a_hub_id(monkeypatch: pytest.MonkeyPatch, split: str) -> None:
    whole = {"train": table("train", 20), "test": table("test", 5)}

    def load(name: str, subset: None, *, split: str | None, revision: None) -> Any:
        return datasets.DatasetDict(whole) if split is None else whole[split]

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert prompts("owner/name", split) == SLICES[split]


def test_a_folder_of_one_split_has_slices_of_train(tmp_path: Path) -> None:
    table("only", 4).save_to_disk(str(tmp_path / "one"))
    assert prompts(tmp_path / "one", "train[2:]") == ["only 2", "only 3"]
    with pytest.raises(DataError, match="holds no splits; drop split='test'"):
        prompts(tmp_path / "one", "test")


@given(st.integers(-20, 20), st.integers(-20, 20))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
def test_a_slice_is_pythons(saved: Path, start: int, end: int) -> None:
    expected = [f"train {n}" for n in range(20)][start:end]
    wanted = f"train[{start}:{end}]"
    if expected:
        assert prompts(saved, wanted) == expected
    else:
        with pytest.raises(DataError, match="is none of its rows"):
            prompts(saved, wanted)


def test_rows_are_numbered_as_in_their_split(saved: Path) -> None:
    places = [str(place) for place, _ in read_rows(DataSet(str(saved), split="train[10:12]")).rows]
    assert places == [f"{saved}, row 11", f"{saved}, row 12"]
    places = [str(place) for place, _ in read_rows(DataSet(str(saved), split="train[19:]+test[:1]")).rows]
    assert places == [f"{saved} (train), row 20", f"{saved} (test), row 1"]


@pytest.mark.parametrize("split", ["train[5]", "train[", "train[::2]", "valid[:5]", "train+", "train[:200%]"])
def test_what_is_no_slice_is_told_with_what_there_is(saved: Path, split: str) -> None:
    with pytest.raises(ConfigError) as caught:
        prompts(saved, split)
    message = str(caught.value)
    assert f"split={split!r}" in message and "train (20 rows), test (5 rows)" in message and "train[10:20]" in message


def test_a_slice_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n', encoding="utf-8")
    with pytest.raises(ConfigError, match="split has no effect"):
        prompts(tmp_path / "a.jsonl", "train[:50%]")


def test_training_and_held_out_rows_of_one_split(saved: Path) -> None:
    parts = [DataSet(str(saved), split=split) for split in ("train[:90%]", "train[90%:]")]
    data = load_preferences(parts[0], eval_data=parts[1])
    assert (len(data.train), len(data.test)) == (18, 2)
