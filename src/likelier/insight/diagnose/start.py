"""Is the reference the right one? Where the policy starts as its reference, every reward is 0 before the first step."""

from __future__ import annotations

from collections.abc import Iterator

from likelier.insight.diagnose.catalogue import verdict
from likelier.insight.diagnose.ending import WRONG_REFERENCE, ended_with, first_lines
from likelier.insight.diagnose.facts import SIDES, Facts
from likelier.insight.diagnose.statistics import SURE, Level
from likelier.insight.diagnose.words import nats, number
from likelier.insight.verdicts import Verdict
from likelier.runs.reader import Row

OFF = 1e-3  # nats a token, as a mean over the rows of a step: a hundred times what rounding does in float32
OFF_ROUNDED = 0.02  # the same in 16 bits, or with scores that came with the data and may have been
STUCK = 1e-4  # nats a token: rewards that never leave this are those of a policy measured against itself
LEFT = 1.0  # nats an answer by which the policy must have changed for that
FAR = 0.3  # nats a token from a reference that is another model

_STOPPED = (
    "an adapter that was trained already: --reference start (the base without it is another model)",
    "weights that changed after the reference was scored: make the trainer last, and train at once",
    "damaged or foreign scores: delete the reference store (--reference-store, or the user's cache) and run again",
)
_CHECK = (
    "--reference start takes the policy as it was loaded; the line 'reference:' of the run says which model it is",
    "delete the reference store and run again; scores in the data file must be this model's",
)


def wrong_reference(facts: Facts) -> Iterator[Verdict]:
    """A run that was stopped by the step-0 check, or rewards that cannot be those of the claimed reference."""
    if ended_with(facts, WRONG_REFERENCE):
        said = (facts.card.error or "").partition("Likely causes")[0].removeprefix("WrongReferenceError: ")
        title = "The run was stopped: the reference is not the one that it claims"
        meaning = "The check before the first step found it, so nothing was trained on wrong numbers."
        yield verdict(
            "wrong-reference", "error", [("error", first_lines(said))], _STOPPED, title=title, meaning=meaning
        )
    elif facts.scale and facts.card.reference.equals_policy:
        off = [*_rewards_at_start(facts), *_first_step(facts)]
        if off:
            yield verdict("wrong-reference", "error", [_claim(facts), *off], _CHECK)
        else:
            yield from _moves_along(facts)


def _claim(facts: Facts) -> tuple[str, str]:
    return "the reference is said to be", facts.card.reference.words or "the policy as it was loaded"


def _rewards_at_start(facts: Facts) -> Iterator[tuple[str, str]]:
    """Held-out rewards before the first step that are not 0."""
    for side, reward in _away_from_0(facts, facts.start, _tolerance(facts)):
        yield f"held-out {side} reward before the first step", f"{number(reward, signed=True)}, and should be 0"


def _first_step(facts: Facts) -> Iterator[tuple[str, str]]:
    """Rewards of the first step, whose forward pass comes before any update. Dropout makes them differ from 0."""
    row = facts.run.steps[0] if facts.run.steps else {}
    dropout = facts.card.adapter.get("dropout")
    if row.get("step") == 1 and not dropout:
        for side, reward in _away_from_0(facts, row, _tolerance(facts)):
            yield f"{side} reward in the first step", f"{number(reward, signed=True)}, and should be 0"


def _away_from_0(facts: Facts, row: Row, limit: float) -> Iterator[tuple[str, float]]:
    """The sides whose mean log-ratio is more than `limit` nats a token, with their rewards."""
    for side in SIDES:
        reward, length = row.get(f"rewards/{side}"), row.get(f"lengths/{side}")
        if reward is not None and length and facts.scale and abs(reward / facts.scale / length) > limit:
            yield side, reward


def _tolerance(facts: Facts) -> float:
    rounded = "16" in (facts.card.precision or "")
    from_file = "data file" in (facts.card.reference.scores or "")
    return OFF_ROUNDED if rounded or from_file else OFF


def _moves_along(facts: Facts) -> Iterator[Verdict]:
    """Log-ratios that stay 0 while the policy's own log-probabilities change: it is measured against itself."""
    if facts.moves or facts.moved is None or not facts.run.steps or facts.moved.value > STUCK * facts.length:
        return
    changes = {side: change for side in SIDES if (change := _own_change(facts, side)) is not None}
    if not any(abs(change.value) > LEFT + SURE * change.error for change in changes.values()):
        return
    evidence = [
        _claim(facts),
        ("log-ratios to the reference", f"0 in all {len(facts.run.steps)} logged steps"),
        *((f"log-probability of the {side} answers since", nats(change.value)) for side, change in changes.items()),
    ]
    meaning = (
        "The policy changes and its rewards do not: the reference is the policy itself as it is now, not as it was, so "
        "nothing holds it, and no number says how far it went."
    )
    yield verdict("wrong-reference", "error", evidence, _CHECK, title="The reference moves along", meaning=meaning)


def _own_change(facts: Facts, side: str) -> Level | None:
    """How much the policy's log-probability of a side's answers changed: the same held-out ones, else in training."""
    held = facts.held_out_change(f"logps/{side}")
    if held is not None:
        return Level(held)
    trend = facts.trend(f"logps/{side}")
    return trend.rise if len(trend) > 3 else None


def distant_reference(facts: Facts) -> Iterator[Verdict]:
    """A reference that is another model, far away."""
    row = facts.start or (facts.run.steps[0] if facts.run.steps else {})
    reference = facts.card.reference
    if not facts.scale or reference.words is None or reference.equals_policy or row.get("step") not in (0, 1):
        return
    far = [
        (f"log-ratio of the {side} answers before training", nats(reward / facts.scale))
        for side, reward in _away_from_0(facts, row, FAR)
    ]
    if far:
        advice = ["--reference start, if the policy's own start was meant"]
        yield verdict("distant-reference", "info", [_claim(facts), *far], advice)
