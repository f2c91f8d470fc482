"""Read rows from whatever a user names: JSON, JSON lines, CSV, Parquet, Excel, a saved `datasets` folder, a hub id, a
list.

Nothing here looks inside a row; `data.formats` does. The network is touched only for a hub id (`owner/name` that is no
local path), which only the user can have typed.
"""

from __future__ import annotations

import csv
import io
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import IO, Any

from likelier.data.archives import open_gzip
from likelier.data.excel import read_workbook
from likelier.data.json_paths import rows_at
from likelier.data.names import GYM
from likelier.data.options import DataSet
from likelier.data.records import BLANK, Source
from likelier.data.slices import is_slice, split_rows
from likelier.data.xml_rows import read_xml
from likelier.utils.errors import ConfigError, DataError, whole_reason
from likelier.utils.hub_names import NotOnHub, ask_hub
from likelier.utils.strict_json import BrokenJson, parse_json

Rows = Iterator[tuple[Source, Any]]

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_KNOWN = "JSON (.json), JSON lines (.jsonl), tables (.csv, .tsv), XML (.xml), each also .gz; Parquet (.parquet), Excel "
_KNOWN += "(.xlsx), a saved `datasets` folder"
_SUFFIXES = {".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".xlsx", ".xml", ".gz"}


@dataclass(frozen=True)
class NamedRows:
    """Rows and what to call the place they came from. `blank` are the places between rows that hold nothing; it is
    whole when the rows were read.
    """

    name: str
    rows: Iterable[tuple[Source, Mapping[str, Any]]]
    blank: list[Source] = field(default_factory=list)


def stream_rows(source: str | Path | DataSet | Iterable[Mapping[str, Any]]) -> NamedRows:
    """The rows of `source` with their places, read while they are asked for; a .json array is read at once.

    Raises `DataError` with file and line, now or on the way.
    """
    if isinstance(source, (str, Path)):
        source = DataSet(str(source))
    if isinstance(source, DataSet):
        name, found = source.path, _read_named(source)
    else:
        plain = getattr(source, "with_format", None)  # of `datasets`
        rows: Any = source if plain is None else plain(None)
        name, found = "rows", ((Source("rows", number, "row"), row) for number, row in enumerate(rows, 1))
    blank: list[Source] = []
    return NamedRows(name, _beside_blank(found, blank), blank)


def read_rows(source: str | Path | DataSet | Iterable[Mapping[str, Any]]) -> NamedRows:
    """Every row of `source` with its place, in a list. Raises `DataError` with file and line when that fails."""
    found = stream_rows(source)
    rows = list(found.rows)
    if not rows:
        raise DataError(f"{found.name} holds no rows; give a file with at least one")
    return NamedRows(found.name, rows, found.blank)


def _beside_blank(found: Iterable[tuple[Source, Any]], blank: list[Source]) -> Iterator[tuple[Source, Any]]:
    """The rows; what is blank before one of them is noted in `blank`, and what is blank at the end is no row."""
    waiting: list[Source] = []
    for place, row in found:
        if row is BLANK:
            waiting.append(place)
            continue
        blank.extend(waiting)
        waiting.clear()
        yield place, _as_row(place, row)


def _as_row(place: Source, row: Any) -> Mapping[str, Any]:
    if not isinstance(row, Mapping):
        raise DataError(f"{place}: a row must be an object with columns, found {type(row).__name__}: {_short(row)}")
    return row


def _short(value: object, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _read_named(source: DataSet) -> Rows:
    name = source.path
    if name.startswith(GYM):
        raise ConfigError(
            f"{name} asks questions and has no answers to learn from: it is for methods that write their own (likelier "
            "train --method grpo, rloo, ...) and for likelier sample"
        )
    path = _place(name)
    on_hub = not path.exists() and _HUB_ID.fullmatch(name) is not None and path.suffix not in _SUFFIXES
    _refuse_inert_choices(source, path, on_hub=on_hub)
    if path.is_dir():
        return _read_dataset_folder(path, source.split)
    if on_hub:
        return _read_hub(source)
    if path.is_symlink() and not path.exists():
        raise DataError(f"{name} is a link that leads to no file; give the file itself")
    if not path.exists():
        raise DataError(f"no such file: {name} (looked in {path.absolute().parent})")
    kind = path.suffixes[-2] if path.suffix == ".gz" and len(path.suffixes) > 1 else path.suffix
    records = source.columns and source.columns.records
    reader = _READERS.get(kind)
    if kind == ".parquet":
        return _read_parquet(path)
    if kind == ".xml":
        return _read_xml(path, records)
    if kind == ".xlsx":
        return read_workbook(path, source.subset or records)
    if kind == ".json" and records is not None:
        reader = partial(_read_json, records=records)
    if reader is None:
        raise DataError(f"{name}: unknown kind of file {path.suffix!r}; known: {_KNOWN}")
    return _read_text(path, reader)


def _place(name: str) -> Path:
    """The local path of a name. Raises `DataError` for one that no file system can hold."""
    try:
        path = Path(name).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:  # too long, a link to itself, a home that nobody has
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{_short(name)} cannot be looked up: {reason}; give the path of a file") from error
    return path


def _refuse_inert_choices(source: DataSet, path: Path, *, on_hub: bool) -> None:
    kind = "folder" if path.is_dir() else "file"
    effective = {"folder": {"split"}, "file": {"subset"} if path.suffix == ".xlsx" else set()}[kind]
    for name in ("subset", "split", "revision"):
        if getattr(source, name) is not None and not on_hub and name not in effective:
            raise ConfigError(f"{source.path} is a {kind}, on which {name} has no effect; drop it")
    if source.columns is None or (records := source.columns.records) is None:
        return
    if not {".xml", ".json", ".xlsx"} & set(path.suffixes[-2:]):
        raise ConfigError(
            f"columns: records has no effect on {source.path}, whose rows are not inside of others; drop it"
        )
    if source.subset not in (None, records):
        raise ConfigError(f"{source.path}: subset={source.subset!r} and records={records!r} name two sheets; drop one")


def _read_text(path: Path, reader: Any) -> Rows:
    try:
        with io.TextIOWrapper(_open_bytes(path), encoding="utf-8-sig", newline="") as stream:
            yield from reader(path, stream)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}:{_line_not_utf8(path)}: not UTF-8 text; convert the file to UTF-8") from error
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read: {reason}; copy the file again, or make it anew") from error


def _read_xml(path: Path, records: str | None) -> Rows:
    try:
        with _open_bytes(path) as stream:
            yield from read_xml(str(path), stream, records)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read: {reason}; copy the file again, or make it anew") from error


def _line_not_utf8(path: Path) -> int:
    """The first line that is not UTF-8 (the decoder itself only knows a place in its buffer); 1 if it is not found."""
    with suppress(OSError, EOFError, zlib.error), _open_bytes(path) as stream:  # it may be damaged besides
        for number, line in enumerate(stream, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    return 1


def _open_bytes(path: Path) -> IO[bytes]:
    return open_gzip(path) if path.suffix == ".gz" else open(path, "rb")


def _read_jsonl(path: Path, stream: IO[str]) -> Rows:
    for number, line in enumerate(stream, 1):
        yield Source(str(path), number), _parse(line, path, number) if line.strip() else BLANK


def _parse(line: str, path: Path, number: int) -> Any:
    try:
        return parse_json(line)
    except BrokenJson as error:
        begin = _short(line.strip()[:60])
        raise DataError(
            f"{path}:{number}: {error.within_line}; the line begins {begin}. Mend or remove the line"
        ) from error


def _read_json(path: Path, stream: IO[str], records: str | None = None) -> Rows:
    text = stream.read()
    if not text.strip():
        return
    try:
        loaded = parse_json(text)
    except BrokenJson as error:
        if _first_line_is_object(text):
            yield from _read_jsonl(path, _lines(text))
            return
        place = path if error.line is None else f"{path}:{error.line}"
        raise DataError(f"{place}: {error.within_line}. Mend the file") from error
    if records is not None:
        loaded = rows_at(loaded, records, str(path))
    if isinstance(loaded, dict) and len(loaded) == 1 and isinstance(next(iter(loaded.values())), list):
        loaded = next(iter(loaded.values()))
    if isinstance(loaded, dict):
        loaded = [loaded]
    if not isinstance(loaded, list):
        raise DataError(f"{path}: expected a list of rows, found {type(loaded).__name__}")
    yield from ((Source(str(path), number, "record"), row) for number, row in enumerate(loaded, 1))


def _lines(text: str) -> IO[str]:
    """The lines as a file has them; `splitlines` would also cut at separators that may stand inside a JSON string."""
    return io.StringIO(text, newline="")


def _first_line_is_object(text: str) -> bool:
    """JSON lines under the name .json: the first line is a whole object."""
    try:
        return isinstance(parse_json(next(_lines(text.lstrip()))), dict)
    except BrokenJson:
        return False


def _read_csv(path: Path, stream: IO[str]) -> Rows:
    csv.field_size_limit(2**31 - 1)
    header = stream.readline()
    reader = csv.reader(chain([header], stream), strict=True, delimiter=_mark_between(header))
    try:
        columns = next(reader, [])
        _refuse_twice(path, columns)
        for cells in reader:
            if len(cells) not in (0, len(columns)):
                raise DataError(
                    f"{path}:{reader.line_num}: the row does not have the {len(columns)} columns {columns}; mend it, "
                    "and put texts that hold commas or line breaks in quotes"
                )
            row = dict(zip(columns, cells, strict=True)) if cells else BLANK
            yield Source(str(path), reader.line_num), row
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: broken CSV: {error}") from error


def _mark_between(header: str) -> str:
    """What stands between the columns: a comma, or the tab or semicolon that other spreadsheets write, where the first
    line has more columns by it.
    """
    return max((",", "\t", ";"), key=lambda mark: len(next(csv.reader([header], delimiter=mark), ())))


_READERS = {
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".csv": _read_csv,
    ".tsv": _read_csv,
}


def _refuse_twice(path: Path, names: Sequence[str]) -> None:
    """Of two columns of one name, one would be lost."""
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise DataError(f"{path}: two columns are called {twice!r}; rename one")


def _read_parquet(path: Path) -> Rows:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _refuse_twice(path, file.schema_arrow.names)
            number = 0
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield Source(str(path), number, "record"), row
    except DataError:
        raise
    except Exception as error:  # a damaged file raises errors of Arrow, of its codecs and of Python's own conversions
        reason = whole_reason(error)
        raise DataError(
            f"{path}: not a readable Parquet file: {reason}; copy the file again, or make it anew"
        ) from error


def _read_dataset_folder(path: Path, split: str | None) -> Rows:
    import datasets

    if not any((path / marker).is_file() for marker in ("state.json", "dataset_dict.json")):
        files = [entry.name for entry in sorted(path.iterdir()) if entry.suffix in _SUFFIXES][:3]
        what = f"name one of its files ({', '.join(files)})" if files else "name a file"
        raise DataError(
            f"{path}: not a folder written by datasets' save_to_disk, which is the only kind that is read; {what}"
        )
    try:
        loaded = datasets.load_from_disk(str(path))
    except Exception as error:  # a damaged folder raises errors of JSON, of Arrow and of the library alike
        raise DataError(f"{path}: not a folder written by datasets' save_to_disk: {whole_reason(error)}") from error
    return split_rows(str(path), loaded, split)


def _read_hub(source: DataSet) -> Rows:
    import datasets

    name = source.path
    try:
        ask_hub(name, "dataset")
    except NotOnHub as error:
        raise DataError(f"{name}: no such file here (looked in {Path.cwd()}), and {error}") from error
    try:
        whole = None if is_slice(source.split) else source.split
        loaded = datasets.load_dataset(name, source.subset, split=whole, revision=source.revision)
    except Exception as error:  # the hub client raises many kinds; all mean that the named set cannot be had
        reason = whole_reason(error)
        raise DataError(f"{name}: no such file, and the hub did not give a data set of that name: {reason}") from error
    return split_rows(name, loaded, source.split if is_slice(source.split) else None)
