"""`likelier compare`: runs, or the settings of a sweep, side by side."""

from __future__ import annotations

import argparse
from pathlib import Path
from shutil import get_terminal_size

from likelier.cli.shared import add_overwrite_flag
from likelier.utils.outputs import check_output


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `likelier compare`."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="two or more run folders, or the folder of a sweep")
    parser.add_argument("--output", metavar="FILE.html", help="write a page there, with curves and the frontier")
    add_overwrite_flag(parser)
    parser.add_argument("--json", action="store_true", help="print every number as JSON instead of the table")


def run(flags: argparse.Namespace) -> None:
    """Read, compare, print, write."""
    import json
    import sys

    from likelier.insight.compare.page import write_page
    from likelier.insight.compare.subjects import read_comparison
    from likelier.insight.compare.text import PIPED, Findings, as_json, as_text
    from likelier.utils.console import put, say

    if flags.output:
        check_output(flags.output, overwrite=flags.overwrite, page=True)
    found = Findings.of(read_comparison(flags.runs))
    if flags.json:
        put(json.dumps(as_json(found), indent=2, ensure_ascii=False, allow_nan=False), exact=True)
    else:
        width = get_terminal_size().columns if sys.stdout.isatty() else PIPED
        put(as_text(found, width), end="")
    if flags.output:
        write_page(found, Path(flags.output))
        say(f"page: {flags.output}")
