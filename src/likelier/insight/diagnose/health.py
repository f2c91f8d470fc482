"""What is left to say where no check found anything to mend."""

from __future__ import annotations

from collections.abc import Iterator

from likelier.insight.diagnose.catalogue import verdict
from likelier.insight.diagnose.facts import Facts, told
from likelier.insight.diagnose.generalization import fresh_accuracies
from likelier.insight.diagnose.statistics import BELIEVABLE
from likelier.insight.diagnose.words import from_to, nats
from likelier.insight.verdicts import Verdict


def health(facts: Facts) -> Iterator[Verdict]:
    """Healthy if the run shows that something is learned; else that nothing is shown."""
    losses = facts.trend("loss")
    if not losses and facts.run.is_running:
        return
    evidence = [
        ("loss", from_to(losses.values[0], losses.values[-1])) if losses else None,
        told(facts, "loss", "held-out loss"),
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
