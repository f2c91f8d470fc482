"""Whatever a file or an option holds: the library succeeds or raises an error of ours, a command ends with 0, 2 or 3.

`make test` runs the same few hundred cases each time, `make fuzz` thousands of new ones. What fuzzing found stands as
an explicit example, here or in `test_fuzz_found.py`.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from likelier.data.columns import Columns, columns_of
from likelier.data.load import load_preferences
from likelier.data.options import DataSet
from likelier.training.config import SECTIONS, hyperparameter_fields, parse, read_yaml
from tests.helpers.fuzz_rows import ROWS
from tests.helpers.fuzzing import (
    as_json,
    cases,
    harmed,
    harmed_json,
    junk,
    leaves_nothing,
    numbers,
    only_our_errors,
    scalars,
    texts,
    workplace,
)

# --- files of data -------------------------------------------------------------------------------------------------

KINDS = (".json", ".jsonl", ".csv", ".parquet", ".xlsx", ".jsonl.gz")


def content_of(rows: Any, kind: str) -> bytes:
    """Rows as a file of this kind; what the kind cannot hold becomes text."""
    if kind == ".json":
        return as_json(rows).encode()
    if kind.startswith(".jsonl"):
        lines = "".join(as_json(row) + "\n" for row in rows).encode()
        return gzip.compress(lines) if kind.endswith(".gz") else lines
    table = [row for row in rows if isinstance(row, dict) and row]
    names = list(dict.fromkeys(name for row in table for name in row))
    if kind == ".csv":
        stream = io.StringIO()
        writer = csv.writer(stream)
        writer.writerows([names, *([_cell(row.get(name)) for name in names] for row in table)])
        return stream.getvalue().encode("utf-8", "replace")
    return _workbook(names, table) if kind == ".xlsx" else _parquet(table)


def _cell(value: Any) -> Any:
    return as_json(value) if isinstance(value, (list, dict)) else value


def _workbook(names: list[str], table: list[dict[str, Any]]) -> bytes:
    from openpyxl import Workbook
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

    def legal(value: Any) -> Any:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return value if abs(value) < 1e300 else str(value)
        text = str(value).encode("utf-8", "replace").decode()
        return None if value is None else ILLEGAL_CHARACTERS_RE.sub("?", text)[:30_000]

    book, stream = Workbook(), io.BytesIO()
    sheet: Any = book.active
    for line in [names, *([_cell(row.get(name)) for name in names] for row in table)]:
        sheet.append([legal(value) for value in line])
    book.save(stream)
    return stream.getvalue()


def _parquet(table: list[dict[str, Any]]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    stream = io.BytesIO()
    try:
        made = pyarrow.Table.from_pylist(table)
        pyarrow.parquet.write_table(made, stream)
    except (pyarrow.ArrowException, OverflowError, UnicodeEncodeError, TypeError):
        made = pyarrow.table({"prompt": [as_json(row) for row in table]})
        pyarrow.parquet.write_table(made, stream)
    return stream.getvalue()


def load(content: bytes, name: str, **more: Any) -> Any:
    with workplace() as folder:
        (folder / name).write_bytes(content)
        return only_our_errors(lambda: load_preferences(folder / name, **more))


rows_of_a_layout = st.sampled_from(ROWS)
kinds = st.sampled_from(KINDS)


@pytest.mark.slow
@cases(100, 4000)
@given(rows=rows_of_a_layout.flatmap(harmed_json), kind=kinds)
def test_wrong_values_in_every_column_of_every_layout(rows: Any, kind: str) -> None:
    load(content_of(rows if isinstance(rows, list) else [rows], kind), f"rows{kind}")


@cases(100, 3000)
@given(data=st.data())
def test_harmed_files_of_every_kind(data: st.DataObject) -> None:
    kind, rows = data.draw(kinds), data.draw(rows_of_a_layout)
    load(data.draw(harmed(content_of(rows * 2, kind))), f"rows{kind}")


@cases(60, 1500)
@given(rows=st.lists(junk, max_size=4), kind=kinds)
def test_any_values_as_rows(rows: list[Any], kind: str) -> None:
    load(content_of(rows, kind), f"rows{kind}")


column_values = st.one_of(
    scalars,
    st.lists(scalars, max_size=3),
    st.sampled_from(
        ["prompt", "chosen", "rejected", "a.b", "chosen.value", "{prompt} {x}", "1/2/0", "share", "4|5/1", "all"]
    ),
)
column_maps = st.dictionaries(
    st.sampled_from([item.name for item in fields(Columns)]) | texts, column_values, min_size=1, max_size=4
)


@cases(120, 3000)
@given(rows=rows_of_a_layout, columns=column_maps)
def test_any_column_map(rows: list[dict[str, Any]], columns: Mapping[str, Any]) -> None:
    load(content_of(rows, ".jsonl"), "rows.jsonl", columns=columns)


@cases(60, 1500)
@given(
    rows=rows_of_a_layout.flatmap(harmed_json),
    role=st.sampled_from([item.name for item in fields(Columns)]),
    data=st.data(),
)
def test_a_role_given_to_a_harmed_column(rows: Any, role: str, data: st.DataObject) -> None:
    table = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    names = sorted({name for row in table for name in row}) or ["x"]
    columns = {role: data.draw(st.sampled_from(names)), "winner_coding": data.draw(st.sampled_from(["1/2/0", "share"]))}
    load(content_of(table, ".jsonl"), "rows.jsonl", columns=columns)


@cases(60, 1000)
@given(words=st.lists(st.builds("{}={}".format, texts, texts) | texts, max_size=3))
def test_any_words_of_a_column_map(words: list[str]) -> None:
    only_our_errors(lambda: columns_of(words))


@cases(40, 800)
@given(
    entries=st.lists(
        st.dictionaries(st.sampled_from([item.name for item in fields(DataSet)]) | texts, junk), max_size=3
    )
)
def test_any_data_sets(entries: list[Any]) -> None:
    only_our_errors(lambda: parse({"model": "demo", "output": "x", "data": entries}))


@pytest.mark.slow
@cases(25, 500)
@given(data=st.data())
def test_commands_that_read_data_leave_nothing_behind(data: st.DataObject) -> None:
    kind, rows = data.draw(kinds), data.draw(rows_of_a_layout)
    content = data.draw(harmed(content_of(rows, kind)))
    words = data.draw(
        st.sampled_from(
            [
                ["convert", "IN", "OUT.jsonl"],
                ["convert", "IN", "OUT.jsonl", "--to", "pairs"],
                ["convert", "IN", "OUT.jsonl", "--to", "labels"],
                ["audit", "IN", "--output", "OUT.html", "--format", "html", "--show"],
                ["audit", "IN", "--format", "json"],
                ["audit", "IN", "--drop", "exact-duplicates", "--write", "OUT.jsonl"],
                ["train", "--model", "absent/folder/x", "--data", "IN", "--output", "OUT"],
                ["score", "--model", "absent/folder/x", "--data", "IN", "--output", "OUT.jsonl"],
                ["sweep", "--model", "absent/folder/x", "--data", "IN", "--output", "OUT"],
            ]
        )
    )
    with workplace() as folder:
        (folder / f"rows{kind}").write_bytes(content)
        places = {"IN": folder / f"rows{kind}"}
        leaves_nothing(folder, *(places.get(word, folder / word if word.startswith("OUT") else word) for word in words))


# --- configuration -------------------------------------------------------------------------------------------------

OPTIONS = sorted({item.name for section in SECTIONS for item in fields(section)} | set(hyperparameter_fields()))
GOOD = {"model": "demo", "data": "x.jsonl", "output": "runs/x", "method": "dpo"}


@cases(200, 5000)
@given(
    name=st.sampled_from(OPTIONS), value=junk, method=st.sampled_from(["dpo", "kto", "ipo", "simpo", "sft", "robust"])
)
def test_every_option_with_any_value(name: str, value: Any, method: str) -> None:
    only_our_errors(lambda: parse({**GOOD, "method": method, name: value}))


@cases(100, 3000)
@given(values=st.dictionaries(st.sampled_from(OPTIONS) | texts, junk, max_size=5))
def test_any_options(values: dict[str, Any]) -> None:
    only_our_errors(lambda: parse({**GOOD, **values}))


@cases(50, 1000)
@given(
    block=st.dictionaries(
        st.sampled_from(["optim", "weight_decay", "max_grad_norm", "adam_beta1", "foo"]) | texts, junk
    )
)
def test_any_trainer_block(block: Any) -> None:
    only_our_errors(lambda: parse({**GOOD, "trainer": block}))


YAML_PARTS = """&a *a !!int !!float !!timestamp !!bool !!binary !!set !!omap !!pairs !!python/object/apply:os.system
[ ] { } , 2001-99-99 12:30:99 0x .nan 1e3 | > x data ... = ~ ' " \0"""
yaml_parts = st.sampled_from(
    [*YAML_PARTS.split(), "? ", "- ", ": ", "<<: ", "\n", "  ", "\t", "# ", "---\n", "%YAML 9\n"]
)


@cases(120, 4000)
@given(
    text=st.one_of(st.lists(yaml_parts, max_size=12).map("".join), texts, junk.map(lambda value: yaml.safe_dump(value)))
)
def test_any_yaml(text: str) -> None:
    with workplace() as folder:
        path = folder / "run.yaml"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        only_our_errors(lambda: parse({**GOOD, **read_yaml(str(path))}))


@cases(40, 1000)
@given(data=st.data())
def test_harmed_yaml_files(data: st.DataObject) -> None:
    text = yaml.safe_dump({**GOOD, "data": [{"path": "a.jsonl", "weight": 2}], "trainer": {"optim": "adamw_torch"}})
    with workplace() as folder:
        path = folder / "run.yaml"
        path.write_bytes(data.draw(harmed(text.encode())))
        only_our_errors(lambda: parse({**GOOD, **read_yaml(str(path))}))


TOOLS = {"trl": "trl", "axolotl": "axolotl", "llamafactory": "llama-factory"}
CONFIGS = [path for tool in TOOLS for path in sorted((Path(__file__).parents[1] / "configs" / tool).glob("*.y*ml"))]


@pytest.mark.slow
@cases(30, 1500)
@given(data=st.data())
def test_run_files_of_other_tools(data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(CONFIGS))
    values = data.draw(harmed_json(yaml.safe_load(path.read_text(encoding="utf-8"))))
    with workplace() as folder:
        file = folder / "run.json"
        file.write_text(as_json(values), encoding="utf-8")
        leaves_nothing(folder, "import-config", file, "--from", TOOLS[path.parent.name])


@cases(20, 300)
@given(
    stages=st.lists(st.dictionaries(st.sampled_from([*OPTIONS, "name"]) | texts, junk, max_size=3) | junk, max_size=3)
)
def test_any_stages(stages: list[Any]) -> None:
    with workplace() as folder:
        path = folder / "run.yaml"
        shared = {"model": "absent/folder/x", "data": str(folder / "x.jsonl"), "output": str(folder / "out")}
        path.write_text(yaml.safe_dump({**shared, "stages": stages}), encoding="utf-8", errors="replace")
        leaves_nothing(folder, "train", path)


flag_names = st.sampled_from([f"--{name.replace('_', '-')}" for name in OPTIONS if name != "trainer"])


@cases(40, 1000)
@given(
    words=st.lists(st.tuples(flag_names, texts | numbers.map(str)), max_size=3),
    command=st.sampled_from(["train", "sweep"]),
)
def test_any_flags(words: list[tuple[str, str]], command: str) -> None:
    with workplace() as folder:
        (folder / "x.jsonl").write_text(json.dumps({"prompt": "a", "chosen": "b", "rejected": "c"}))
        given_words = ["--model", "absent/folder/x", "--data", folder / "x.jsonl"]
        more = [part for pair in words for part in pair if "\x00" not in part]
        leaves_nothing(folder, command, *given_words, *more, "--output", folder / "out")
