"""How a run ended, or that it has not."""

from __future__ import annotations

from collections.abc import Iterator

from likelier.insight.diagnose.catalogue import verdict
from likelier.insight.diagnose.facts import Facts
from likelier.insight.verdicts import Verdict

# Errors that have a verdict of their own, by words of theirs.
EXPLAINED = ("WrongReferenceError", "is not finite", "the gradient norm is")


def ending(facts: Facts) -> Iterator[Verdict]:
    """Failed, interrupted, or still running."""
    status, error = facts.card.get("status"), str(facts.card.get("error") or "")
    steps = [("steps", _progress(facts))]
    if status == "failed" and not any(words in error for words in EXPLAINED):
        said = ("error", first_lines(error))
        yield verdict("failed", "error", [said, *steps], ["do what the error says, then run again", _resume(facts)])
    elif status == "interrupted":
        yield verdict("interrupted", "warning", steps, [_resume(facts) or "run it again with --save-steps 100"])
    elif facts.run.is_running:
        yield verdict("unfinished", "info", steps)


def _progress(facts: Facts) -> str:
    return f"{facts.steps} of {facts.total_steps}" if facts.total_steps else str(facts.steps)


def _resume(facts: Facts) -> str | None:
    found = list((facts.run.folder / "checkpoints").glob("step-*"))
    return "--resume goes on from the newest checkpoint" if found else None


def first_lines(error: str, most: int = 300) -> str:
    """The beginning of an error."""
    whole = " ".join(error.split())
    return whole if len(whole) <= most else whole[:most].rsplit(" ", 1)[0] + " ..."
