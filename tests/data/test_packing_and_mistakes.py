"""How steps are planned and cut, where the tests of whole steps cannot tell a mistake from slowness or from chance."""

from __future__ import annotations

from math import ceil, inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from likelier.data.packing import StepSampler, _least_bins, packed_micro_batches
from tests.helpers.architectures import group
from tests.helpers.support import shared_tokens


def of_sizes(*sizes: int) -> list[Any]:
    """Groups of different prompts that hold so many tokens at once."""
    return [group([number] * size, [100], [101]) for number, size in enumerate(sizes)]


def loads(sizes: tuple[int, ...], budget: int, ranks: int = 1) -> list[int]:
    return [shared_tokens(part) for part in packed_micro_batches(of_sizes(*sizes), budget, ranks=ranks)]


# --- the planned steps -----------------------------------------------------------------------------------------------


@given(
    prompts=st.lists(st.integers(0, 5), min_size=1, max_size=20),
    size=st.integers(1, 7),
    order=st.sampled_from(["shuffled", "file"]),
    group_by=st.sampled_from([None, "prompt"]),
    steps=st.none() | st.integers(0, 25),
)
def test_the_groups_of_the_first_steps_are_those_that_the_steps_hold(
    prompts: list[int], size: int, order: Any, group_by: str | None, steps: int | None
) -> None:
    plan = StepSampler(list(map(bytes, prompts)), batch_size=size, order=order, group_by=group_by, seed=3)
    taken = list(plan)[: len(plan) if steps is None else steps]
    assert list(plan.seen(steps)) == sorted(number for step in taken for number in step)


def test_a_plan_begins_with_epoch_0() -> None:
    def plan() -> StepSampler:
        return StepSampler([b""] * 30, batch_size=4, order="shuffled", group_by=None, seed=1)

    fresh, first = plan(), plan()
    first.set_epoch(0)
    assert list(fresh) == list(first)


# --- micro-batches ---------------------------------------------------------------------------------------------------


@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=12), budget=st.integers(1, 40))
def test_the_bound_is_the_best_of_the_two_that_are_known(sizes: list[int], budget: int) -> None:
    """By the tokens that fit into a bin, and for each k by the sizes of which no bin takes more than k."""
    ordered = sorted(sizes, reverse=True)
    by_sum = ceil(sum(min(size, budget) for size in sizes) / budget)
    by_number = [ceil(sum(size > budget / (k + 1) for size in sizes) / k) for k in range(1, len(sizes) + 1)]
    assert _least_bins(ordered, budget) == max(by_sum, *by_number, 1)


@pytest.mark.parametrize("ranks", [1, 2])
def test_beside_one_that_does_not_fit_the_others_are_spread_evenly(ranks: int) -> None:
    found = [load for load in loads((50, 6, 6, 6, 6), 20, ranks) if load]
    assert found[0] == 50 and sorted(found[1:]) == ([12, 12] if ranks == 1 else [6, 6, 12])


def test_what_fills_the_budget_to_the_last_token_fits() -> None:
    assert loads((10, 10, 10, 10), 20) == [20, 20]
    assert loads((10, 10, 10, 10), 19) == [10] * 4
    assert loads((20, 20), 20) == [20, 20]


@given(sizes=st.lists(st.integers(2, 20), min_size=1, max_size=10), budget=st.integers(20, 60))
def test_where_the_emptiest_is_filled_first_no_two_are_further_apart_than_a_group(
    sizes: list[int], budget: int
) -> None:
    found = loads(tuple(sizes), budget)
    emptiest_first = [0] * len(found)
    for size in sorted(sizes, reverse=True):
        emptiest_first[emptiest_first.index(min(emptiest_first))] += size
    if max(emptiest_first) <= budget:
        assert found == sorted(emptiest_first, reverse=True)
    assert max(found, default=inf) <= budget
