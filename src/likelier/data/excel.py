"""Rows of an Excel workbook: the first row of a sheet names the columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from likelier.data.archives import check_zip
from likelier.data.records import BLANK, Source
from likelier.utils.errors import ConfigError, DataError, whole_reason
from likelier.utils.shell import quoted


def read_workbook(path: Path, sheet: str | None) -> Iterator[tuple[Source, Any]]:
    """The rows of `sheet`, or of the only one; `BLANK` for empty ones.

    Raises `DataError` for a file or sheet that cannot be read, `ConfigError` without the package that reads it.
    """
    book = _opened(path)
    try:
        yield from _rows(path, book[_sheet_name(path, book.sheetnames, sheet)])
    finally:
        book.close()


def _opened(path: Path) -> Any:
    try:
        from openpyxl import load_workbook
    except ImportError as error:
        raise ConfigError(f"{path}: reading .xlsx needs openpyxl: pip install 'likelier[xlsx]'") from error
    check_zip(path)
    try:
        return load_workbook(path, read_only=True, data_only=True)
    except Exception as error:  # a broken workbook raises errors of zip, XML and openpyxl alike
        raise DataError(
            f"{path}: not a readable .xlsx workbook: {whole_reason(error)}; save it again as .xlsx, or as .csv"
        ) from error


def _sheet_name(path: Path, names: list[str], wanted: str | None) -> str:
    if wanted is None and len(names) == 1:
        return names[0]
    if wanted in names:
        return str(wanted)
    found = "has several sheets" if wanted is None else f"has no sheet {wanted!r}"
    raise DataError(
        f"{path} {found}: {names}; name one with records under columns (as a flag: --columns "
        f"{quoted(f'records={names[-1]}')}), or with subset in YAML, under data"
    )


def _lines(path: Path, sheet: Any) -> Iterator[tuple[Any, ...]]:
    """The lines of a sheet, which are only parsed as they are asked for."""
    try:
        yield from sheet.iter_rows(values_only=True)
    except Exception as error:  # as in `_opened`; a chart has no rows at all
        raise DataError(f"{path}: the sheet {sheet.title!r} cannot be read: {whole_reason(error)}") from error


def _as_in_a_table(value: Any) -> Any:
    """A cell's number, date or truth as the text that the same sheet has as CSV, where a text may be wanted."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).upper()
    whole = isinstance(value, float) and value.is_integer() and abs(value) < 2**53
    return str(int(value)) if whole else str(value)


def _rows(path: Path, sheet: Any) -> Iterator[tuple[Source, Any]]:
    lines = _lines(path, sheet)
    header = [None if name is None else str(name) for name in next(lines, ())]
    named = [name for name in header if name is not None]
    twice = next((name for name, count in Counter(named).items() if count > 1), None)
    if twice is not None:
        raise DataError(f"{path}: two columns are called {twice!r}; rename one")
    for number, line in enumerate(lines, 2):
        row = {name: _as_in_a_table(value) for name, value in zip(header, line, strict=False) if name is not None}
        is_blank = all(value is None for value in row.values())
        yield Source(str(path), number, "row"), BLANK if is_blank else row
