"""How a run ended, or that it has not; and what is left to say where no check found anything to mend."""

from __future__ import annotations

from collections.abc import Iterator

from likelier.insight.diagnose.catalogue import verdict
from likelier.insight.diagnose.facts import Facts, change_of
from likelier.insight.diagnose.generalization import fresh_accuracies
from likelier.insight.diagnose.statistics import BELIEVABLE
from likelier.insight.diagnose.words import from_to, nats
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


def health(facts: Facts) -> Iterator[Verdict]:
    """Healthy if the run shows that something is learned; else that nothing is shown."""
    losses = facts.trend("loss")
    if not losses and facts.run.is_running:
        return
    evidence = [
        ("loss", from_to(losses.values[0], losses.values[-1])) if losses else None,
        change_of(facts, "loss", "held-out loss"),
        ("margin", nats(facts.separated.value)) if facts.separated is not None else None,
        ("chosen answers", f"{nats(facts.lost['chosen'].value)} an answer") if "chosen" in facts.lost else None,
        *((f"accuracy, {one.where}", str(one)) for one in fresh_accuracies(facts)),
        facts.distance,
    ]
    if _has_learned(facts):
        yield verdict("healthy", "good", evidence)
    else:
        advice = ["--eval-fraction 0.1: held-out rows tell more than noisy steps", "more steps"]
        yield verdict("unclear", "info", evidence, advice)


def _has_learned(facts: Facts) -> bool:
    """Accuracy is above chance, or the margin above 0, by more than noise; where nothing is compared, the loss fell."""
    if any(one.low > 0.5 for one in fresh_accuracies(facts)):
        return True
    if facts.separated is not None:
        return facts.separated.surely_above(0.0, BELIEVABLE)
    change = facts.held_out_change("loss")
    if change is not None:
        return change < 0
    losses = facts.trend("loss")
    return bool(losses) and losses.rise.surely_below(0.0, BELIEVABLE)
