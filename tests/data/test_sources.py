"""Reading rows: every kind of file, and the message for every file that cannot be read."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from likelier.data.audit.checks import audit_records
from likelier.data.load import load_preferences
from likelier.data.sources import read_rows
from likelier.utils.errors import DataError

ROWS = [
    {"prompt": "Is it right?", "chosen": "yes", "rejected": "no"},
    {"prompt": "你好，对吗？", "chosen": 'a "quoted"\nline, with a comma', "rejected": "line\u2028separator"},
    {"prompt": "three", "chosen": "3", "rejected": " 4 "},
]
JSON_LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def write_csv(rows: list[dict[str, str]]) -> str:
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def rows_of(source: Any) -> list[dict[str, Any]]:
    return [dict(row) for _, row in read_rows(source).rows]


def places_of(source: Any) -> list[str]:
    return [str(place) for place, _ in read_rows(source).rows]


def message_of(source: Any) -> str:
    with pytest.raises(DataError) as caught:
        read_rows(source)
    return str(caught.value)


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def refuse(name: str) -> None:
        pytest.fail(f"the hub was asked for {name}")

    monkeypatch.setattr(datasets, "load_dataset", refuse)


# --- kinds of files ------------------------------------------------------------------------------------------------

TEXT_FILES = {
    "array.json": json.dumps(ROWS, ensure_ascii=False),
    "indented.json": json.dumps(ROWS, indent=2),
    "wrapped.json": json.dumps({"data": ROWS}),
    "lines.jsonl": JSON_LINES,
    "lines.ndjson": JSON_LINES,
    "blank-lines.jsonl": "\n" + JSON_LINES.replace("\n", "\n\n"),
    "windows-lines.jsonl": JSON_LINES.replace("\n", "\r\n"),
    "no-last-newline.jsonl": JSON_LINES.rstrip("\n"),
    "lines-named.json": JSON_LINES,
    "table.csv": write_csv(ROWS),
}


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("bom", [False, True], ids=["no-bom", "bom"])
@pytest.mark.parametrize("name", TEXT_FILES)
def test_text_files_give_every_row_unchanged(tmp_path: Path, name: str, bom: bool, compressed: bool) -> None:
    content = TEXT_FILES[name].encode("utf-8-sig" if bom else "utf-8")
    path = tmp_path / (f"{name}.gz" if compressed else name)
    path.write_bytes(gzip.compress(content) if compressed else content)
    assert rows_of(path) == ROWS
    assert rows_of(str(path)) == ROWS


FIRST, *OTHERS = JSON_LINES.rstrip("\n").split("\n")
BLANK_FILES = {
    "lines.jsonl": ["", FIRST, "  ", *OTHERS, "", "\t"],
    "lines.json": ["", FIRST, "  ", *OTHERS, "", "\t"],
    "table.csv": ["prompt,chosen,rejected", "", "say,yes,no", "", "tell,yes,no", "", ""],
}


@pytest.mark.parametrize("name", BLANK_FILES)
def test_blank_lines_between_rows_are_counted_and_told(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text("\n".join(BLANK_FILES[name]) + "\n", encoding="utf-8")
    data = load_preferences(tmp_path / name)
    numbers = [2, 4] if name == "table.csv" else [1, 3]
    assert [(row.source.number, row.reason) for row in data.unusable] == [(one, "blank-row") for one in numbers]
    assert len(data.train) == (2 if name == "table.csv" else len(ROWS))
    assert f"2 x blank-row: {tmp_path / name}:{numbers[0]}" in capsys.readouterr().err
    finding = audit_records(data.train, data.unusable).finding("blank-row")
    assert finding and (finding.count, finding.severity) == (2, "info")


def test_blank_rows_of_a_sheet_are_counted(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for line in (["prompt", "chosen", "rejected"], ["say", "yes", "no"], [], ["tell", "yes", "no"]):
        book.active.append(line)
    book.active.cell(9, 1).value = ""
    book.active.cell(9, 1).value = None  # a cell that only was written to
    book.save(tmp_path / "pairs.xlsx")
    assert [str(row) for row in load_preferences(tmp_path / "pairs.xlsx").unusable] == [
        f"{tmp_path / 'pairs.xlsx'}, row 3: blank-row"
    ]


def test_parquet_gives_every_row_with_its_record_number(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "pairs.parquet"
    messages = [{"prompt": [{"role": "user", "content": row["prompt"]}], "chosen": row["chosen"]} for row in ROWS]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(messages), path, row_group_size=2)
    assert rows_of(path) == messages
    assert places_of(path)[2] == f"{path}, record 3"


def test_a_saved_datasets_folder_gives_every_row(tmp_path: Path, no_hub: None) -> None:
    import datasets

    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "saved"))
    assert rows_of(tmp_path / "saved") == ROWS


def test_of_several_saved_splits_train_is_read(tmp_path: Path) -> None:
    import datasets

    both = {"test": datasets.Dataset.from_list(ROWS[:1]), "train": datasets.Dataset.from_list(ROWS[1:])}
    datasets.DatasetDict(both).save_to_disk(str(tmp_path / "saved"))
    assert rows_of(tmp_path / "saved") == ROWS[1:]


def test_several_splits_without_train_are_refused_by_name(tmp_path: Path) -> None:
    import datasets

    both = {"first": datasets.Dataset.from_list(ROWS[:1]), "second": datasets.Dataset.from_list(ROWS[1:])}
    datasets.DatasetDict(both).save_to_disk(str(tmp_path / "saved"))
    message = message_of(tmp_path / "saved")
    assert "first" in message and "second" in message and "train" in message


def test_rows_in_memory_are_numbered(no_hub: None) -> None:
    assert rows_of(ROWS) == ROWS
    assert rows_of(iter(ROWS)) == ROWS
    assert places_of(ROWS) == ["rows, row 1", "rows, row 2", "rows, row 3"]


def test_a_datasets_object_in_memory_is_read() -> None:
    import datasets

    assert rows_of(datasets.Dataset.from_list(ROWS)) == ROWS


def test_places_name_file_and_line(tmp_path: Path) -> None:
    lines = tmp_path / "pairs.jsonl"
    lines.write_text(JSON_LINES.replace("\n", "\n\n"), encoding="utf-8")
    assert places_of(lines) == [f"{lines}:1", f"{lines}:3", f"{lines}:5"]
    array = tmp_path / "pairs.json"
    array.write_text(json.dumps(ROWS), encoding="utf-8")
    assert places_of(array) == [f"{array}, record {number}" for number in (1, 2, 3)]


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
many_rows = st.lists(st.dictionaries(st.text(max_size=5), values, min_size=2, max_size=4), min_size=1, max_size=4)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=many_rows, ascii_only=st.booleans())
def test_json_and_json_lines_give_back_what_was_written(tmp_path: Path, rows: list[Any], ascii_only: bool) -> None:
    lines = "\n".join(json.dumps(row, ensure_ascii=ascii_only) for row in rows)
    for name, text in {"a.jsonl": lines, "lines.json": lines, "a.json": json.dumps(rows)}.items():
        (tmp_path / name).write_bytes(text.encode())
        assert rows_of(tmp_path / name) == rows, name


# --- files that cannot be read -------------------------------------------------------------------------------------


def test_a_missing_file_is_named_with_the_folder_that_was_searched(tmp_path: Path, no_hub: None) -> None:
    message = message_of(tmp_path / "absent.jsonl")
    assert "no such file" in message and "absent.jsonl" in message and str(tmp_path) in message


@pytest.mark.parametrize("name", ["empty.jsonl", "empty.json", "empty.csv", "empty.jsonl.gz"])
def test_an_empty_file_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(b"") if name.endswith("gz") else b"")
    assert f"{path} holds no rows" in message_of(path)


@pytest.mark.parametrize(
    ("name", "content"), [("a.json", "[]"), ("a.json", '{"data": []}'), ("a.csv", "x,y\n"), ("a.jsonl", "\n \n")]
)
def test_a_file_without_rows_is_refused(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert "holds no rows" in message_of(tmp_path / name)


def test_no_rows_in_memory_are_refused() -> None:
    assert "rows holds no rows" in message_of([])


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.json"])
def test_a_broken_line_is_named_with_its_number_column_and_text(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    good = json.dumps(ROWS[0])
    path.write_text(f'{good}\n{good}\n{{"prompt": "x", chosen}}\n{good}\n', encoding="utf-8")
    message = message_of(path)
    assert message.startswith(f"{path}:3: broken JSON at column 17")
    assert '{"prompt": "x", chosen}' in message and "Mend or remove the line" in message


def test_a_broken_array_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "pairs.json"
    path.write_text('[\n  {"prompt": "x"},\n  {"prompt": }\n]', encoding="utf-8")
    assert message_of(path).startswith(f"{path}:3: broken JSON at column 14")


def test_json_that_holds_no_list_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pairs.json"
    path.write_text('"text"', encoding="utf-8")
    assert message_of(path) == f"{path}: expected a list of rows, found str"


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.json", "pairs.csv"])
def test_text_that_is_not_utf8_is_refused_with_the_place(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    good = '{"prompt": "\u4f60\u597d"}\n'.encode() * 2000
    path.write_bytes(good + '{"prompt": "caf\u00e9"}\n'.encode("latin-1") + good)
    message = message_of(path)
    assert message == f"{path}:2001: not UTF-8 text; convert the file to UTF-8"


def test_a_csv_row_with_too_few_columns_is_named(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("prompt,chosen,rejected\na,b,c\na,b\n", encoding="utf-8")
    message = message_of(path)
    assert message.startswith(f"{path}:3:") and "3 columns ['prompt', 'chosen', 'rejected']" in message


def test_a_csv_row_with_too_many_columns_is_named(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("prompt,chosen,rejected\na,b,c,d\n", encoding="utf-8")
    assert message_of(path).startswith(f"{path}:2: the row does not have the 3 columns")


def test_an_unclosed_csv_quote_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text('prompt,chosen\na,"b\n', encoding="utf-8")
    assert "broken CSV" in message_of(path)


@pytest.mark.parametrize(("row", "kind"), [(["a"], "list"), ("text", "str"), (None, "NoneType"), (3, "int")])
def test_a_row_that_is_no_object_is_named_with_its_type(tmp_path: Path, row: Any, kind: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(f"{json.dumps(ROWS[0])}\n{json.dumps(row)}\n", encoding="utf-8")
    message = message_of(path)
    assert message.startswith(f"{path}:2: a row must be an object with columns, found {kind}")
    assert repr(row) in message


def test_gz_that_is_cut_off_or_damaged_is_refused(tmp_path: Path) -> None:
    whole = gzip.compress(JSON_LINES.encode() * 50)
    damaged = bytearray(whole)
    damaged[len(whole) // 2 : len(whole) // 2 + 8] = b"\xff" * 8
    for name, content in {"cut": whole[:-20], "damaged": bytes(damaged), "no-gz": JSON_LINES.encode()}.items():
        path = tmp_path / f"{name}.jsonl.gz"
        path.write_bytes(content)
        assert message_of(path).startswith(f"{path}: cannot be read"), name


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pairs.parquet"
    path.write_text("text", encoding="utf-8")
    assert message_of(path).startswith(f"{path}: not a readable Parquet file")


def test_a_folder_that_is_no_data_set_is_refused(tmp_path: Path) -> None:
    assert message_of(tmp_path).startswith(f"{tmp_path}: not a folder written by datasets' save_to_disk")


@pytest.mark.parametrize("name", ["pairs.txt", "pairs", "pairs.gz"])
def test_an_unknown_kind_of_file_lists_the_known_ones(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("text", encoding="utf-8")
    message = message_of(tmp_path / name)
    assert "unknown kind of file" in message and ".jsonl" in message and "Parquet" in message


# --- the hub -------------------------------------------------------------------------------------------------------


def test_a_hub_id_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []

    def load(name: str, subset: None, *, split: None, revision: None) -> Any:
        asked.append(name)
        return datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)})

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert rows_of("owner/some-name_v1.2") == ROWS
    assert asked == ["owner/some-name_v1.2"]


def test_a_hub_id_that_cannot_be_had_is_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load(name: str, *more: Any, **choices: Any) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", load)
    message = message_of("owner/name")
    assert message.startswith("owner/name: no such file, and the hub did not give") and "no route" in message


@pytest.mark.parametrize(
    "name",
    [
        "data/prefs.jsonl",
        "data/prefs.json",
        "data/prefs.json.gz",
        "data/prefs.csv",
        "data/prefs.parquet",
        "prefs",
        "a/b/c",
        "/absent/prefs",
        "./prefs",
        "../prefs",
        "",
    ],
)
def test_a_mistyped_path_never_reaches_the_hub(no_hub: None, name: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    message_of(name)


def test_a_local_folder_wins_over_a_hub_id(no_hub: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.chdir(tmp_path)
    datasets.Dataset.from_list(ROWS).save_to_disk("owner/name")
    assert rows_of("owner/name") == ROWS
