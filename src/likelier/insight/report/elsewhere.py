"""What a benchmark of the run found, for its report."""

from __future__ import annotations

from likelier.runs.benchmark import Benchmark


def elsewhere_tiles(found: Benchmark | None) -> list[tuple[str, str, str]]:
    """How many tasks changed, and of those that got worse the first with its interval; nothing without a benchmark."""
    if found is None:
        return []
    worse = found.changed("worse")
    sure = (
        f"{worse[0].task}: {worse[0].words(worse[0].difference, signed=True)}, n = {worse[0].items:,}" if worse else ""
    )
    return [("tasks elsewhere", found.summary, sure)]
