"""`likelier preview`: flags, and where the result goes."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from likelier.cli.flags import add_section_flags, given_chat_options, given_options
from likelier.cli.run_rows import SIGNALS, Loading, given_loading
from likelier.cli.shared import add_columns_flag, add_overwrite_flag, count, write_told
from likelier.data.options import ChatOptions
from likelier.data.records import UnusableRows
from likelier.training.options import TrainingOptions
from likelier.utils.errors import ConfigError, DataError
from likelier.utils.outputs import check_output

if TYPE_CHECKING:
    from likelier.data.load import PreferenceData
    from likelier.data.preview import RowPreview
    from likelier.data.records import Record, Unusable

ROWS = 3


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `likelier preview`."""
    parser.add_argument("file", help="preferences in any known format")
    parser.add_argument("--model", required=True, help="a model, adapter or run folder, a hub id, demo")
    which = parser.add_argument_group("which rows")
    which.add_argument("--rows", type=count, metavar="N", help=f"the first N (default: {ROWS})")
    which.add_argument(
        "--row",
        action="append",
        metavar="FILE:LINE",
        help="this row, also by its number alone; may be given several times",
    )
    add_columns_flag(which)
    add_section_flags(which, Loading, ("merge_votes",))
    add_section_flags(which, TrainingOptions, SIGNALS)
    add_section_flags(parser.add_argument_group("conversations"), ChatOptions)
    add_section_flags(parser.add_argument_group("length"), TrainingOptions, ("max_length", "truncation"))
    out = parser.add_argument_group("output")
    out.add_argument("--format", choices=["text", "json"], default="text", help="how it is printed (default: text)")
    out.add_argument("--html", metavar="OUT", help="write a page there instead")
    add_overwrite_flag(out)


def run(flags: argparse.Namespace) -> None:
    """Show the rows."""
    if flags.rows is not None and flags.row:
        raise ConfigError("--rows and --row were both given; keep one of them")
    if flags.html and flags.format != "text":
        raise ConfigError("--format has no effect with --html, which writes a page; drop it")
    if flags.html:
        check_output(flags.html, inputs=[flags.file], overwrite=flags.overwrite, page=True)
    from likelier.data.columns import columns_of
    from likelier.data.load import load_preferences
    from likelier.data.preview import RowPreview
    from likelier.data.weighting import applied

    data = load_preferences(flags.file, columns=columns_of(flags.columns), **given_loading(flags))
    options = TrainingOptions(**given_options(flags, TrainingOptions))
    used, left_out = applied(data.train, options.signals)
    data = replace(data, train=used, unusable=UnusableRows([*data.unusable, *left_out]))
    if not used:
        raise DataError(f"none of the rows is left:\n{data.unusable.summary()}")
    records, unusable = _chosen(data, flags.row, flags.rows or ROWS)
    rows = _previews(flags, options, records)
    for row in unusable:
        problem = f"{row.reason}: {row.detail}".rstrip(": ")
        rows.append(RowPreview(str(row.source), "row", (), (), "", problem, (), ()))
    if flags.format == "json":
        from likelier.data.preview import as_json
        from likelier.utils.console import put

        put(json.dumps([as_json(row) for row in rows], indent=2, ensure_ascii=False), exact=True)
    elif flags.html:
        from likelier.insight.preview import as_html

        write_told(flags.html, as_html(rows, flags.file, flags.model))
    else:
        from likelier.insight.preview import show
        from likelier.utils.terminal import SafeConsole

        show(rows, SafeConsole())


def _chosen(data: PreferenceData, names: Sequence[str] | None, count: int) -> tuple[list[Record], list[Unusable]]:
    """The records and unusable rows that are asked for. Raises `DataError` for a row that is not there."""
    if not names:
        return list(data.train[:count]), []
    records: list[Record] = []
    unusable: list[Unusable] = []
    for name in names:
        found = [record for record in data.train if _is_called(record.source, name)]
        out = [row for row in data.unusable if _is_called(row.source, name)]
        if not found and not out:
            places = f"{data.train[0].source} to {data.train[-1].source}"
            raise DataError(f"no row is called {name}; the usable ones are {places}")
        records += found
        unusable += [] if found else out[:1]
    return records, unusable


def _is_called(source: Any, name: str) -> bool:
    file, colon, number = name.rpartition(":")
    if not number.isdecimal():
        return str(source) == name
    same_file = not colon or file == source.file or file == Path(source.file).name
    return same_file and int(number) == source.number


def _previews(flags: argparse.Namespace, options: TrainingOptions, records: Sequence[Record]) -> list[RowPreview]:
    from likelier.data.past_template import past_template, past_template_words
    from likelier.data.preview import preview_rows
    from likelier.scoring.restore import tokenizer_with
    from likelier.utils.console import say

    given = given_chat_options(flags)
    tokenizer, max_length, chat = tokenizer_with(flags.model, given)
    if given and not any(isinstance(record.prompt, tuple) for record in records):
        raise ConfigError(f"{next(iter(given))} has no effect: no row is a conversation; drop it")
    if past := past_template(records, tokenizer):
        say(past_template_words(len(past), len(records)))
    limit = options.max_length or max_length
    return preview_rows(records, tokenizer, max_length=limit, truncation=options.truncation, chat=chat)
