"""`likelier diagnose`: verdicts on a run, and an exit code."""

from __future__ import annotations

import argparse
import json
import sys
from shutil import get_terminal_size

FOUND = 3  # the exit code where a verdict of severity error stands


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `likelier diagnose`."""
    parser.add_argument("run", metavar="RUN", help="a run folder; it may still be training")
    parser.add_argument("--json", action="store_true", help="print the verdicts as JSON")
    parser.epilog = f"Exit code: 0, or {FOUND} where a verdict of severity error stands."


def run(flags: argparse.Namespace) -> int:
    """Read, diagnose, print; gives the exit code."""
    from likelier.insight.diagnose.checks import diagnose
    from likelier.runs.reader import read_run
    from likelier.utils.console import put

    read = read_run(flags.run)
    verdicts = diagnose(read)
    if flags.json:
        content = {"run": str(flags.run), "verdicts": [verdict.as_json() for verdict in verdicts]}
        put(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False), exact=True)
    else:
        from likelier.insight.diagnose.text import as_text

        here = sys.stdout.isatty()
        sys.stdout.write(as_text(read, verdicts, width=get_terminal_size().columns if here else None, colour=here))
    return FOUND if any(verdict.severity == "error" for verdict in verdicts) else 0
