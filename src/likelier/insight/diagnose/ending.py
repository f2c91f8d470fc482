"""How a run ended, or that it has not."""

from __future__ import annotations

from collections.abc import Iterator

from likelier.insight.diagnose.catalogue import verdict
from likelier.insight.diagnose.facts import Facts
from likelier.insight.verdicts import Verdict

# Errors that have verdicts of their own, by words of theirs.
WRONG_REFERENCE = ("WrongReferenceError",)
IN_A_STEP = ("the loss is not finite", "the gradient norm is")  # found before the step touched the weights
NOT_FINITE = ("is not finite", *IN_A_STEP)
# The trainer's, where no weight may be trained; torch's, where none that may be reaches the loss.
NO_GRADIENT = ("no weight is trained", "does not require grad")
UNCHANGED = ("no weight has changed",)  # `movement.UNMOVED`
EXPLAINED = (*WRONG_REFERENCE, *NOT_FINITE, *NO_GRADIENT, *UNCHANGED)


def ending(facts: Facts) -> Iterator[Verdict]:
    """Failed, interrupted, or still running."""
    status = facts.card.status
    steps = [("steps", _progress(facts))]
    if status == "failed" and not ended_with(facts, EXPLAINED):
        said = ("error", first_lines(facts.card.error or ""))
        yield verdict("failed", "error", [said, *steps], ["do what the error says, then run again", _resume(facts)])
    elif status == "interrupted":
        yield verdict("interrupted", "warning", steps, [_resume(facts) or "run it again with --save-steps 100"])
    elif facts.run.is_running:
        yield verdict("unfinished", "info", steps)


def ended_with(facts: Facts, words: tuple[str, ...]) -> bool:
    """Whether the run's error holds one of these words."""
    return any(one in (facts.card.error or "") for one in words)


def _progress(facts: Facts) -> str:
    return f"{facts.steps} of {facts.card.total_steps}" if facts.card.total_steps else str(facts.steps)


def _resume(facts: Facts) -> str | None:
    found = list((facts.run.folder / "checkpoints").glob("step-*"))
    return "--resume goes on from the newest checkpoint" if found else None


def first_lines(error: str, most: int = 300) -> str:
    """The beginning of an error."""
    whole = " ".join(error.split())
    return whole if len(whole) <= most else whole[:most].rsplit(" ", 1)[0] + " ..."
