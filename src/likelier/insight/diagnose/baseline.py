"""KTO's baseline z0, the mean log-ratio of answers under foreign prompts, not below 0."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean, median
from typing import TypeAlias

from likelier.insight.diagnose.catalogue import verdict
from likelier.insight.diagnose.facts import Facts
from likelier.insight.diagnose.statistics import Trend
from likelier.insight.diagnose.words import nats, number, percent, rate
from likelier.insight.verdicts import Severity, Verdict

ALWAYS = 0.9  # of the steps
ZERO = 1e-4  # nats
LOW = 0.05  # of reward: that far below a baseline of 0 desirable answers count as wrong
NOISE = 0.25  # of reward: a baseline that wanders by that much changes a row's weight by a few percent
SMALL_BATCH = 8
RUNAWAY = 20.0  # nats: everything gets likelier, whatever the prompt


def kto_baseline(facts: Facts) -> Iterator[Verdict]:
    """Stuck at 0, too noisy, or running away."""
    baseline = facts.trend("kl")
    if not facts.method.has_baseline or not facts.scale or len(baseline) < 4:
        return
    errors = facts.trend("kl_standard_error")
    evidence = [
        (
            "baseline",
            f"{number(baseline.last.value)} nats in the last third; 0 in {percent(_zeros(baseline))} of the steps",
        ),
        ("its standard error", f"{number(median(errors.values))} nats") if errors else None,
        ("rows a step", str(facts.batch_size)) if facts.batch_size else None,
        ("log-ratio of the desirable answers", nats(facts.logratio("chosen").last.value)),
    ]
    for check in (_runaway, _noisy, _stuck):
        found = check(facts, baseline, errors)
        if found is not None:
            severity, title, meaning, advice = found
            yield verdict("kto-baseline", severity, evidence, advice, title=title, meaning=meaning)
            return


def _zeros(baseline: Trend) -> float:
    return fmean(value <= ZERO for value in baseline.values)


Found: TypeAlias = "tuple[Severity, str, str, list[str | None]] | None"


def _runaway(facts: Facts, baseline: Trend, errors: Trend) -> Found:
    if baseline.last.value < RUNAWAY:
        return None
    return (
        "warning",
        "KTO's baseline runs away",
        "Answers become likelier under prompts that are not theirs as well: the policy learns a way of writing, not "
        "answers, and it is far from its reference.",
        [
            f"--learning-rate {rate(facts.peak_rate / 5)}" if facts.peak_rate else None,
            f"{facts.method.strength_flag} {3 * (facts.scale or 0.1):.3g} holds the policy closer",
            "fewer steps",
        ],
    )


def _noisy(facts: Facts, baseline: Trend, errors: Trend) -> Found:
    small = (facts.batch_size or SMALL_BATCH) < SMALL_BATCH
    wander = (facts.scale or 0.0) * median(errors.values) if errors else 0.0
    if wander < NOISE and not small:
        return None
    larger = max(2 * SMALL_BATCH, 4 * (facts.batch_size or SMALL_BATCH))
    return (
        "warning",
        "KTO's baseline is too noisy",
        "The baseline of a step is a mean over its rows. With so few of them, or so uneven ones, it says more about "
        "which rows came together than about the policy, and every row is judged against it.",
        [
            f"--batch-size {larger}: the error falls with the root of the rows",
            "with pairs: --method apo_zero has no baseline",
        ],
    )


def _stuck(facts: Facts, baseline: Trend, errors: Trend) -> Found:
    if _zeros(baseline) < ALWAYS:
        return None
    why = "The mean log-ratio under foreign prompts is not above 0, and KTO does not let its baseline go below."
    if not facts.trend("rewards/chosen").last.surely_below(-LOW):
        works = f"{why} It then is apo_zero on single answers, which works."
        return "info", "KTO's baseline stays at 0", works, []
    heavier = 2 * facts.card.hyperparameters.get("desirable_weight", 1.0)
    return (
        "warning",
        "KTO's baseline stays at 0, and the desirable answers fall below it",
        f"{why} Here everything falls, and a desirable answer that falls counts as wrong, however good it is.",
        [
            f"--learning-rate {rate(facts.peak_rate / 3)}" if facts.peak_rate else None,
            f"--desirable-weight {heavier:g} holds up the desirable answers",
        ],
    )
