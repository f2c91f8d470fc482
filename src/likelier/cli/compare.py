"""`likelier compare`: runs, or the settings of a sweep, side by side."""

from __future__ import annotations

import argparse
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING

from likelier.utils.errors import ConfigError
from likelier.utils.outputs import add_overwrite_flag, check_output

if TYPE_CHECKING:
    from likelier.insight.compare.text import Findings

PIPED = 120  # the width of the table where it is not written to a terminal


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `likelier compare`."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="two or more run folders, or the folder of a sweep")
    parser.add_argument("--output", metavar="FILE.html", help="write a page with the courses and the frontier there")
    add_overwrite_flag(parser)
    parser.add_argument("--json", action="store_true", help="print every number as JSON instead of the table")


def run(flags: argparse.Namespace) -> None:
    """Read, compare, print, write."""
    import json
    import sys

    from likelier.insight.compare.subjects import read_comparison
    from likelier.insight.compare.text import Findings, as_json, as_text
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


def write_page(found: Findings, path: Path) -> None:
    """Write the page. Raises `ConfigError` where it cannot be written."""
    from likelier.insight.compare.page import as_html
    from likelier.utils.files import write_whole

    if path.is_dir():
        raise ConfigError(f"--output {path} is a folder; name a file, such as {path / 'compare.html'}")
    try:
        write_whole(path, as_html(found).encode("utf-8", "replace"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}") from error
