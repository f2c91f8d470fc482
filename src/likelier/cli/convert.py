"""`likelier convert`: a preference file as JSON lines under the usual names."""

from __future__ import annotations

import argparse

from likelier.cli.shared import add_columns_flag, add_merge_votes_flag, add_overwrite_flag


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `likelier convert`."""
    parser.add_argument("input", nargs="+", metavar="IN", help="preference files, datasets folders or hub ids")
    parser.add_argument("output", metavar="OUT", help="JSON lines: a name that ends in .jsonl")
    kinds = ["pairs", "labels", "answers"]
    parser.add_argument("--to", choices=kinds, help="what to write (default: what the file holds)")
    parser.add_argument("--keep-undecided", action="store_true", help="write pairs with as many votes for as against")
    parser.add_argument("--subset", help="a subset of the hub id, or a sheet of the workbook")
    parser.add_argument("--split", help="a split of the hub id or datasets folder, or a slice: train[:50%%]")
    parser.add_argument("--revision", help="a revision of the hub id")
    add_overwrite_flag(parser)
    add_columns_flag(parser)
    add_merge_votes_flag(parser)


def run(flags: argparse.Namespace) -> None:
    """Read, write, and say how many rows."""
    from likelier.data.columns import columns_of
    from likelier.data.convert import convert_file
    from likelier.data.options import DataSet
    from likelier.utils.console import put

    choices = {name: getattr(flags, name) for name in ("subset", "split", "revision")}
    columns = columns_of(flags.columns)
    sources = [DataSet(name, **choices, columns=columns) for name in flags.input]
    given = {name: getattr(flags, name) for name in ("to", "keep_undecided", "merge_votes", "overwrite")}
    put(convert_file(sources, flags.output, **given))
