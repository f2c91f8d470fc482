"""Rows that lie inside a file: the list in a JSON file, a workbook's sheet; and tables with other marks than commas."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from likelier.data.load import load_preferences
from likelier.data.options import DataSet
from likelier.data.records import Pair
from likelier.utils.errors import ConfigError, DataError

ROWS = [{"prompt": f"ask {number}", "chosen": "yes", "rejected": "no"} for number in range(4)]


def saved(path: Path, value: Any) -> str:
    path.write_text(json.dumps(value), encoding="utf-8")
    return str(path)


def prompts(path: str | Path | DataSet, records: str | None = None) -> list[Any]:
    columns = None if records is None else {"records": records}
    return [pair.prompt for pair in load_preferences(path, columns=columns).train if isinstance(pair, Pair)]


@pytest.mark.parametrize("records", ["export.items", "export/items"])
def test_rows_lie_under_a_path(records: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.json", {"version": 2, "export": {"items": ROWS, "more": []}})
    assert prompts(path, records) == [row["prompt"] for row in ROWS]
    packed = tmp_path / "a.json.gz"
    packed.write_bytes(gzip.compress(Path(path).read_bytes()))
    assert prompts(packed, records) == prompts(path, records)


def test_lists_on_the_way_are_gone_through(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.json", {"parts": [{"items": ROWS[:1]}, {"items": ROWS[1:]}, {"other": 1}], "by": "me"})
    assert prompts(path, "parts.items") == [row["prompt"] for row in ROWS]


def test_a_list_that_is_not_there_is_told_which_there_are(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.json", {"version": 2, "export": {"items": ROWS, "names": ["a"]}})
    with pytest.raises(DataError, match=r"no list has the path 'items'; lists of objects: export.items \(4 objects\)"):
        prompts(path, "items")
    with pytest.raises(DataError, match=r"export.items \(4 objects\), name it: --columns records=export.items"):
        prompts(path)
    with pytest.raises(ConfigError, match=r"records has no effect on .*b\.jsonl"):
        prompts(saved(tmp_path / "b.jsonl", ROWS[0]), "export")


def test_a_sheet_is_named_like_a_list(tmp_path: Path) -> None:
    from openpyxl import Workbook

    book = Workbook()
    book["Sheet"].append(["notes"])
    sheet = book.create_sheet("ratings 2024")
    for line in [list(ROWS[0]), *(list(row.values()) for row in ROWS)]:
        sheet.append(line)
    book.save(path := tmp_path / "a.xlsx")
    assert len(prompts(path, "ratings 2024")) == 4
    with pytest.raises(DataError, match="--columns 'records=ratings 2024'"):
        prompts(path)
    with pytest.raises(ConfigError, match="name two sheets"):
        prompts(DataSet(str(path), subset="Sheet"), "ratings 2024")


@pytest.mark.parametrize(("name", "mark"), [("a.tsv", "\t"), ("a.csv", ";"), ("a.csv", "\t"), ("a.csv", ",")])
def test_tables_may_have_tabs_and_semicolons(name: str, mark: str, tmp_path: Path) -> None:
    path = tmp_path / name
    head = mark.join(["prompt", "chosen", "rejected", '"a, b; c"'])
    path.write_text(f'{head}\nask{mark}"x{mark}y"{mark}z{mark}\n', encoding="utf-8")
    (pair,) = load_preferences(path).train
    assert isinstance(pair, Pair) and (pair.prompt, pair.chosen, pair.rejected) == ("ask", f"x{mark}y", "z")
