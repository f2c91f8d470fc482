"""AOT: a step is sorted whole, in however many parts it is computed."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from likelier import DPO
from likelier.objectives import AOT, AOTUnpaired, Scored
from likelier.objectives.ratio_losses import aot_loss, aot_unpaired_loss, same_rank
from likelier.objectives.scored import Place
from likelier.scoring.engine import micro_batches
from tests.helpers.loss_oracle import World
from tests.training.test_step_and_mistakes import assert_same_gradients, gradients, rows_for, uncut, walk, walker_of

KINDS = [AOT(beta=0.3, label_smoothing=0.1), AOTUnpaired(beta=0.3, nll_weight=0.2)]


def by_name(objective: AOT) -> str:
    return objective.method


def of(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.double)


def test_golden_numbers_of_a_step_of_three() -> None:
    """By hand: margins 1, 2, 4 against -1, 0, 3 differ by 2, 2, 1, and ln(1 + e^-0.2) = .598139, of -0.1 .644397."""
    margins, ref_margins = of(1, 4, 2), of(0, 3, -1)
    assert same_rank(margins, ref_margins).tolist() == [-1, 3, 0]
    found = aot_loss(margins, same_rank(margins, ref_margins), beta=0.1)
    assert found.tolist() == pytest.approx([0.598139, 0.644397, 0.598139], abs=5e-7)
    chosen, rejected = margins, ref_margins  # the couples are the same, and each belongs half to either answer's pair
    others = same_rank(chosen, rejected), same_rank(rejected, chosen)
    each = aot_unpaired_loss(chosen, rejected, *others, beta=0.1)
    assert each.tolist() == pytest.approx([0.598139, 0.644397, 0.598139], abs=5e-7)
    assert float(each.sum()) == pytest.approx(float(found.sum()), abs=1e-12)


@pytest.mark.parametrize("objective", KINDS, ids=by_name)
def test_gradients_of_a_step_in_fp64(objective: AOT) -> None:
    world = World(1)
    logps = torch.tensor(world.logps, requires_grad=True)
    assert torch.autograd.gradcheck(lambda sums: objective.losses(world.of_pairs().with_sums(sums)).sum(), (logps,))


@pytest.mark.parametrize("kind", [AOT, AOTUnpaired], ids=by_name)
def test_one_pair_is_dpo_and_so_is_the_reference(kind: type[AOT]) -> None:
    world = World(2, count=1)
    for smoothing in (0.0, 0.2):
        logps = torch.tensor(world.logps, requires_grad=True)
        scored = world.of_pairs().with_sums(logps)
        found = [one(beta=0.3, label_smoothing=smoothing).losses(scored).sum() for one in (kind, DPO)]
        torch.testing.assert_close(found[0], found[1])
        torch.testing.assert_close(*(torch.autograd.grad(one, logps)[0] for one in found))
    at_zero = World(3).of_pairs().at_reference()
    assert kind().losses(at_zero).tolist() == pytest.approx([math.log(2)] * 7, abs=1e-15)


def parts_of(whole: Scored, *borders: int) -> list[Scored]:
    """The step in so many micro-batches."""
    pairs = whole.items.pairs
    assert pairs is not None
    spans = pairwise((0, *borders, len(pairs)))
    return [replace(whole.with_items(pairs=pairs[first:last]), place=Place(first, len(pairs))) for first, last in spans]


@pytest.mark.parametrize("objective", KINDS, ids=by_name)
def test_however_a_step_is_cut_each_pair_keeps_its_loss_and_gradient(objective: AOT) -> None:
    world = World(4)
    logps = torch.tensor(world.logps, requires_grad=True)
    whole = world.of_pairs().with_sums(logps)
    expected = objective.losses(whole)
    (slopes,) = torch.autograd.grad(expected.sum(), logps, retain_graph=True)
    for borders in ((3,), (1, 2, 6)):
        parts = parts_of(whole, *borders)
        statistics = torch.stack([objective.step_statistics(part) for part in parts]).sum(0)
        torch.testing.assert_close(statistics, objective.step_statistics(whole), rtol=0, atol=0)
        found = torch.cat([objective.losses(part, statistics) for part in parts])
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
        torch.testing.assert_close(torch.autograd.grad(found.sum(), logps, retain_graph=True)[0], slopes)
        with pytest.raises(ValueError, match=f"^{objective.method} needs the statistics of the whole step"):
            objective.losses(parts[0])
    alone = torch.cat([objective.losses(replace(part, place=None)) for part in parts_of(whole, 3)])
    assert not torch.allclose(alone, expected)  # what sorting each micro-batch would give


@pytest.mark.parametrize("objective", KINDS, ids=by_name)
def test_order_does_not_matter_nor_do_ties(objective: AOT) -> None:
    world = World(5)
    expected = objective.losses(world.of_pairs())
    order = np.random.default_rng(0).permutation(len(world.pairs))
    turned = objective.losses(world.scored(pairs=world.pairs[order]))
    torch.testing.assert_close(turned, expected[order], rtol=0, atol=0)
    twice = world.scored(pairs=np.concatenate([world.pairs, world.pairs]))  # every value is there twice
    torch.testing.assert_close(objective.losses(twice).sum(), 2 * expected.sum())


def test_which_answers_are_pairs_does_not_matter_without_pairs() -> None:
    world, objective = World(6), AOTUnpaired(beta=0.3)
    chosen, rejected = world.pairs.T
    otherwise = np.stack([chosen, np.roll(rejected, 1)], 1)
    found = [objective.losses(world.scored(pairs=pairs)).sum() for pairs in (world.pairs, otherwise)]
    torch.testing.assert_close(*found)


@pytest.mark.slow
@pytest.mark.parametrize("objective", KINDS, ids=by_name)
def test_a_walk_in_micro_batches_has_the_gradients_of_the_uncut_step(objective: AOT) -> None:
    groups = rows_for(objective)
    walker = walker_of(objective, budget=200)
    assert len(micro_batches(walker.model, groups, 200)) == 3
    done = walk(walker, groups)
    assert_same_gradients(gradients(walker.model), uncut(objective, groups))
    whole = walk(walker_of(objective), groups)
    assert done.statistics is not None and whole.statistics is not None
    assert sorted(map(tuple, done.statistics.tolist())) == [
        pytest.approx(row, rel=1e-12) for row in sorted(map(tuple, whole.statistics.tolist()))
    ]
    assert float(done.losses.sum()) == pytest.approx(float(whole.losses.sum()), rel=1e-10)


def test_a_step_of_few_pairs_is_warned_of() -> None:
    assert AOT().warnings(8, 0, 0) == []
    assert AOTUnpaired().warnings(7, 0, 0)[0].startswith("aot_unpaired with 7 pairs a step")
    assert "in order of size over the pairs of an optimizer step" in AOT().explain(20.0)
