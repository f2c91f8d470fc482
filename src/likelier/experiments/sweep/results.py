"""What a sweep ends with: the table, the page, and what failed."""

from __future__ import annotations

from pathlib import Path
from shutil import get_terminal_size

from likelier.experiments.sweep.record import SweepRecord
from likelier.utils.console import put, say
from likelier.utils.errors import RunFolderError

PAGE = "sweep.html"


def show_results(record: SweepRecord) -> list[str]:
    """Print the table and write the page; returns the names of the runs that failed, after saying why."""
    from likelier.insight.compare.page import write_page
    from likelier.insight.compare.subjects import read_comparison
    from likelier.insight.compare.text import PIPED, Findings, as_text

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
        write_page(found, Path(folder / PAGE))
        say(f"page: {folder / PAGE}")
    for name, error in failed.items():
        say(f"failed: {name}: {error}")
    if failed:
        say(f"{len(failed)} of {len(record.content['runs'])} runs failed; --resume tries them again")
    return list(failed)
