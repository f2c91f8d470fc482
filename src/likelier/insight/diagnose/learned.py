"""Does the run show that something was learned? Held-out data answer that before anything else does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from likelier.insight.diagnose.catalogue import verdict
from likelier.insight.diagnose.facts import Facts, change_of
from likelier.insight.diagnose.generalization import CEILING, Accuracy, first_pass_accuracy, held_out_accuracy
from likelier.insight.diagnose.statistics import BELIEVABLE
from likelier.insight.diagnose.words import from_to, percent
from likelier.insight.verdicts import Verdict
from likelier.utils.statistics import Share, Z, difference_of

MOST_HELD_OUT = 0.5  # of the prompts: more would leave too little to train on
MOST_ROWS = 10_000  # that are asked for: an accuracy that takes more is chance for any use

_IN_TRAINING = (
    "The policy learns what the pairs prefer, as far as the training data tell. Nothing was held out, so whether it "
    "holds for others is not known."
)
_BY_CHANCE = (
    "No check found anything wrong. The interval of the held-out accuracy holds one half, so on data that it has not "
    "seen the policy cannot be told from a coin."
)
_BELOW = "No check found anything wrong, and on data that it has not seen the policy moves away from what is preferred."
_SAME_RANKS = (
    "Rewards moved the way that the data prefer, and the policy finds no more of the preferred answers likelier than "
    "it did before: what it would write has hardly changed."
)


@dataclass(frozen=True)
class Learned:
    """Whether it is shown that something was learned; a title and a meaning where the catalogue's do not fit."""

    is_shown: bool
    title: str = ""
    meaning: str = ""


def learned(facts: Facts) -> Learned:
    """By the held-out accuracy, which must surely be above chance and may not have stood still; without held-out
    data by training's accuracy or margin; where nothing is compared, by the loss.
    """
    held = held_out_accuracy(facts)
    if held is not None:
        return _by_held_out(facts, held)
    if facts.compares:
        fresh = first_pass_accuracy(facts)
        in_training = fresh is not None and fresh.low > 0.5
        if not in_training and not _is_separated(facts):
            return Learned(False)
        if facts.latest:
            return Learned(True)
        if facts.card.data.held_out:
            return Learned(False, "Whether it learned is not known before the held-out rows are scored")
        return Learned(True, "Healthy in training; nothing was held out", _IN_TRAINING)
    return Learned(_loss_fell(facts))


def _is_separated(facts: Facts) -> bool:
    """Whether the margin is above 0 with its whole interval."""
    margin = facts.separated
    if margin is None:
        return False
    return margin.surely_above(0.0, BELIEVABLE) and (margin.interval is None or margin.interval[0] > 0)


def _by_held_out(facts: Facts, held: Accuracy) -> Learned:
    if held.high < 0.5:
        return Learned(False, "On held-out data it is right less often than a coin", _BELOW)
    if held.low <= 0.5:
        return Learned(False, "Whether it learned is not shown: held-out accuracy may be chance", _BY_CHANCE)
    known = facts.from_start_to_now("ranking_accuracy")
    if known is not None and known[1] <= known[0] < CEILING:
        return Learned(False, "Held-out accuracy of the policy itself did not move", _SAME_RANKS)
    return Learned(True)


def _loss_fell(facts: Facts) -> bool:
    change = facts.held_out_change("loss")
    if change is not None:
        return change < 0
    losses = facts.trend("loss")
    return bool(losses) and losses.rise.surely_below(0.0, BELIEVABLE)


def health(facts: Facts) -> Iterator[Verdict]:
    """Healthy if the run shows that something is learned; else that nothing is shown."""
    losses = facts.trend("loss")
    if not losses and facts.run.is_running:
        return
    found, held = learned(facts), held_out_accuracy(facts)
    accuracies = (one for one in (held, first_pass_accuracy(facts)) if one is not None)
    evidence = [
        ("loss", from_to(losses.values[0], losses.values[-1])) if losses else None,
        _with_rows(facts, change_of(facts, "loss", "held-out loss")),
        ("margin", facts.told(facts.separated)) if facts.separated is not None else None,
        _of_chosen(facts),
        *((f"accuracy, {one.where}", str(one)) for one in accuracies),
        _ranking(facts),
        facts.distance,
    ]
    more = {name: words for name in ("title", "meaning") if (words := getattr(found, name))}
    if found.is_shown:
        yield verdict("healthy", "good", evidence, **more)
    else:
        yield verdict("unclear", "info", evidence, _to_know_more(facts, held), **more)


def _of_chosen(facts: Facts) -> tuple[str, str] | None:
    """Where chosen answers stand. Scores have no zero: a reward model's say something only beside each other."""
    if "chosen" not in facts.lost or facts.method.reads_values:
        return None
    return "chosen answers", f"{facts.told(facts.lost['chosen'])}, an answer"


def _with_rows(facts: Facts, change: tuple[str, str] | None) -> tuple[str, str] | None:
    rows = facts.latest.get("items")
    return (change[0], f"{change[1]}, of {rows:,.0f} rows") if change and rows else change


def _ranking(facts: Facts) -> tuple[str, str] | None:
    """How many held-out pairs the policy itself orders rightly, before and after."""
    known = facts.from_start_to_now("ranking_accuracy")
    if known is None:
        return None
    words = f"{percent(known[0])} before, {percent(known[1])} after"
    change = _ranking_change(facts)
    if change is not None:
        low, high = (f"{100 * limit:+.1f}" for limit in (change.low, change.high))
        words += f": {100 * change.value:+.1f} points ({low} to {high}) of {change.cases:,} pairs"
    return "held-out pairs that the policy itself orders rightly", words


def _ranking_change(facts: Facts) -> Share | None:
    """The change with its interval, where the same pairs are listed one by one at the start and now."""
    before, now = facts.detail("start").items, facts.detail("last").items
    if "chosen" not in before or "chosen" not in now or before.get("source") != now.get("source"):
        return None
    sides = [
        [float(a > b) for a, b in zip(t["chosen"]["logps"], t["rejected"]["logps"], strict=True)] for t in (now, before)
    ]
    count = len(sides[0])
    if not count or count != len(sides[1]):
        return None
    prompts = now.get("prompt") or range(count)
    return difference_of([sides[0]], [sides[1]], list(prompts))


def _to_know_more(facts: Facts, held: Accuracy | None) -> list[str | None]:
    rows = facts.card.data.held_out or facts.latest.get("items", 0)
    if not rows:
        return ["--eval-fraction 0.1: held-out rows tell more than noisy steps", "more steps"]
    needed = ceil((Z * 0.5 / (held.value - 0.5)) ** 2) if held is not None and held.value > 0.5 else MOST_ROWS
    if held is None or held.low > 0.5 or not rows < needed < MOST_ROWS:
        writes = not facts.method.reads_values
        return ["more steps", "look at the answers before and after in the report" if writes else None]
    return [_more_held_out(facts, held, needed, rows), "more steps"]


def _more_held_out(facts: Facts, held: Accuracy, needed: int, rows: float) -> str:
    why = f"to tell an accuracy of {percent(held.value)} from chance takes about {needed:,} held-out rows"
    fraction = facts.card.run.eval_fraction
    if not fraction:
        return f"more rows to hold out: {why}"
    wanted = fraction * needed / rows
    return f"--eval-fraction {wanted:.2g}: {why}" if wanted <= MOST_HELD_OUT else f"more data: {why}"
