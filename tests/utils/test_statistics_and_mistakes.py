"""Intervals against what they are made of: every resample counted, every comparison drawn again, formulas by loops."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from likelier.insight.diagnose.statistics import (
    Level,
    Trend,
    correlation,
    is_correlated,
    mean_of,
    spikes,
    trend_of,
)
from likelier.objectives.metrics import MetricSums
from likelier.utils.statistics import Share, bootstrap, chance_above, rank_correlation, share_of, wilson

SIZES = [(1, 9), (7, 1, 2), (1, 1, 12, 3), (5, 2, 1, 1, 8)]


def every_resample(count: int) -> list[tuple[int, ...]]:
    """All draws of as many clusters as there are, each as likely as every other."""
    return list(itertools.product(range(count), repeat=count))


def is_quantile(value: float, level: float, outcomes: Sequence[float], slack: float = 0.012) -> bool:
    """Whether `value` is about the quantile of equally likely outcomes; the slack is what drawing them leaves."""
    found = np.asarray(outcomes)
    return (found < value - 1e-9).mean() <= level + slack and (found <= value + 1e-9).mean() >= level - slack


def right_rows(sizes: Sequence[int], seed: int) -> list[list[bool]]:
    rng = random.Random(seed)
    shares = itertools.cycle((0.9, 0.2, 0.6, 0.5, 0.1))
    return [[rng.random() < share for _ in range(size)] for size, share in zip(sizes, shares, strict=False)]


def resampled_means(rows: Sequence[Sequence[bool]]) -> list[float]:
    """The mean over the rows of every resample of clusters: over the rows that were drawn, however many these are."""
    found = []
    for drawn in every_resample(len(rows)):
        values = [value for number in drawn for value in rows[number]]
        found.append(sum(values) / len(values))
    return found


def flat(rows: Sequence[Sequence[bool]]) -> tuple[list[bool], list[int]]:
    """The rows in a mixed order, with their cluster's number (not from 0, with gaps)."""
    both = [(value, 10 + 3 * number) for number, own in enumerate(rows) for value in own]
    random.Random(1).shuffle(both)
    return [value for value, _ in both], [number for _, number in both]


@pytest.mark.parametrize("sizes", SIZES)
def test_the_interval_over_clusters_is_that_of_every_resample(sizes: tuple[int, ...]) -> None:
    rows = right_rows(sizes, seed=sum(sizes))
    outcomes = resampled_means(rows)
    low, high = bootstrap(sizes, [[sum(own) for own in rows]])
    assert is_quantile(low, 0.025, outcomes) and is_quantile(high, 0.975, outcomes)


@pytest.mark.parametrize("sizes", SIZES)
def test_a_share_is_that_of_every_resample_but_no_surer_than_wilsons(sizes: tuple[int, ...]) -> None:
    rows = [own * 5 for own in right_rows(sizes, seed=1 + sum(sizes))]  # Wilson's is narrow beside it
    right, clusters = flat(rows)
    outcomes = resampled_means(rows)
    found = share_of(np.array(right, float), np.array(clusters))
    low, high = wilson(sum(right), len(right))
    assert found.value == pytest.approx(sum(right) / len(right)) and found.cases == len(right)
    assert found.low <= low and found.high >= high
    assert found.low == low or is_quantile(found.low, 0.025, outcomes, slack=0.02)
    assert found.high == high or is_quantile(found.high, 0.975, outcomes, slack=0.02)
    assert (found.low, found.high) != (low, high)


def test_where_every_row_is_right_every_resample_is() -> None:
    """However unequal the clusters are: a mean over the rows that were drawn is 1."""
    clusters = [0] * 30 + [1] * 2 + [2] + [3] * 7
    found = share_of(np.ones(40), np.array(clusters))
    assert (found.low, found.high) == wilson(40, 40)
    sizes = [30, 2, 1, 7]
    assert bootstrap(sizes, [sizes]) == bootstrap(sizes, [sizes], [[0] * 4]) == (1.0, 1.0)


def differences(sizes: Sequence[int], own: Sequence[Sequence[float]], base: Sequence[Sequence[float]]) -> list[float]:
    """Every outcome of drawing prompts, and on each side one run fewer than there are (one of one)."""

    def draws(runs: Sequence[Sequence[float]]) -> list[list[Sequence[float]]]:
        return [list(drawn) for drawn in itertools.product(runs, repeat=max(1, len(runs) - 1))]

    found = []
    for drawn in every_resample(len(sizes)):
        count = sum(sizes[number] for number in drawn)
        for ours, theirs in itertools.product(draws(own), draws(base)):
            mine = sum(run[number] for run in ours for number in drawn) / len(ours)
            other = sum(run[number] for run in theirs for number in drawn) / len(theirs)
            found.append((mine - other) / count)
    return found


@pytest.mark.parametrize(("ours", "theirs"), [(1, 1), (3, 1), (1, 2), (2, 3)])
def test_the_paired_interval_is_that_of_every_resample(ours: int, theirs: int) -> None:
    sizes, rng = [1, 6, 2, 11], random.Random(ours + 10 * theirs)
    own, base = ([[float(rng.randint(0, size)) for size in sizes] for _ in range(runs)] for runs in (ours, theirs))
    low, high = bootstrap(sizes, own, base)
    outcomes = differences(sizes, own, base)
    assert is_quantile(low, 0.025, outcomes) and is_quantile(high, 0.975, outcomes)
    low, high = bootstrap(sizes, base, own)
    assert is_quantile(-high, 0.025, outcomes) and is_quantile(-low, 0.975, outcomes)


# --- shares --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("right", "count"), [(0, 4), (1, 7), (8, 10), (250, 300), (5, 5)])
def test_wilsons_limits_are_where_the_observed_share_is_just_not_surprising(right: int, count: int) -> None:
    """What the interval is made of: at a limit p, the share is 1.96 of p's own standard errors away."""
    low, high = wilson(right, count)
    for limit in (low, high):
        if 0 < limit < 1:
            error = math.sqrt(limit * (1 - limit) / count)
            assert abs(right / count - limit) / error == pytest.approx(1.959964, abs=1e-6)
    assert 0 <= low <= right / count <= high <= 1 and (low == 0) == (right == 0) and (high == 1) == (right == count)


def drawn_areas(ups: int, downs: int, draws: int = 8000) -> np.ndarray:
    """The share of comparisons won by values that are three times as large in the mean, in many draws of rows."""
    rng = np.random.default_rng(0)
    up, down = rng.exponential(3.0, (draws, ups, 1)), rng.exponential(1.0, (draws, 1, downs))
    return (up > down).mean((1, 2))


@pytest.mark.parametrize(("ups", "downs"), [(60, 4), (4, 60), (25, 25)])
def test_hanleys_and_mcneils_error_is_that_of_drawing_again(ups: int, downs: int) -> None:
    """For exponential values, whose chance to win is 3 of 4, their formula is exact."""
    areas = drawn_areas(ups, downs)
    assert areas.mean() == pytest.approx(0.75, abs=0.01)
    won = round(0.75 * downs)  # each up wins against three downs of four
    values = np.array([won + 0.5] * ups + list(range(1, downs + 1)))
    found = chance_above(values, np.arange(ups + downs) < ups)
    assert found.value == pytest.approx(0.75, abs=0.02)
    assert found.value - found.low == pytest.approx(1.96 * areas.std(), rel=0.05)
    assert found.high == pytest.approx(min(1.0, 2 * found.value - found.low))


def test_a_share_is_beyond_one_half_with_its_whole_interval_and_a_margin() -> None:
    for low, high, beyond in ((0.53, 0.9, True), (0.519, 0.9, False), (0.1, 0.47, True), (0.1, 0.481, False)):
        share = Share((low + high) / 2, low, high, 10)
        assert share.beyond_half() is beyond and share.other_side.beyond_half() is beyond
        other = share.other_side
        assert (other.value, other.low, other.high) == pytest.approx((1 - share.value, 1 - high, 1 - low))


def test_rank_correlation_is_pearsons_of_ranks_counted_by_hand() -> None:
    rng = random.Random(3)
    for _ in range(20):
        left, right = ([rng.randint(0, 5) for _ in range(12)] for _ in range(2))
        ranked = [[sum(b < a for b in own) + (sum(b == a for b in own) + 1) / 2 for a in own] for own in (left, right)]
        expected = np.corrcoef(*ranked)[0, 1]
        assert rank_correlation(np.array(left), np.array(right)) == pytest.approx(expected)
        assert correlation(*ranked) == pytest.approx(expected)


# --- sums ----------------------------------------------------------------------------------------------------------


def test_only_what_is_selected_is_added_and_counted() -> None:
    values, where = torch.tensor([1.0, math.nan, 4.0, 8.0]), torch.tensor([True, False, True, False])
    sums = MetricSums()
    sums.add("x", values, where)
    sums.add("x", torch.tensor([1.0]))
    sums.add("nothing", values, torch.zeros(4, dtype=torch.bool))
    assert sums.means() == {"x": 2.0}
    assert sums.zeros().means() == {} and MetricSums().merge([sums, sums, sums.zeros()]).means() == {"x": 2.0}
    assert sums.over_ranks(lambda own: own + torch.tensor([[0.0, 10.0], [0.0, 2.0]])).means() == {"x": 16.0 / 5}


def test_metrics_are_added_in_double_precision() -> None:
    sums = MetricSums()
    for _ in range(4):
        sums.add("x", torch.tensor([2.0**24, 1.0], dtype=torch.float32))
    assert float(sums.sums["x"]) == 4 * (2.0**24 + 1)


# --- a few noisy steps ---------------------------------------------------------------------------------------------


def test_surely_is_by_three_errors_and_on_the_right_side() -> None:
    level = Level(1.0, 0.1)
    assert level.surely_above(0.69) and not level.surely_above(0.71) and level.surely_above(0.79, errors=2)
    assert level.surely_below(1.31) and not level.surely_below(1.29) and level.surely_below(1.21, errors=2)
    assert not level.surely_above(1.0) and not level.surely_below(1.0) and not Level(1.0).surely_above(1.0)
    assert not Level(2.0, math.inf).surely_above(0) and not Level(-2.0, math.inf).surely_below(0)
    assert (level - Level(3.0, 0.2)) == Level(-2.0, math.hypot(0.1, 0.2))


def test_noise_is_the_standard_deviation_about_a_trend() -> None:
    rng = np.random.default_rng(0)
    values = 0.01 * np.arange(4000) + rng.normal(0, 0.5, 4000)
    trend = Trend(tuple(range(4000)), tuple(values))
    assert trend.noise == pytest.approx(0.5, rel=0.04)
    assert trend.first.value == pytest.approx(values[:1333].mean()) and trend.last.value == pytest.approx(
        values[-1333:].mean()
    )
    assert trend.first.error == pytest.approx(trend.noise / math.sqrt(1333))
    assert trend.rise.value == pytest.approx(trend.last.value - trend.first.value) and trend.rise.value > 0
    assert trend.scaled(-2).noise == pytest.approx(2 * trend.noise) and trend.scaled(-2).rise.value < 0
    three, four = Trend((1, 2, 3), (1.0, 2.0, 1.0)), Trend((1, 2, 3, 4), (1.0, 2.0, 1.0, 2.0))
    assert three.noise == math.inf and four.noise == pytest.approx(math.sqrt(0.5)) and four.third == 1
    assert trend_of(([1, 2, 3, 4], [1.0, math.nan, math.inf, 2.0])) == Trend((1, 4), (1.0, 2.0))


def test_the_error_of_a_mean_is_that_of_independent_values() -> None:
    values = [3.0, 5.0, 4.0, 9.0, 1.0]
    assert mean_of(values).value == pytest.approx(np.mean(values))
    assert mean_of(values).error == pytest.approx(np.std(values, ddof=1) / math.sqrt(5))
    assert mean_of([2.0, 4.0]).error == pytest.approx(1.0) and mean_of([2.0]).error == math.inf


def test_a_spike_stands_out_of_what_is_before_and_of_what_is_after() -> None:
    def found(*values: float, times: float = 3) -> list[int]:
        return spikes(Trend(tuple(range(10, 10 + len(values))), values), times)

    assert found(1, 1, 1, 9, 1, 1, 1) == [13]
    assert found(9, 9, 9, 9, 1, 1, 1, 1) == [] and found(1, 1, 1, 1, 9, 9, 9, 9) == []  # a level that changes
    assert found(1, 1, 1, 3, 1, 1, 1) == []  # three times is not more than three times
    assert found(1, 1, 1, 1, 9) == [14] and found(9, 1, 1, 1, 1) == [10]
    assert found(1, 9) == []  # one value is no level, though it can deny one
    assert 11 not in found(9, 9, 1, 1, 1, 1) and 14 not in found(1, 1, 1, 1, 9, 9)
    assert found(9, 1, 1, 1, 1, 1, 30, 1) == [10, 16]
    assert 18 in found(20, 20, 20, 20, 1, 1, 1, 20, 30, 1, 1)  # of the five before, three are low; of six, half


def test_a_correlation_is_pearsons_wherever_the_two_lie() -> None:
    rng = np.random.default_rng(1)
    for scale, offset in ((1.0, 0.0), (0.01, 5.0), (300.0, -40.0)):
        left = rng.normal(size=12) + 2.0
        right = scale * (left + rng.normal(size=12)) + offset
        assert correlation(left.tolist(), right.tolist()) == pytest.approx(np.corrcoef(left, right)[0, 1])
    assert correlation([1.0, 2.0], [3.0, 3.0]) == correlation([3.0, 3.0], [1.0, 2.0]) == 0.0


def test_a_correlation_is_more_than_noise_by_fishers_transformation() -> None:
    """Three standard errors of atanh(r), which are 1 / sqrt(n - 3): tried on pairs that have nothing in common."""
    assert not is_correlated(0.999, 3) and is_correlated(1.0, 5)
    limit = math.tanh(3 / math.sqrt(97))
    assert is_correlated(limit + 1e-6, 100) and not is_correlated(limit - 1e-6, 100) and not is_correlated(-0.9, 100)
    rng = np.random.default_rng(0)
    false = [is_correlated(float(np.corrcoef(rng.normal(size=(2, 30)))[0, 1]), 30) for _ in range(4000)]
    assert 0 < np.mean(false) < 0.004
