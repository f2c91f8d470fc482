"""`likelier report`: a run folder as one HTML file."""

from __future__ import annotations

import argparse
from pathlib import Path

from likelier.cli.shared import add_overwrite_flag


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `likelier report`."""
    parser.add_argument("run", metavar="RUN", help="a run folder; of a run in stages, its last finished stage")
    parser.add_argument("--output", metavar="FILE", help="the HTML file (default: report.html in the run folder)")
    add_overwrite_flag(parser)


def run(flags: argparse.Namespace) -> None:
    """Write the report and say where it lies."""
    from likelier.insight.report.page import write_report
    from likelier.utils.console import put

    output = Path(flags.output) if flags.output else None
    put(str(write_report(flags.run, output, overwrite=flags.overwrite)))
