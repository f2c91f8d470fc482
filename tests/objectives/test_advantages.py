"""From rewards to advantages: golden numbers, exact zeros, and verdicts that are missing."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from likelier.objectives.advantages import (
    AdvantageKind,
    Advantages,
    combine_rewards,
    equal_groups,
    group_advantages,
    overlong_penalty,
)

NAN = float("nan")
KINDS: list[AdvantageKind] = ["mean", "std", "leave-one-out", "step"]
GOLDEN: dict[AdvantageKind, tuple[float, float]] = {  # of a reward of 1 and of 0
    "mean": (0.625, -0.375),
    "std": (1.207381, -0.724429),
    "leave-one-out": (0.714286, -0.428571),
    "step": (0.625, -0.375),
}


def numbers(*values: float, dtype: torch.dtype = torch.double) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype)


def of(kind: AdvantageKind, *rewards: float, dtype: torch.dtype = torch.double) -> Advantages:
    """Of one group."""
    return group_advantages(numbers(*rewards, dtype=dtype), torch.zeros(len(rewards), dtype=torch.long), kind=kind)


@pytest.mark.parametrize("kind", KINDS)
def test_golden_numbers(kind: AdvantageKind) -> None:
    up, down = GOLDEN[kind]
    expected = [up, down, down, up, down, down, down, up]
    assert of(kind, 1, 0, 0, 1, 0, 0, 0, 1).values.tolist() == pytest.approx(expected, abs=5e-7)


def test_two_answers_and_the_floor_of_the_spread() -> None:
    assert of("std", 1, 0).values.tolist() == pytest.approx([0.707007, -0.707007], abs=5e-7)


def test_the_population_s_deviation_is_another_convention() -> None:
    """ddof 0 without a floor is sqrt(G / (G - 1)) times ddof 1."""
    ours, std = of("std", 1, 0, 0, 1, 0, 0, 0, 1).values, numbers(1, 0, 0, 1, 0, 0, 0, 1).std()
    other = ours * (std + 1e-4) / std * (8 / 7) ** 0.5
    assert other[:2].tolist() == pytest.approx([1.290994, -0.774597], abs=5e-7)


@given(
    value=st.floats(-1e3, 1e3, width=32),
    size=st.integers(2, 9),
    missing=st.integers(0, 3),
    kind=st.sampled_from(KINDS),
    dtype=st.sampled_from([torch.float32, torch.double]),
)
def test_equal_rewards_have_advantage_exactly_zero(
    value: float, size: int, missing: int, kind: AdvantageKind, dtype: torch.dtype
) -> None:
    """Three times 0.1 in float32 has a mean that is not 0.1; a residue over a spread of 1e-4 would be a gradient."""
    assert of(kind, *[value] * size, *[NAN] * missing, dtype=dtype).values.tolist() == [0.0] * (size + missing)


@given(
    rewards=st.lists(st.floats(-10, 10) | st.just(NAN), min_size=2, max_size=12),
    kind=st.sampled_from(KINDS),
)
def test_advantages_of_a_group_add_up_to_nothing_and_missing_verdicts_leave_it(
    rewards: list[float], kind: AdvantageKind
) -> None:
    found = of(kind, *rewards)
    said = [number for number, reward in enumerate(rewards) if reward == reward]
    assert found.values.sum().item() == pytest.approx(0, abs=1e-9 if kind != "std" else 1e-6)
    assert found.counts.nonzero().flatten().tolist() == said
    assert not found.values[~found.counts].any()
    if len(said) > 1:  # as if the others had never been
        alone = of(kind, *[rewards[number] for number in said])
        assert found.values[said].tolist() == pytest.approx(alone.values.tolist(), abs=1e-9)


def test_a_lone_verdict_is_compared_with_nothing() -> None:
    found = of("leave-one-out", NAN, 3.0)
    assert found.values.tolist() == [0.0, 0.0] and found.counts.tolist() == [False, True]


def test_groups_are_told_by_number_in_any_order() -> None:
    rewards, group_of = numbers(1, 10, 0, 20), torch.tensor([7, 3, 7, 3])
    assert group_advantages(rewards, group_of, kind="mean").values.tolist() == [0.5, -5, -0.5, 5]
    assert group_advantages(rewards, group_of, kind="step").values.tolist() == [-6.75, 2.25, -7.75, 12.25]


@pytest.mark.parametrize("kind", ["mean", "std", "leave-one-out"])
def test_a_group_of_one_is_refused_where_it_is_the_baseline(kind: AdvantageKind) -> None:
    with pytest.raises(ValueError, match="group 3 has one answer: an advantage over the group is then 0"):
        group_advantages(numbers(1, 2, 3), torch.tensor([0, 0, 3]), kind=kind)
    assert group_advantages(numbers(1, 2, 3), torch.tensor([0, 1, 2]), kind="step").values.tolist() == [-1, 0, 1]


def test_a_step_of_one_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="the step has one answer"):
        of("step", 1.0)


def test_wrong_input_is_named() -> None:
    with pytest.raises(ValueError, match="a reward is infinite"):
        of("mean", 1.0, float("inf"))
    with pytest.raises(ValueError, match="advantage='median' is none of mean, std, leave-one-out, step"):
        of("median", 1.0, 2.0)  # type: ignore[arg-type]


def test_groups_that_teach_nothing() -> None:
    rewards = numbers(1, 0, 0.1, 0.1, 0.1, NAN, NAN, 5, NAN)
    group_of = torch.tensor([0, 0, 4, 4, 4, 9, 9, 11, 11])
    assert equal_groups(rewards.float(), group_of).tolist() == [False, True, True, True]


# --- several rewards -------------------------------------------------------------------------------------------------

TWO = torch.tensor([0, 0, 0, 1, 1, 1])


def test_a_weighted_sum() -> None:
    parts = torch.stack([numbers(1, 0, 0, 1, 1, 0), numbers(10, 20, 30, 0, 0, 0)], 1)
    assert combine_rewards(parts, numbers(1, 0.1), TWO, how="sum").tolist() == [2, 2, 3, 1, 1, 0]


def test_normalised_parts_have_the_same_say_whatever_their_range() -> None:
    small, large = numbers(0, 0.5, 1, 0, 1, 0), numbers(0, 500, 1000, 1, 1, 1)
    found = combine_rewards(torch.stack([small, large], 1), numbers(1, 1), TWO, how="normalised")
    assert found[:3].tolist() == pytest.approx([-2, 0, 2], abs=1e-3)
    assert found[3:].tolist() == pytest.approx([-0.57735, 1.154701, -0.57735], abs=1e-3)  # the equal part adds nothing


@pytest.mark.parametrize("how", ["sum", "normalised"])
def test_a_missing_part_neither_lifts_nor_lowers_an_answer(how: str) -> None:
    """The first answer's second part is missing: in its place stands the mean of its group, not 0."""
    parts = torch.stack([numbers(0, 0, 0, 1, 0, 0), numbers(NAN, -4, -6, NAN, NAN, NAN)], 1)
    found = combine_rewards(parts, numbers(1, 1), TWO, how=how)  # type: ignore[arg-type]
    left = group_advantages(found, TWO, kind="mean").values
    assert left[0].item() == 0 and left[1].item() > 0 > left[2].item()
    assert left[3].item() > 0 and left[4].item() == left[5].item() < 0  # there the other part alone speaks


@pytest.mark.parametrize("how", ["sum", "normalised"])
def test_an_answer_without_any_verdict_has_none(how: str) -> None:
    parts = torch.stack([numbers(1, 0, NAN, 1, 0, NAN), numbers(1, 2, NAN, 1, 2, 3)], 1)
    assert combine_rewards(parts, numbers(1, 1), TWO, how=how).isnan().tolist() == [False] * 2 + [True] + [False] * 3  # type: ignore[arg-type]
    watched = combine_rewards(parts, numbers(1, 0), TWO, how=how)  # type: ignore[arg-type]  # only looked at
    assert watched.isnan().tolist() == [False, False, True] * 2


@given(value=st.floats(-3, 3, width=32), size=st.integers(2, 7), missing=st.integers(0, 6))
def test_equal_parts_stay_equal(value: float, size: int, missing: int) -> None:
    part = torch.full((size,), value, dtype=torch.float32)
    part[: min(missing, size - 1)] = NAN
    parts, group_of = torch.stack([part, part.new_ones(size)], 1), torch.zeros(size, dtype=torch.long)
    found = combine_rewards(parts, torch.tensor([0.3, 0.7]), group_of, how="sum")
    assert group_advantages(found, group_of, kind="std").values.tolist() == [0.0] * size


def test_weights_are_one_a_reward() -> None:
    with pytest.raises(ValueError, match=r"reward weights \[1.0\] for 2 rewards"):
        combine_rewards(torch.ones(6, 2), torch.ones(1), TWO, how="sum")
    with pytest.raises(ValueError, match="combine='mean' is none of sum, normalised"):
        combine_rewards(torch.ones(6, 2), torch.ones(2), TWO, how="mean")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="group 1 has one answer"):
        combine_rewards(torch.ones(3, 1), torch.ones(1), torch.tensor([0, 0, 1]), how="normalised")


def test_overlong_shaping() -> None:
    found = overlong_penalty(torch.tensor([1, 80, 90, 100, 101]), limit=100, cache=20)
    assert found.tolist() == [0, 0, -0.5, -1, -1]
    for cache in (0, 101):
        with pytest.raises(ValueError, match=f"overlong cache of {cache} tokens"):
            overlong_penalty(torch.tensor([1]), limit=100, cache=cache)
