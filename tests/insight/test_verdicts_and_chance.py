"""Verdicts know how little they know: intervals and counts behind every number, nothing called learned by chance."""

from pathlib import Path
from typing import Any

import pytest

from likelier.insight.compare.frontier import Frontier, Place
from likelier.insight.compare.measures import MEASURES, Figure, Summary, summary_words
from likelier.insight.diagnose.statistics import Level
from likelier.insight.diagnose.words import level
from likelier.insight.kl import kl_words
from likelier.insight.verdicts import Verdict
from likelier.runs.account import Account, Finding
from likelier.runs.reader import Run
from likelier.utils.statistics import around, mean_of, wilson
from tests.helpers.diagnosis_world import names, numbers, the
from tests.helpers.runs_by_hand import a_run, growing


def held_out(step: int, right: float, items: int = 40, **more: float) -> dict[str, Any]:
    """An evaluation of so many pairs, this share of them right by reward."""
    low, high = wilson(right * items, items)
    interval = {"pair_accuracy_low": low, "pair_accuracy_high": high}
    return {"step": step, "loss": 0.69 - 0.01 * step, "pair_accuracy": right, "items": float(items)} | interval | more


def after(right: float, items: int = 40, **more: float) -> Run:
    """A run whose margin grows in training, with this held-out accuracy at its end."""
    return a_run(growing(), [held_out(0, 0.0, items, ranking_accuracy=0.5), held_out(12, right, items, **more)])


# --- healthy -------------------------------------------------------------------------------------------------------


def test_nothing_is_healthy_where_the_held_out_accuracy_may_be_chance() -> None:
    assert names(after(0.8, ranking_accuracy=0.6)) == ["healthy"]
    for right, items in ((0.55, 40), (0.6, 20), (0.7, 10)):
        run = after(right, items, ranking_accuracy=0.6)
        assert names(run) == ["unclear"], (right, items)
        verdict = the(run, "unclear")
        assert "may be chance" in verdict.title and "coin" in verdict.meaning
        assert f"of {items}" in numbers(verdict) and " to " in numbers(verdict)


def test_nor_where_it_is_below_chance_or_did_not_move() -> None:
    below = the(after(0.2, ranking_accuracy=0.6), "unclear")
    assert "less often than a coin" in below.title
    still = the(after(0.9, ranking_accuracy=0.5), "unclear")
    assert "did not move" in still.title and "50 % before, 50 % after" in numbers(still)
    full = a_run(growing(), [held_out(0, 0, ranking_accuracy=1.0), held_out(12, 0.9, ranking_accuracy=1.0)])
    assert names(full) == ["healthy"], "what was at its ceiling cannot rise"


def test_what_no_held_out_row_speaks_for_says_so() -> None:
    verdict = the(a_run(growing()), "healthy")
    assert "nothing was held out" in verdict.title and "not known" in verdict.meaning
    waits = a_run(growing(), data={"eval": {"groups": 40}})
    assert "before the held-out rows are scored" in the(waits, "unclear").title


def test_it_says_how_many_rows_it_takes() -> None:
    steps, rows = growing(), [held_out(0, 0, 100), held_out(12, 0.58, 100)]
    more = the(a_run(steps, rows, run={"eval_fraction": 0.1}), "unclear").advice[0]
    assert "--eval-fraction 0.15: " in more and "58 %" in more and "about 151 held-out rows" in more
    few = the(a_run(steps, [held_out(0, 0, 20), held_out(12, 0.55, 20)], run={"eval_fraction": 0.1}), "unclear")
    assert few.advice[0].startswith("more data: ")


# --- counts and intervals ------------------------------------------------------------------------------------------


def test_a_level_is_told_with_its_interval_and_count() -> None:
    assert level(Level(1.0, 0.1, 40, 40)) == "+1 nats (+0.798 to +1.2)"
    assert level(Level(1.0, 0.1)) == "+1 nats"
    verdict = the(a_run(growing(chosen=-0.1, rejected=-0.2)), "likelihood-displacement")
    assert "4 logged steps" in numbers(verdict) and numbers(verdict).count(" to ") >= 3


def _with_counts(verdict: Verdict) -> bool:
    told = numbers(verdict)
    return any(f"of {count}" in told or f", {count}" in told for count in ("40", "100"))


def test_overfitting_and_gaps_carry_counts() -> None:
    rows = [held_out(0, 0.0, 100), held_out(10, 0.9, 100) | {"loss": 0.4}, held_out(12, 0.6, 100) | {"loss": 0.6}]
    assert _with_counts(the(a_run(growing(), rows), "overfitting"))
    right = [row | {"rewards/accuracies": 0.75} for row in growing()]
    end = held_out(12, 0.52, 40, **{"rewards/accuracies": 0.52, "rewards/accuracies_low": 0.37})
    few = a_run(right, [held_out(0, 0.0), end | {"rewards/accuracies_high": 0.67}], options={"batch_size": 4})
    assert "overfitting" not in names(few), "16 rows of training are too few to be sure of a gap"
    many = a_run(right, [held_out(0, 0.0), end | {"rewards/accuracies_high": 0.67}], options={"batch_size": 64})
    assert "of 256" in numbers(the(many, "overfitting"))


@pytest.mark.parametrize(
    ("count", "times"), [(2, 12.706), (3, 4.303), (4, 3.182), (6, 2.571), (11, 2.228), (31, 2.042)]
)
def test_intervals_of_means_are_students(count: int, times: float) -> None:
    low, high = around(1.0, 0.5, count)
    assert high - 1 == pytest.approx(1 - low) == pytest.approx(0.5 * times, rel=3e-3)


def test_rows_of_a_prompt_count_together() -> None:
    values = [1.0, 1.0, 3.0, 3.0, 2.0, 2.0]
    alone, together = mean_of(values), mean_of(values, [0, 0, 1, 1, 2, 2])
    assert alone.value == together.value == 2.0 and together.error > 1.3 * alone.error
    assert together.error == pytest.approx(mean_of([1.0, 3.0, 2.0]).error)
    assert mean_of([1.0]).low == float("-inf")


# --- rows that were left out ---------------------------------------------------------------------------------------


def test_a_large_share_of_rows_left_out_is_a_verdict() -> None:
    def run(out: int, held: int = 0, **options: Any) -> Run:
        data = {"max_length": 256, "train": {"groups": 100 - out, "unusable": out}}
        found = a_run(growing(), data=data | {"eval": {"groups": 20 - held, "unusable": held}}, options=options)
        account = Account((Finding("over-max-length", count=out + held),))
        return Run(Path("/nowhere"), found.card, found.steps, [], account)

    assert "rows-left-out" not in names(run(5))
    verdict = the(run(26, max_length=256), "rows-left-out")
    assert verdict.severity == "warning" and "26 % of the training rows" in verdict.title
    assert "26 of 100" in numbers(verdict) and "over-max-length: 26 rows" in numbers(verdict)
    assert any("--max-length 512" in one for one in verdict.advice)
    default = the(run(26, truncation="cut-answer-right"), "rows-left-out")
    assert not any("--max-length" in one or "--truncation" in one for one in default.advice)
    assert "held-out rows" in the(run(0, held=5), "rows-left-out").title
    assert {"unclear", "healthy"} & set(names(run(26))), "the other rows were learned from, or not"


def test_ties_that_are_held_out_are_not_missed() -> None:
    data = {"eval": {"groups": 62, "unusable": 8, "undecided": 8}}
    assert "rows-left-out" not in names(a_run(growing(), data=data))
    data = {"eval": {"groups": 62, "unusable": 16, "undecided": 8}}
    assert "8 of 70" in numbers(the(a_run(growing(), data=data), "rows-left-out"))


# --- KL ------------------------------------------------------------------------------------------------------------


def test_a_kl_below_0_is_no_distance() -> None:
    assert kl_words(3.0, 0.5) == "3 nats an answer (standard error 0.5)"
    assert kl_words(0.0, 0.0) == "0 nats an answer (standard error 0)"
    assert kl_words(-0.08, 0.1).startswith("not distinguishable from 0: -0.08")
    assert kl_words(0.08, 0.1).startswith("not distinguishable from 0")
    measured = {"ranking_accuracy": 0.6, "kl": -0.1, "kl_per_token": -0.01, "kl_standard_error": 0.1}
    assert "KL to the reference: not distinguishable from 0" in numbers(the(after(0.8, **measured), "healthy"))
    assert summary_words(Summary((Figure(-0.1, error=0.2),)), "distance") == "not distinguishable from 0"


def test_a_kl_below_0_beats_nobody() -> None:
    below, near, far = Place("below", -0.2, 0.6, 0.1), Place("near", 0.5, 0.6, 0.1), Place("far", 4.0, 0.6, 0.1)
    assert near.beats(far) and not below.beats(far) and not below.beats(near)
    within, other = Place("within", 0.1, 0.6, 0.2), Place("other", 0.2, 0.6, 0.2)
    assert not within.beats(other) and not other.beats(within), "two KLs that are both no distance"
    frontier = Frontier(MEASURES[0], (), (below, near, far))
    assert [place.name for place in frontier.best] == ["near"]
    told = " ".join(frontier.words())
    assert "below came out below 0" in told and "not distinguishable from 0" in told and "by below" not in told
