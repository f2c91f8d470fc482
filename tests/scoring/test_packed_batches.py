"""Micro-batches for the shared-prefix scorer: whole prompts, within the budget, as few as can be hoped for."""

from __future__ import annotations

from collections import Counter
from math import ceil
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from likelier.data.groups import Group
from likelier.data.packing import packed_micro_batches
from likelier.scoring import collate
from tests.helpers.architectures import group
from tests.helpers.support import shared_tokens

BUDGETS = st.integers(1, 120)
RANKS = st.integers(1, 4)


@st.composite
def steps(draw: Any) -> list[Group]:
    """Groups of a step: prompts of all lengths, some of them several times, answers that some groups share."""
    groups = []
    for number in range(draw(st.integers(1, 8))):
        prompt = [number] * draw(st.integers(1, 30))
        answers = draw(st.lists(st.integers(1, 20), min_size=2, max_size=4, unique=True))
        for first in range(draw(st.integers(1, 3))):
            sides = (answers[first % len(answers)], answers[(first + 1) % len(answers)])
            groups.append(group(prompt, *([50 + side] * side for side in sides)))
    return draw(st.permutations(groups))


def units_of(groups: list[Group]) -> dict[bytes, list[Group]]:
    """The groups of each prompt."""
    units: dict[bytes, list[Group]] = {}
    for item in groups:
        units.setdefault(item.prompt.tobytes(), []).append(item)
    return units


def best_fit_decreasing(sizes: list[int], budget: int) -> int:
    """How many bins best-fit decreasing takes; what is over the budget has a bin of its own."""
    bins: list[int] = []
    for size in sorted(sizes, reverse=True):
        fitting = [number for number, load in enumerate(bins) if load + size <= budget]
        if fitting:
            bins[max(fitting, key=lambda number: bins[number])] += size
        else:
            bins.append(size)
    return len(bins)


@settings(max_examples=200)
@given(groups=steps(), budget=BUDGETS, ranks=RANKS)
def test_every_group_is_in_one_micro_batch(groups: list[Group], budget: int, ranks: int) -> None:
    parts = packed_micro_batches(groups, budget, ranks=ranks)
    assert Counter(id(item) for part in parts for item in part) == Counter(id(item) for item in groups)


@settings(max_examples=200)
@given(groups=steps(), budget=BUDGETS, ranks=RANKS)
def test_a_micro_batch_over_the_budget_is_one_group_or_one_long_prompt(
    groups: list[Group], budget: int, ranks: int
) -> None:
    for part in packed_micro_batches(groups, budget, ranks=ranks):
        is_one_long_prompt = len(units_of(part)) == 1 and shared_tokens(part) <= 2 * len(part[0].prompt)
        assert len(part) <= 1 or shared_tokens(part) <= budget or is_one_long_prompt


@settings(max_examples=200)
@given(groups=steps(), budget=BUDGETS)
def test_a_prompt_stays_together_unless_it_is_over_the_budget(groups: list[Group], budget: int) -> None:
    parts = packed_micro_batches(groups, budget)
    for prompt, own in units_of(groups).items():
        homes = [part for part in parts if any(item.prompt.tobytes() == prompt for item in part)]
        assert len(homes) == 1 or shared_tokens(own) > budget


@settings(max_examples=200)
@given(groups=steps(), budget=BUDGETS)
def test_their_number_lies_between_the_bounds(groups: list[Group], budget: int) -> None:
    sizes = [shared_tokens(own) for own in units_of(groups).values()]
    parts = packed_micro_batches(groups, budget)
    if max(sizes) <= budget:
        assert ceil(sum(sizes) / budget) <= len(parts) <= best_fit_decreasing(sizes, budget)
    assert all(parts)


@pytest.mark.slow
@settings(max_examples=300)
@given(groups=steps(), budget=BUDGETS, ranks=RANKS)
def test_their_number_is_a_multiple_of_the_ranks(groups: list[Group], budget: int, ranks: int) -> None:
    alone, shared = packed_micro_batches(groups, budget), packed_micro_batches(groups, budget, ranks=ranks)
    assert len(shared) % ranks == 0
    assert len(shared) >= len(alone) or ranks == 1


@settings(max_examples=200)
@given(groups=steps(), budget=BUDGETS, ranks=RANKS)
def test_the_fullest_comes_first(groups: list[Group], budget: int, ranks: int) -> None:
    loads = [shared_tokens(part) for part in packed_micro_batches(groups, budget, ranks=ranks)]
    assert loads[0] == max(loads)


@settings(max_examples=50)
@given(groups=steps(), budget=BUDGETS, ranks=RANKS)
def test_the_cut_is_a_function_of_the_groups(groups: list[Group], budget: int, ranks: int) -> None:
    first, again = (packed_micro_batches(list(groups), budget, ranks=ranks) for _ in range(2))
    assert [[id(item) for item in part] for part in first] == [[id(item) for item in part] for part in again]


def test_they_are_balanced() -> None:
    groups = [group([number] * 10, [1], [2]) for number in range(9)]
    assert [len(part) for part in packed_micro_batches(groups, 80)] == [5, 4]
    assert [len(part) for part in packed_micro_batches(groups, 80, ranks=3)] == [3, 3, 3]


def test_a_group_over_the_budget_runs_alone() -> None:
    groups = [group([number] * size, [1], [2]) for number, size in enumerate((3, 100, 3, 3))]
    assert sorted(len(part) for part in packed_micro_batches(groups, 20)) == [1, 3]


def test_a_prompt_over_the_budget_is_cut_and_stands_in_each_part() -> None:
    groups = [group([1] * 10, [2 * number] * 6, [2 * number + 1] * 6) for number in range(6)]
    parts = packed_micro_batches(groups, 30)  # 10 for the prompt, 10 for each pair
    assert [len(part) for part in parts] == [2, 2, 2]


def test_a_long_prompt_is_not_computed_again_for_a_few_tokens_over_the_budget() -> None:
    groups = [group([1] * 100, [2 * number] * 6, [2 * number + 1] * 6) for number in range(6)]
    assert [len(part) for part in packed_micro_batches(groups, 110)] == [6]  # 100 + 6 * 10, and 200 are allowed


def test_ranks_without_work_get_an_empty_micro_batch() -> None:
    assert [len(part) for part in packed_micro_batches([group([1], [2], [3])], 100, ranks=3)] == [1, 0, 0]


def test_each_distinct_answer_counts_once() -> None:
    one, two = group([1, 1, 1], [5, 5], [6, 6, 6]), group([1, 1, 1], [5, 5], [7])
    assert shared_tokens([one]) == 3 + 1 + 2
    assert shared_tokens([one, two]) == shared_tokens([two, one, one]) == 3 + 1 + 2 + 0
    assert shared_tokens([one, group([2], [5, 5], [6, 6, 6])]) == 6 + 1 + 1 + 2  # under another prompt it is another


@given(groups=steps())
def test_what_is_counted_is_what_a_batch_holds(groups: list[Group]) -> None:
    batch = collate(groups)
    held = sum(map(len, batch.prompts)) + sum(len(answer) - 1 for answer in batch.answers)
    assert shared_tokens(groups) == held


@pytest.mark.parametrize("budget", [1, 60, 100, 10_000])
def test_packing_needs_no_more_micro_batches_than_groups(budget: int) -> None:
    groups = [group([number % 5] * 12, [number] * 9, [100 + number] * 4) for number in range(20)]
    assert len(packed_micro_batches(groups, budget)) <= len(groups)


# --- where filling the emptiest first does not fit, and best fit does ---


def of_sizes(sizes: list[int]) -> list[Group]:
    return [group([number] * size, [100], [101]) for number, size in enumerate(sizes)]


def test_best_fit_saves_a_micro_batch_that_balancing_would_need() -> None:
    parts = packed_micro_batches(of_sizes([18, 20, 26, 21, 18]), 56)
    assert len(parts) == 2 and max(map(shared_tokens, parts)) <= 56


def test_the_fullest_comes_first_there_too() -> None:
    assert [shared_tokens(part) for part in packed_micro_batches(of_sizes([18, 20, 26, 21, 18]), 56)] == [56, 47]


def test_their_number_is_a_multiple_of_the_ranks_there_too() -> None:
    sizes = [12, 12, 15, 15, 14, 10, 13, 15, 19, 18, 14, 11, 14, 17, 15, 17, 12, 19, 16, 19, 17, 17]
    parts = packed_micro_batches(of_sizes(sizes), 40, ranks=5)
    assert len(parts) % 5 == 0 and max(map(shared_tokens, parts)) <= 40
