"""The same rows give the same records from every kind of file, and thereby the same tokens."""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import datasets
import openpyxl
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from likelier.data.formats import convert
from likelier.data.records import Record, Source
from likelier.data.sources import read_rows
from likelier.utils.errors import DataError

Rows = list[dict[str, Any]]
WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"), exclude_characters="\ufeff\u2028\u2029"))
TEXT = st.one_of(
    st.sampled_from(["[1] a note", '{"a": [1, null]}', 'it\'s "so"', "x\n\n  - y\tz", "None", "猫 🐈", "a,b;c", "[]"]),
    WORDS.map(lambda text: f"w{text}"),
)
ARGUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "city": st.one_of(st.none(), TEXT),
        "count": st.one_of(st.integers(-5, 5), st.sampled_from([1.0, 2.5])),
        "tags": st.lists(st.sampled_from(["a", "b'c", 'd"e']), min_size=1, max_size=2),
        "deep": st.fixed_dictionaries({}, optional={"on": st.booleans(), "at": st.sampled_from(["x", "y"])}),
    },
)
CALL = st.builds(
    lambda name, given: {"type": "function", "function": {"name": name, "arguments": given}},
    st.sampled_from(["look", "go"]),
    ARGUMENTS,
)
TOOL = st.builds(
    lambda name, names: {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {"type": "object", "properties": {one: {"type": "string"} for one in names}},
        },
    },
    st.sampled_from(["look", "go"]),
    st.lists(st.sampled_from(["city", "left", "right"]), min_size=1, unique=True),
)


def message(role: str, text: str, more: dict[str, Any]) -> dict[str, Any]:
    return {"role": role, "content": text, **more}


USER = st.builds(message, st.just("user"), TEXT, st.sampled_from([{}, {"name": "Ann"}, {"name": None}]))
ASSISTANT = st.builds(
    message,
    st.just("assistant"),
    TEXT,
    st.one_of(
        st.just({}),
        st.builds(lambda calls: {"tool_calls": calls}, st.lists(CALL, min_size=1, max_size=2)),
        st.builds(lambda text: {"reasoning_content": text}, TEXT),
    ),
)
PAIRS = st.fixed_dictionaries(
    {
        "prompt": st.one_of(
            st.builds(lambda one: [one], USER), st.builds(lambda u, a, v: [u, a, v], USER, ASSISTANT, USER)
        ),
        "chosen": st.builds(lambda one: [one], ASSISTANT),
        "rejected": st.builds(lambda one: [one], ASSISTANT),
    },
    optional={
        "tools": st.lists(TOOL, min_size=1, max_size=2),
        "weight": st.sampled_from([1.5, 2.0]),
        "votes": st.sampled_from([[2, 1, 0], [3, 0, 0]]),
    },
)
TEXTS = st.fixed_dictionaries(
    {"prompt": TEXT, "chosen": TEXT, "rejected": TEXT}, optional={"margin": st.sampled_from([0.5, 1.0])}
)
RANKED = st.builds(
    lambda prompt, answers: {"prompt": prompt, "answers": answers, "scores": [n + 0.5 for n in range(len(answers))]},
    TEXT,
    st.lists(TEXT, min_size=2, max_size=3),
)
LABELLED = st.builds(
    lambda talk, good: {"messages": talk, "label": good}, st.builds(lambda u, a: [u, a], USER, ASSISTANT), st.booleans()
)


# --- writers -------------------------------------------------------------------------------------------------------


def names_of(rows: Rows) -> list[str]:
    return list({name: None for row in rows for name in row})


def whole(rows: Rows) -> Rows:
    return [{name: row.get(name) for name in names_of(rows)} for row in rows]


def write_json(rows: Rows, path: Path) -> Path:
    (path / "rows.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return path / "rows.json"


def write_jsonl(rows: Rows, path: Path) -> Path:
    (path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path / "rows.jsonl"


def cells(rows: Rows, write: Callable[[Any], str]) -> Rows:
    return [
        {name: write(value) if isinstance(value, (list, dict)) else value for name, value in row.items()}
        for row in whole(rows)
    ]


def write_csv(rows: Rows, path: Path, write: Callable[[Any], str] = json.dumps) -> Path:
    with open(path / "rows.csv", "w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, names_of(rows))
        writer.writeheader()
        writer.writerows(cells(rows, write))
    return path / "rows.csv"


def write_xlsx(rows: Rows, path: Path) -> Path:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    sheet.append(names_of(rows))
    for row in cells(rows, json.dumps):
        sheet.append(list(row.values()))
    book.save(path / "rows.xlsx")
    return path / "rows.xlsx"


def write_parquet(rows: Rows, path: Path) -> Path:
    table = pyarrow.Table.from_pydict({name: [row.get(name) for row in rows] for name in names_of(rows)})
    pyarrow.parquet.write_table(table, path / "rows.parquet")
    return path / "rows.parquet"


def write_pandas(rows: Rows, path: Path) -> Path:
    """Parquet read and written as CSV by pandas: numpy's way of printing lists."""
    pd.read_parquet(write_parquet(rows, path)).to_csv(path / "pandas.csv", index=False)
    return path / "pandas.csv"


def write_saved(rows: Rows, path: Path) -> Path:
    datasets.Dataset(
        pyarrow.Table.from_pydict({name: [row.get(name) for row in rows] for name in names_of(rows)})
    ).save_to_disk(str(path / "saved"))
    return path / "saved"


WRITERS: dict[str, Callable[[Rows, Path], Path]] = {
    "json": write_json,
    "csv": write_csv,
    "csv of reprs": lambda rows, path: write_csv(rows, path, repr),
    "xlsx": write_xlsx,
    "parquet": write_parquet,
    "csv of pandas": write_pandas,
    "saved": write_saved,
}

# Columns of objects in these have one order of names for all rows; what JSON has in another order they cannot keep.
OF_ONE_ORDER = ("parquet", "csv of pandas", "saved")


def sorted_names(value: Any) -> Any:
    """The same with the names of every JSON text sorted."""
    if isinstance(value, dict):
        return {name: sorted_names(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [sorted_names(one) for one in value]
    try:
        return json.dumps(json.loads(value), sort_keys=True) if isinstance(value, str) else value
    except ValueError:
        return value


def records_of(path: Path) -> tuple[list[Record], dict[str, int]]:
    """The records without their places, and how many rows were left out for what."""
    try:
        found = convert(read_rows(path))
    except DataError as error:
        return [], {str(error).partition(":")[2].splitlines()[-1].rpartition("row ")[2][-30:]: 1}
    return [replace(one, source=Source("", 0)) for one in found.records], found.unusable.counts()


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("rows", [PAIRS, TEXTS, RANKED, LABELLED], ids=["messages", "texts", "ranked", "labelled"])
def test_every_kind_of_file_gives_the_records_of_json_lines(kind: str, rows: st.SearchStrategy[dict[str, Any]]) -> None:
    @given(st.lists(rows, min_size=1, max_size=3))
    @settings(max_examples=15, deadline=None)
    def same(some: Rows) -> None:
        with tempfile.TemporaryDirectory() as folder:
            expected = records_of(write_jsonl(some, Path(folder)))
            assume(expected[0])
            try:
                path = WRITERS[kind](some, Path(folder))
            except pyarrow.ArrowNotImplementedError:  # Parquet has no objects without names
                assume(False)
                return
            (found, left_out), (records, others) = records_of(path), expected
            if kind in OF_ONE_ORDER:
                found, records = (sorted_names(list(map(asdict, one))) for one in (found, records))
            assert (found, left_out) == (records, others)

    same()


def test_tools_keep_the_order_of_their_names(tmp_path: Path) -> None:
    properties = {"zone": {"type": "string"}, "city": {"type": "string", "description": "where"}}
    parameters = {"type": "object", "required": ["zone"], "properties": properties}
    tool = {"type": "function", "function": {"name": "look", "description": "looks", "parameters": parameters}}
    call = {"type": "function", "function": {"name": "look", "arguments": {"zone": "a", "city": "b"}}}
    asked, answer = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
    row = {
        "prompt": [
            asked,
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "r"},
            asked,
        ],
        "chosen": [answer],
        "rejected": [answer | {"content": "b"}],
        "tools": [tool],
    }
    as_text = row | {"tools": json.dumps([tool])}
    for written in (write_jsonl([row], tmp_path), write_csv([row], tmp_path), write_parquet([row], tmp_path)):
        kept(records_of(written)[0], tool, call)
    kept(records_of(write_jsonl([as_text], tmp_path))[0], tool, call)


def kept(records: list[Record], tool: Any, call: Any) -> None:
    assert json.dumps(json.loads(records[0].tools)) == json.dumps([tool])
    assert isinstance(records[0].prompt, tuple)
    [spoken] = [one.tool_calls for one in records[0].prompt if one.tool_calls]
    assert json.dumps(json.loads(spoken)) == json.dumps([call])
