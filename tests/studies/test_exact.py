"""What the studies of small policies share is held against sums written out."""

from __future__ import annotations

from math import log

import pytest
import torch

from studies import exact
from studies.judging import Case


def test_all_ordered_pairs_of_different_answers() -> None:
    assert sorted(map(tuple, exact.ordered(3).T.tolist())) == [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]


def test_losses_at_the_reference_and_at_their_targets() -> None:
    strengths, pairs = exact.strengths([0.1, 2.0]), exact.ordered(3)
    flat = torch.zeros(2, 3, dtype=torch.double)
    assert torch.allclose(exact.dpo(flat, pairs, strengths), torch.full((2, 6), log(2), dtype=torch.double))
    assert torch.allclose(exact.ipo(flat, pairs, strengths)[:, 0], (0.5 / strengths) ** 2)
    gap = torch.stack([0.5 / strengths, torch.zeros(2, dtype=torch.double)], -1)
    assert torch.allclose(exact.ipo(gap, torch.tensor([[0], [1]]), strengths), torch.zeros(2, 1, dtype=torch.double))


def test_a_divergence_is_the_sum_over_answers() -> None:
    half, other = exact.strengths([0.5, 0.5]).log(), exact.strengths([0.9, 0.1]).log()
    assert float(exact.kl(half, other)) == pytest.approx(0.5 * log(0.5 / 0.9) + 0.5 * log(0.5 / 0.1))


def test_numbers_are_found_under_the_names_that_cases_look_up() -> None:
    found = exact.by("kl", (0.1, 10.0), exact.strengths([3.0, 4.0]))
    cases = exact.at("beta", (0.1, 10.0))
    assert cases == {"beta 0.1": Case({}, "@0.1"), "beta 10": Case({}, "@10")}
    assert [found["kl" + case.suffix] for case in cases.values()] == [3.0, 4.0]
    assert exact.within(cases["beta 10"], {"of": 1}) == Case({"of": 1}, "@10")


def test_no_distance_and_no_certainty_are_exact() -> None:
    """A value that is 0 or 1 in every seed would be taken for a share of seeds."""
    same = exact.strengths([1.0])
    assert float(exact.error(same, same)) == 1e-16 and float(exact.chance(same)) < 1


def test_a_seed_decides_a_network() -> None:
    one, two, other = (exact.network(seed, 3, 4, 2) for seed in (0, 0, 1))
    inputs = torch.eye(3, dtype=torch.double)
    assert torch.equal(one(inputs), two(inputs)) and not torch.equal(one(inputs), other(inputs))
