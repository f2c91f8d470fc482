"""Every interval of the product: Wilson's, a bootstrap over prompts, and differences of two shares."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from likelier.utils import statistics
from likelier.utils.statistics import (
    Share,
    chance_above,
    difference_of,
    flip_rate,
    histogram,
    rank_correlation,
    rank_correlation_of,
    share_of,
    summary,
    wilson,
)
from tests.helpers.support import clustered, clustered_error


@pytest.mark.parametrize(
    ("right", "count", "low", "high"), [(8, 10, 0.490162, 0.943318), (0, 5, 0.0, 0.434482), (43, 46, 0.825, 0.978)]
)
def test_wilsons_interval(right: int, count: int, low: float, high: float) -> None:
    assert wilson(right, count) == pytest.approx((low, high), abs=1e-3)


def test_without_observations_anything_is_possible() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


@given(right=st.integers(0, 50), more=st.integers(0, 50))
def test_wilsons_interval_holds_the_share(right: int, more: int) -> None:
    if right + more:
        low, high = wilson(right, right + more)
        assert 0 <= low <= right / (right + more) <= high + 1e-12 <= 1 + 1e-12


def test_repeated_prompts_widen_the_interval() -> None:
    """To what drawing whole prompts gives, however unequal they are, and whatever the order of the rows."""
    sizes, sums = clustered(300)
    rows = [
        (number, place < right)
        for number, (size, right) in enumerate(zip(sizes, sums, strict=True))
        for place in range(size)
    ]
    clusters, right = np.array([number for number, _ in rows]), np.array([is_right for _, is_right in rows])
    mean, error = sum(sums) / sum(sizes), clustered_error(sizes, sums)
    alone = share_of(right, np.arange(len(right)))
    assert (alone.low, alone.high) == wilson(sum(sums), len(right))
    found = share_of(right, clusters)
    assert (found.low, found.high) == pytest.approx((mean - 1.96 * error, mean + 1.96 * error), abs=0.15 * error)
    assert found.high - found.low > 2 * (alone.high - alone.low)
    shuffled = np.random.default_rng(1).permutation(len(right))
    assert vars(share_of(right[shuffled], clusters[shuffled] * 7 + 3)) == pytest.approx(vars(found), abs=1e-12)


@pytest.mark.parametrize(
    ("own", "base", "low", "high"),
    [
        ([1] * 6, [0] * 6, 1 - 2**0.5 * 0.390334, 1.0),  # Wilson of 6 of 6 begins 0.390334 below 1
        ([1] * 100, [1] * 100, -0.036995, 0.036995),  # no row differs: up to 3.7 % of rows may
        ([1] * 6, [1] * 6, -0.390334, 0.390334),
    ],
)
def test_a_difference_is_no_surer_than_wilsons_intervals(
    own: list[int], base: list[int], low: float, high: float
) -> None:
    """Where rows are alike, every draw is; the squares of the distances to Wilson's limits add up all the same."""
    for clusters in (np.arange(len(own)), np.arange(len(own)) // 3):
        found = difference_of([own], [base], clusters)
        assert (found.low, found.high) == pytest.approx((low, high), abs=1e-5)
        other = difference_of([base], [own], clusters)
        assert (other.value, other.low, other.high) == pytest.approx((-found.value, -high, -low), abs=1e-5)


def test_a_difference_is_clear_about_where_the_sign_test_is() -> None:
    """Of 100 rows: five better and none worse are p = 0.06, six are p = 0.03."""
    none = [0] * 100
    lows = [difference_of([[1] * better + [0] * (100 - better)], [none], range(100)).low for better in range(3, 9)]
    assert lows == sorted(lows) and lows[1] < 0 < lows[3]


def test_of_many_rows_a_difference_is_what_drawing_them_gives() -> None:
    rng = np.random.default_rng(0)
    own, base = (rng.random((1, 2000)) < share for share in (0.7, 0.6))
    found = difference_of(own, base, np.arange(2000))
    error = (own.astype(float) - base).std() / 2000**0.5
    assert (found.low, found.high) == pytest.approx(
        (found.value - 1.96 * error, found.value + 1.96 * error), abs=0.1 * error
    )


@pytest.mark.parametrize("right", [[], [1], [0, 1, 1], [1] * 9, [0.5, 0.25, 1.0, 1.0]])
def test_rows_that_stand_alone_have_wilsons_interval_itself(right: list[float]) -> None:
    alone = share_of(right, np.arange(len(right)))
    assert (alone.low, alone.high) == wilson(sum(right), len(right)) and alone.cases == len(right)
    assert alone.value == (np.mean(right) if right else 0.5)


@pytest.mark.parametrize("up", [[], [True], [False, False]])
def test_without_both_kinds_nothing_is_known_of_which_is_above(up: list[bool]) -> None:
    values = np.arange(len(up), dtype=float)
    assert chance_above(values, np.array(up, dtype=bool)) == Share(0.5, 0.0, 1.0, len(up))


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=30))
def test_the_chance_to_be_above_is_counted_over_all_comparisons(rows: list[tuple[int, bool]]) -> None:
    values, up = np.array([value for value, _ in rows], dtype=float), np.array([is_up for _, is_up in rows])
    wins = [(a > b) + (a == b) / 2 for a in values[up] for b in values[~up]]
    found = chance_above(values, up)
    assert found.value == pytest.approx(np.mean(wins) if wins else 0.5) and 0 <= found.low <= found.value <= found.high
    assert chance_above(-values, up).value == pytest.approx(1 - found.value) and found.cases == len(rows)


def test_what_does_not_vary_is_correlated_with_nothing() -> None:
    level, rising = np.ones(5), np.arange(5.0)
    assert rank_correlation(level, rising) == rank_correlation(rising, level) == 0.0
    assert rank_correlation(rising, rising**3) == pytest.approx(1.0) == -rank_correlation(rising, -rising)


@given(st.lists(st.integers(0, 3000), max_size=60))
def test_a_summary_is_numpys(numbers: list[int]) -> None:
    found = summary(np.array(numbers))
    assert found["count"] == len(numbers)
    if numbers:
        quantiles = dict(zip(("p5", "p25", "median", "p75", "p95", "p99"), (5, 25, 50, 75, 95, 99), strict=True))
        expected = {"mean": np.mean(numbers), "min": min(numbers), "max": max(numbers)}
        expected |= {name: np.percentile(numbers, share) for name, share in quantiles.items()}
        assert found == {"count": len(numbers), **{k: pytest.approx(v, abs=0.0051) for k, v in expected.items()}}
    else:
        assert found == {"count": 0}


@given(st.lists(st.lists(st.integers(0, 400), max_size=40), min_size=1, max_size=3))
def test_every_number_is_in_the_bar_that_its_place_says(series: list[list[int]]) -> None:
    bars = histogram(*map(np.array, series))
    if not any(series):
        assert bars == {"edges": [], "counts": [[] for _ in series]}
        return
    edges = bars["edges"]
    width = edges[1]
    assert edges == list(range(0, edges[-1] + 1, width)) and len(edges) <= 26
    top = max(1.0, float(np.quantile(np.concatenate(series), 0.995)))
    assert edges[-1] - width < top <= edges[-1] and (width - 1) * 24 < top <= width * 24
    for numbers, counts in zip(series, bars["counts"], strict=True):
        assert counts == [
            sum(place == min(number // width, len(edges) - 2) for number in numbers) for place in range(len(edges) - 1)
        ]


@given(st.floats(0, 0.5))
def test_two_judgements_disagree_as_often_as_one_errs_and_the_other_does_not(chance: float) -> None:
    assert flip_rate(2 * chance * (1 - chance)) == pytest.approx(chance, abs=1e-6)
    assert flip_rate(0.5 + chance) == 0.5


# --- correlations --------------------------------------------------------------------------------------------------


def test_a_rank_correlation_of_rows_has_the_interval_of_bonett_and_wright() -> None:
    """r = .5 of 50 rows: tanh(atanh(r) -+ 1.96 sqrt((1 + r^2 / 2) / 47)), worked out by hand."""
    left, right = np.random.default_rng(3).multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], 50).T
    found = rank_correlation_of(left, np.exp(right), np.arange(50))
    assert found.value == pytest.approx(rank_correlation(left, right)) and found.cases == 50
    half = 1.959964 * np.sqrt((1 + found.value**2 / 2) / 47)
    limits = np.tanh(np.arctanh(found.value) + np.array([-half, half]))
    assert (found.low, found.high) == pytest.approx(tuple(limits))


@pytest.mark.slow
def test_its_interval_holds_the_truth_also_where_prompts_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 200 samples of 40 prompts with 3 alike rows each about 95 % hold 6 / pi asin(rho / 2)."""
    monkeypatch.setattr(statistics, "DRAWS", 200)
    rho, hits, generator = 0.5, 0, np.random.default_rng(7)
    truth = 6 / np.pi * np.arcsin(rho / 2)
    for _ in range(200):
        of_prompts = generator.multivariate_normal([0, 0], [[1, rho], [rho, 1]], 40).repeat(3, 0)
        left, right = (0.9 * of_prompts + np.sqrt(0.19) * _like(generator, rho)).T
        found = rank_correlation_of(left, right, np.arange(40).repeat(3))
        hits += found.low <= truth <= found.high
    assert 178 <= hits <= 199


def _like(generator: np.random.Generator, rho: float) -> np.ndarray:
    return generator.multivariate_normal([0, 0], [[1, rho], [rho, 1]], 120)


@pytest.mark.parametrize("count", [1, 3])
def test_a_handful_of_rows_tells_no_correlation(count: int) -> None:
    found = rank_correlation_of(np.arange(count), np.arange(count), np.arange(count))
    assert (found.low, found.high) == (-1.0, 1.0)


def test_a_perfect_correlation_is_never_certain_to_be_low() -> None:
    found = rank_correlation_of(np.arange(20), np.arange(20), np.arange(20) // 2)
    assert found.value == pytest.approx(1) and found.low > 0.99 and found.high <= 1
