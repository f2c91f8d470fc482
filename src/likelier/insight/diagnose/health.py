"""What is left to say where no check found anything to mend."""

from __future__ import annotations

from collections.abc import Iterator

from likelier.insight.diagnose.catalogue import verdict
from likelier.insight.diagnose.facts import Facts
from likelier.insight.diagnose.generalization import fresh_accuracies
from likelier.insight.diagnose.statistics import Level
from likelier.insight.diagnose.words import from_to, nats, number
from likelier.insight.verdicts import Verdict

BELIEVABLE = 2.0  # standard errors: what is claimed to be learned must be more than chance


def health(facts: Facts) -> Iterator[Verdict]:
    """Healthy if the run shows that something is learned; else that nothing is shown."""
    losses = facts.trend("loss")
    evidence = [
        ("loss", from_to(losses.values[0], losses.values[-1])) if losses else None,
        ("held-out loss", from_to(facts.start["loss"], facts.latest["loss"]))
        if "loss" in facts.start and "loss" in facts.latest
        else None,
        ("margin", nats(facts.separated.value)) if facts.separated is not None else None,
        ("chosen answers", f"{nats(facts.lost['chosen'].value)} an answer") if "chosen" in facts.lost else None,
        *((f"accuracy, {one.where}", str(one)) for one in fresh_accuracies(facts)),
        (facts.distance_words, f"{number(facts.latest['kl'])} nats an answer")
        if "kl_per_token" in facts.latest
        else None,
    ]
    if _has_learned(facts):
        yield verdict("healthy", "good", evidence)
    else:
        advice = ["--eval-fraction 0.1: held-out rows tell more than noisy steps", "more steps"]
        yield verdict("unclear", "info", evidence, advice)


def _has_learned(facts: Facts) -> bool:
    """The margin is above 0, or the loss below its start, by more than noise."""
    if "loss" in facts.start and "loss" in facts.latest and facts.latest["loss"] < facts.start["loss"]:
        return True
    if facts.separated is not None and _above_0(facts.separated):
        return True
    rise = facts.trend("loss").rise if facts.trend("loss") else Level(0.0)
    return _above_0(Level(-rise.value, rise.error))


def _above_0(level: Level) -> bool:
    return level.value > BELIEVABLE * level.error
