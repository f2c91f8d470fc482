"""Token ids on disk: equal to tokenizing, found again, mended when damaged, and never needed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from likelier.data import token_cache, tokenize
from likelier.data.options import ChatOptions
from likelier.data.records import Pair, Record
from likelier.data.token_cache import TokenFolder
from likelier.data.tokenize import Tokenized, tokenize_records
from likelier.utils.errors import LikelierWarning
from tests.helpers.support import chat_pairs, labelled_rows, tiny_tokenizer

RECORDS: list[Record] = [*chat_pairs(5), *labelled_rows(4)]


@pytest.fixture(autouse=True)
def few_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_cache, "WORTH_CACHING", 1)


def rows(records: list[Record], **more: Any) -> Tokenized:
    settings: dict[str, Any] = {"max_length": 512, "cached": True, **more}
    return tokenize_records(records, settings.pop("tokenizer", None) or tiny_tokenizer(), **settings)


def as_lists(found: Tokenized) -> list[list[list[int]]]:
    return [[group.prompt.tolist(), *(answer.tolist() for answer in group.answers)] for group in found.groups]


def folders(cache: Path) -> list[Path]:
    return sorted((cache / "tokens").iterdir()) if (cache / "tokens").is_dir() else []


def forbid_tokenizing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("rows were tokenized again")

    monkeypatch.setattr(tokenize, "tokenize_block", refuse)


@pytest.mark.parametrize("truncation", ["drop", "cut-prompt-left", "cut-answer-right"])
@pytest.mark.parametrize("max_length", [512, 24])
def test_it_equals_tokenizing(truncation: Any, max_length: int) -> None:
    plain = rows(RECORDS, cached=False, truncation=truncation, max_length=max_length)
    for _ in range(2):  # written, and read
        found = rows(RECORDS, truncation=truncation, max_length=max_length)
        assert as_lists(found) == as_lists(plain)
        assert found.counts() == plain.counts()
        assert [group.desirable for group in found.groups] == [group.desirable for group in plain.groups]


def test_the_second_time_nothing_is_tokenized(monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    first = rows(RECORDS)
    forbid_tokenizing(monkeypatch)
    assert as_lists(rows(RECORDS)) == as_lists(first)
    rows(RECORDS, max_length=24)  # truncation comes after the cache
    assert len(folders(own_cache)) == 1


def test_ids_are_mapped_from_disk() -> None:
    ids = rows(RECORDS).groups[0].prompt
    while isinstance(ids.base, np.ndarray):
        ids = ids.base
    assert isinstance(ids, np.memmap) and not ids.flags.writeable


def test_whatever_changes_the_ids_has_a_folder_of_its_own(own_cache: Path) -> None:
    pair = RECORDS[0]
    assert isinstance(pair, Pair)
    other_template = tiny_tokenizer()
    other_template.chat_template = " " + str(other_template.chat_template)
    rows(RECORDS)
    rows([replace(pair, chosen=pair.rejected, rejected=pair.chosen), *RECORDS[1:]])
    rows(RECORDS[1:])
    rows(RECORDS, tokenizer=other_template)
    rows(RECORDS, chat=ChatOptions(system_prompt="Be brief."))
    assert len(folders(own_cache)) == 5


def test_a_damaged_folder_is_said_and_made_again(own_cache: Path) -> None:
    first = as_lists(rows(RECORDS))
    (folder,) = folders(own_cache)
    damaged = bytearray((folder / "ids.npy").read_bytes())
    damaged[-1] ^= 1
    (folder / "ids.npy").write_bytes(damaged)
    with pytest.warns(LikelierWarning, match="cached token ids are damaged"):
        assert as_lists(rows(RECORDS)) == first
    assert as_lists(rows(RECORDS)) == first  # without a warning


def test_a_folder_with_files_missing_is_made_again(own_cache: Path) -> None:
    rows(RECORDS)
    (folders(own_cache)[0] / "checksum.json").unlink()
    with pytest.warns(LikelierWarning, match="damaged"):
        rows(RECORDS)


def test_without_a_place_to_write_rows_are_tokenized_all_the_same(own_cache: Path) -> None:
    own_cache.write_text("a file where the cache would be")
    with pytest.warns(LikelierWarning, match="token ids cannot be cached"):
        assert as_lists(rows(RECORDS)) == as_lists(rows(RECORDS, cached=False))


def test_a_template_that_writes_the_day_is_not_cached(own_cache: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = str(tokenizer.chat_template) + "{# strftime_now #}"
    rows(RECORDS, tokenizer=tokenizer)
    assert folders(own_cache) == []


def test_few_rows_are_not_cached(monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    monkeypatch.setattr(token_cache, "WORTH_CACHING", 1000)
    rows(RECORDS)
    assert folders(own_cache) == [] and TokenFolder.of(RECORDS, tiny_tokenizer(), ChatOptions()) is None


def test_who_comes_second_finds_what_the_first_wrote(own_cache: Path) -> None:
    folder = TokenFolder.of(RECORDS, tiny_tokenizer(), ChatOptions())
    assert folder is not None
    rows(RECORDS)
    folder.write(folder.read() or ())  # another process at the same time: no warning, nothing left behind
    assert len(folders(own_cache)) == 1
