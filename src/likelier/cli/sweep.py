"""`likelier sweep`: from a run file and words that say what varies to a table, a page and a folder of runs."""

from __future__ import annotations

import argparse
from shutil import get_terminal_size
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from likelier.experiments.sweep.record import SweepRecord

PAGE = "sweep.html"
FAILED = 3  # the exit code where the sweep ended and a run of it failed


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `likelier sweep`: its own, and all those of a run."""
    from likelier.cli.flags import add_run_flags

    parser.add_argument("config", nargs="?", help="a YAML file as for train; flags win over it")
    parser.add_argument(
        "--vary",
        nargs="+",
        action="extend",
        default=[],
        metavar="METHOD.OPTION=V1,V2",
        help="what differs: dpo.beta=0.05,0.1 ipo.tau=2,5; several options of a method make every combination; a "
        "method alone runs with its defaults (default: the file's run as it is)",
    )
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=int,
        default=[1],
        metavar="N",
        help="how many seeds, from the file's on; or several numbers, the seeds themselves (default: 1)",
    )
    add_run_flags(parser)


def run(flags: argparse.Namespace) -> int:
    """Plan, run, compare; gives the exit code."""
    from likelier.experiments.sweep.plan import plan_sweep
    from likelier.experiments.sweep.run import run_sweep
    from likelier.training.config import RIVALS, read_yaml

    given = {name: value for name, value in vars(flags).items() if name not in ("config", "vary", "seeds", "command")}
    values = read_yaml(flags.config) if flags.config else {}
    for name in given:
        values.pop(RIVALS.get(name, ""), None)
    record = run_sweep(plan_sweep({**values, **given}, flags.vary, flags.seeds))
    return FAILED if show_results(record) else 0


def show_results(record: SweepRecord) -> list[str]:
    """Print the table and write the page; returns the names of the runs that failed, after saying why."""
    from likelier.insight.compare.page import write_page
    from likelier.insight.compare.subjects import read_comparison
    from likelier.insight.compare.text import PIPED, Findings, as_text
    from likelier.utils.console import put, say
    from likelier.utils.errors import RunFolderError

    folder = record.path.parent
    failed = {run["name"]: run.get("error", "") for run in record.content["runs"] if run["status"] == "failed"}
    try:
        found = Findings.of(read_comparison([folder]))
    except RunFolderError as error:
        if not failed:
            raise
        say(f"nothing to compare: {error}")
    else:
        put(as_text(found, get_terminal_size((PIPED, 24)).columns), end="")
        write_page(found, folder / PAGE)
        say(f"page: {folder / PAGE}")
    for name, error in failed.items():
        say(f"failed: {name}: {error}")
    if failed:
        say(f"{len(failed)} of {len(record.content['runs'])} runs failed; --resume tries them again")
    return list(failed)
