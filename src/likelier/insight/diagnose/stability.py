"""Jumps: of the gradient, of the loss; numbers that stopped being numbers, and steps that were skipped for them."""

from __future__ import annotations

from collections.abc import Iterator

from likelier.insight.diagnose.catalogue import verdict
from likelier.insight.diagnose.ending import IN_A_STEP, NOT_FINITE, WRONG_REFERENCE, ended_with, first_lines
from likelier.insight.diagnose.facts import Facts
from likelier.insight.diagnose.learning import SHORT_REACH
from likelier.insight.diagnose.statistics import Trend, spikes
from likelier.insight.diagnose.words import from_to, number, rate, steps_in_words
from likelier.insight.verdicts import Verdict

GRADIENT_SPIKE = 10.0  # times the median of its neighbours; small batches vary by two or three
BEGINNING = 3  # logged steps
LOSS_SPIKE = 3.0  # times the loss at the start, and as many times its neighbours
FEWEST = 2  # spikes; a single one is one odd row
MOST_ROWS = 8  # named
DIVERGED = 1.5  # times the loss at the start, in the last third


def unstable(facts: Facts) -> Iterator[Verdict]:
    """A loss or gradient that was not finite, spikes, or a loss that ends above where it began."""
    if ended_with(facts, WRONG_REFERENCE):
        return  # its scores may be what was not finite
    if ended_with(facts, NOT_FINITE):
        said = [("error", first_lines(facts.card.error or ""))]
        meaning = _KEPT if ended_with(facts, IN_A_STEP) else _BROKEN
        yield verdict("unstable", "error", said, _calmer(facts), title=_AVERTED, meaning=meaning)
        return
    if facts.reach is not None and facts.reach < SHORT_REACH:
        return  # every nat is multiplied by a large number, so the loss jumps where the policy hardly moves
    gradients, losses = facts.trend("grad_norm"), _losses(facts)
    jumps, high = _gradient_spikes(gradients), _loss_spikes(losses)
    diverged = _diverged(losses)
    if max(len(jumps), len(high)) < FEWEST and not diverged:
        return
    evidence = [
        _spikes("gradient norm", gradients, jumps),
        _spikes("loss", losses, high),
        ("loss", from_to(losses.values[0], losses.last.value)) if diverged else None,
        ("highest learning rate", rate(facts.peak_rate)) if facts.peak_rate else None,
    ]
    yield verdict("unstable", "warning", evidence, _calmer(facts))


def _losses(facts: Facts) -> Trend:
    """The losses; none of a method that writes its own answers, whose loss is about 0 at any reward."""
    return Trend((), ()) if facts.method.writes_answers else facts.trend("loss")


def skipped_step(facts: Facts) -> Iterator[Verdict]:
    """The steps that never reached the weights, with the rows that they were made of."""
    found = facts.run.skipped()
    if not found:
        return
    evidence: list[tuple[str, str]] = []
    for step in found:
        sources = [row["source"] for row in step["rows"]]
        more = f" and {len(sources) - MOST_ROWS} more" if len(sources) > MOST_ROWS else ""
        evidence.append((f"step {step['step']}", first_lines(step["cause"])))
        evidence.append(("its rows", "; ".join(sources[:MOST_ROWS]) + more))
    files = "skipped/step-*.json holds their scores and texts: look for what is odd about them"
    yield verdict("skipped-step", "warning", evidence, [files, *_calmer(facts)[:2]])


_AVERTED = "A number that is not finite stopped the run"
_KEPT = (
    "The loss or its gradient overflowed. The run stopped before it reached the weights; the last checkpoint is whole."
)
_BROKEN = (
    "The policy's own scores of held-out rows overflowed: the weights are damaged, or their precision is too small."
)


def _gradient_spikes(gradients: Trend) -> list[int]:
    """Steps whose gradient is far above its neighbours, and above the first ones, which are the largest by nature."""
    first = max(gradients.values[:BEGINNING], default=0.0)
    high = {step for step, value in zip(gradients.steps, gradients.values, strict=True) if value > first}
    return [step for step in spikes(gradients, GRADIENT_SPIKE) if step in high]


def _loss_spikes(losses: Trend) -> list[int]:
    """Steps whose loss is far above both its neighbours and the start."""
    if not losses:
        return []
    start = abs(losses.values[0])
    high = {step for step, value in zip(losses.steps, losses.values, strict=True) if value > LOSS_SPIKE * start > 0}
    return [step for step in spikes(losses, LOSS_SPIKE) if step in high]


def _diverged(losses: Trend) -> bool:
    """Whether the last third lies above the start: by a rise, or, where that came early, by three times it."""
    if len(losses) < 6 or losses.values[0] <= 0:
        return False
    start, last = losses.values[0], losses.last
    rose = losses.rise.surely_above(0.0) or last.surely_above(LOSS_SPIKE * start)
    return last.value > DIVERGED * start and rose


def _spikes(name: str, trend: Trend, steps: list[int]) -> tuple[str, str] | None:
    if not steps:
        return None
    height = max(value for step, value in zip(trend.steps, trend.values, strict=True) if step in steps)
    usual = sorted(trend.values)[len(trend.values) // 2]
    return f"{name}, jumps", f"up to {number(height)} (usually {number(usual)}), at {steps_in_words(steps)}"


def _warmup(facts: Facts) -> float:
    """The share of the steps that warm up."""
    given = facts.card.block("options").get("warmup")
    known = given if given is not None else facts.card.block("fingerprint").get("warmup")
    return float(known or 0.0)


def _calmer(facts: Facts) -> list[str | None]:
    return [
        f"--learning-rate {rate(facts.peak_rate / 5)}" if facts.peak_rate else None,
        "--warmup 0.2, so that the first steps are small" if _warmup(facts) < 0.2 else None,
        f"--batch-size {2 * facts.batch_size}: the mean of more rows jumps less" if facts.batch_size else None,
        "look at the rows of those steps: one broken row is enough; likelier audit DATA finds many kinds",
    ]
