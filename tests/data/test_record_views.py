"""Records in a file and views of them: what lists of the same records would be."""

from __future__ import annotations

import errno
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from likelier.data import record_table, views
from likelier.data.load import load_preferences
from likelier.data.options import DataSet
from likelier.data.record_table import RecordTable, folder_of_rows
from likelier.data.record_views import as_records
from likelier.data.records import (
    Demonstration,
    Labelled,
    Message,
    Pair,
    Record,
    Source,
    TokenIds,
    demonstrations_of,
    labels_of,
    to_demonstrations,
    to_labels,
)
from likelier.data.split import prompt_key, split_by_prompt
from likelier.data.views import Changed, Divided, Filed, View, as_view, by_numbers, joined
from likelier.utils.errors import ConfigError, LikelierWarning
from tests.helpers.small_runs import write_rows
from tests.helpers.support import chat_pairs, labelled_rows

TURNS = (Message("user", "what \u2028 is it?"), Message("tool", "", '[{"x": 1}]', '{"name": "\\ud800"}'))
PLACE = Source("a.jsonl", 7, "line", "one")
RECORDS: list[Record] = [
    Pair("say", "yes", "no", PLACE),
    Pair(TURNS, (Message("assistant", "äöü 🙂"),), (Message("assistant", ""),), Source("b.csv", 1 << 40, "row")),
    Pair(TokenIds((1, 2)), TokenIds(()), TokenIds((3,)), PLACE, (-1.5, -2.25), (3, 1, 10**20), None, 0.1, 0.3),
    Pair("say", "yes", "no", PLACE, scores=(4.0, 0.1 + 0.2), flip_chance=0.25, tools='[{"a": null}]', judge="\ud83d"),
    Labelled("say\0", "", True, PLACE, 2.0, judge="me"),
    Labelled(TURNS, TURNS[:1], False, PLACE, tools="[]"),
    Demonstration("", "tmi", PLACE),
    Demonstration(TokenIds((5,)), TokenIds((6,)), PLACE, 0.5, "x"),
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIKELIER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def filed(records: Iterable[Any]) -> Filed[Any]:
    folder = folder_of_rows()
    assert folder is not None
    return Filed(RecordTable.written(records, folder))


def test_a_file_gives_back_what_was_put_into_it_and_leaves_nothing_behind(cache: Path) -> None:
    found = filed(RECORDS)
    assert list(found) == RECORDS == found and found == RECORDS
    for one, other in zip(found, RECORDS, strict=True):
        assert type(one) is type(other) and vars_of(one) == vars_of(other)
    assert [found[number] for number in (-1, 0, 5, 5)] == [RECORDS[number] for number in (-1, 0, 5, 5)]
    assert list((cache / "rows").iterdir()) == []
    assert len(filed([])) == 0 and list(filed([])) == []
    with pytest.raises(IndexError):
        found[8]


def vars_of(record: Record) -> list[Any]:
    """All fields, also those by which records are not compared."""
    return [getattr(record, name) for name in type(record).__slots__]


def test_a_number_that_is_none_stays_none() -> None:
    (found,) = filed([Pair("a", "b", "c", PLACE, margin=float("nan"), scores=(float("inf"), float("nan")))])
    assert isinstance(found, Pair) and found.margin != found.margin and found.scores is not None
    assert found.scores[0] == float("inf") and found.scores[1] != found.scores[1]


def test_views_are_the_lists_that_they_stand_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "BLOCK", 7)
    monkeypatch.setattr(record_table, "ROWS", 9)
    rng = random.Random(0)
    every: list[Record] = [*chat_pairs(40), *labelled_rows(25)]
    parts = joined(filed(every[:31]), every[31:32], filed(every[32:]))
    bases: list[View[Any]] = [as_records(every), filed(every), as_view(parts)]
    for base in bases:
        assert list(base) == every and base[3:50:4] == every[3:50:4] and base[::-1] == every[::-1]
        numbers = [rng.randrange(len(every)) for _ in range(100)]
        assert list(by_numbers(base, numbers)) == [every[number] for number in numbers]
        assert list(by_numbers(base[10:], [0, 5])) == [every[10], every[15]]
        assert list(Divided(base, labels_of)) == to_labels(every)
        assert list(Divided(base, demonstrations_of)) == to_demonstrations(every)
        named = Changed(base, lambda record: Demonstration(record.prompt, "x", record.source))
        assert [one.answer for one in named[2:4] if isinstance(one, Demonstration)] == ["x", "x"]
    assert by_numbers(every, [3, 1]) == [every[3], every[1]]
    assert as_records(every) != every[1:] and as_records(every) != "no records" and repr(filed(every)) == "<65 rows>"


def test_what_comes_one_by_one_goes_into_a_file_when_it_is_much(monkeypatch: pytest.MonkeyPatch) -> None:
    every: list[Record] = list(chat_pairs(30))
    for most, is_filed in ((29, True), (30, False)):
        monkeypatch.setattr(views, "IN_MEMORY", most)
        found = as_records(iter(every))
        assert isinstance(found, Filed) is is_filed and found == every
        assert as_records(found) is found


def test_where_nothing_can_be_written_rows_stay_in_memory(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "IN_MEMORY", 3)
    cache.write_text("a file", encoding="utf-8")
    with pytest.warns(LikelierWarning, match="rows cannot be kept there, and stay in memory: "):
        assert as_records(iter(RECORDS)) == RECORDS


def test_a_disk_that_fills_up_is_told_with_a_way_out_and_keeps_nothing(cache: Path) -> None:
    def until_full() -> Iterator[Record]:
        yield from RECORDS
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ConfigError, match=r"the rows, in .*; make room there, or name another folder"):
        filed(until_full())
    assert list((cache / "rows").iterdir()) == []


@pytest.mark.parametrize("most", [3, 10**6], ids=["in a file", "in memory"])
def test_files_are_read_split_and_weighed_alike(most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"prompt": f"p{number % 5}", "chosen": f"c{number}", "rejected": "r"} for number in range(12)]
    one, two = (DataSet(str(write_rows(tmp_path / f"{name}.jsonl", rows)), weight=weight) for name, weight in SETS)
    expected = load_preferences([one, two], eval_fraction=0.3)
    monkeypatch.setattr(views, "IN_MEMORY", most)
    found = load_preferences([one, two], eval_fraction=0.3)
    assert found.train == expected.train and found.test == expected.test and str(found) == str(expected)
    assert {record.source.data_set for record in found.train} == {"one", "two"}


SETS = (("one", 1.5), ("two", 1.0))


def test_a_split_is_that_of_sorted_keys_shuffled() -> None:
    """Whole prompts in the order of a seeded shuffle of their sorted keys, until the share is reached."""
    pairs = [Pair(f"p{number % 37}", "a", "b", Source("x", number)) for number in range(200)]
    for seed, fraction in ((0, 0.1), (1, 0.5), (2, 0.01), (3, 0.9)):
        prompts = sorted({prompt_key(pair) for pair in pairs})
        random.Random(seed).shuffle(prompts)
        held: set[bytes] = set()
        for key in prompts:
            if sum(prompt_key(pair) in held for pair in pairs) >= fraction * len(pairs):
                break
            held.add(key)
        train, test = split_by_prompt(pairs, fraction, seed)
        assert [*train] == [pair for pair in pairs if prompt_key(pair) not in held]
        assert [*test] == [pair for pair in pairs if prompt_key(pair) in held]
    views = split_by_prompt(filed(list(pairs)), 0.5, 1)
    assert [*map(list, views)] == [*map(list, split_by_prompt(pairs, 0.5, 1))]
    assert np.intersect1d([one.source.number for one in views[0]], [one.source.number for one in views[1]]).size == 0
