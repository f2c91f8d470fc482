"""The table of checks, and the diagnosis that runs them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from likelier.insight.diagnose.advice import fitting
from likelier.insight.diagnose.answers import over_optimization, repetition, same_opening
from likelier.insight.diagnose.baseline import kto_baseline
from likelier.insight.diagnose.earned import constant_reward, dead_groups, gained, hacking
from likelier.insight.diagnose.ending import ending
from likelier.insight.diagnose.facts import Facts
from likelier.insight.diagnose.generalization import leakage, noisy_data, overfitting
from likelier.insight.diagnose.learned import health
from likelier.insight.diagnose.learning import no_gradient, not_learning, unchanged
from likelier.insight.diagnose.length import length_exploitation
from likelier.insight.diagnose.likelihood import displacement, drift
from likelier.insight.diagnose.rows import ROWS, left_out
from likelier.insight.diagnose.scores import of_scores
from likelier.insight.diagnose.stability import skipped_step, unstable
from likelier.insight.diagnose.start import distant_reference, wrong_reference
from likelier.insight.diagnose.written import (
    blind_critic,
    clip_share,
    entropy_collapse,
    kl_blow_up,
    length_runaway,
    models_disagree,
    sampler_drift,
    truncated_answers,
)
from likelier.insight.verdicts import Verdict, worst_first
from likelier.runs.reader import Run


@dataclass(frozen=True)
class Check:
    """A family of verdicts: the function that looks for them, and whether it makes sense while a run trains."""

    run: Callable[[Facts], Iterable[Verdict]]
    while_training: bool = True


CHECKS = (
    Check(ending, while_training=False),
    Check(wrong_reference),
    Check(no_gradient),
    Check(unchanged),
    Check(unstable),
    Check(skipped_step),
    Check(left_out),
    Check(leakage),
    Check(not_learning),
    Check(repetition),
    Check(same_opening),
    Check(drift),
    Check(over_optimization),
    Check(displacement),
    Check(length_exploitation),
    Check(overfitting),
    Check(noisy_data),
    Check(kto_baseline),
    Check(constant_reward),
    Check(hacking),
    Check(models_disagree),
    Check(kl_blow_up),
    Check(entropy_collapse),
    Check(truncated_answers),
    Check(length_runaway),
    Check(dead_groups),
    Check(clip_share),
    Check(sampler_drift),
    Check(blind_critic),
    Check(gained, while_training=False),
    Check(distant_reference, while_training=False),
)


def diagnose(run: Run) -> list[Verdict]:
    """Verdicts on a run, the worst first; never empty. Works with whatever the run has written so far."""
    facts = Facts(run)
    found = [verdict for check in CHECKS for verdict in check.run(facts)]
    is_bad = any(verdict.is_bad and verdict.name != ROWS for verdict in found)
    if not is_bad and not facts.method.writes_answers:  # what their answers earn was told above
        found += health(facts)  # rows that are missing say nothing of what was learned from the others
    return _said(facts, found)


def live_warnings(run: Run) -> list[Verdict]:
    """What should be known while a run trains: warnings and errors that later steps will not take back."""
    facts = Facts(run)
    found = [verdict for check in CHECKS if check.while_training for verdict in check.run(facts)]
    return _said(facts, (verdict for verdict in found if verdict.is_bad))


def _said(facts: Facts, verdicts: Iterable[Verdict]) -> list[Verdict]:
    """The worst first, with the advice that fits the run, in words that do."""
    found = fitting(facts, worst_first(verdicts))
    return [of_scores(one) for one in found] if facts.method.reads_values else found
