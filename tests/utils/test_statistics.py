"""Every interval of the product: Wilson's, a bootstrap over prompts, and differences of two shares."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from likelier.utils.statistics import difference_of, share_of, wilson
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
