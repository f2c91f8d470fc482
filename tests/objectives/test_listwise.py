"""InfoNCA and NCA over all scored answers of a row."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from likelier import DPO
from likelier.objectives import NCA, InfoNCA, NCAScores, Scored
from likelier.objectives.listwise import Listwise, infonca_loss, nca_scores_loss, wanted_shares
from likelier.objectives.scored import join
from tests.helpers.loss_oracle import softplus

KINDS = [InfoNCA, NCAScores]
LISTS = torch.tensor([[2, 0, 4, 1], [5, 3, -1, -1]])
SCORES = torch.tensor([[9.0, 7.5, 7.5, 2.0], [4.0, 1.0, 0.0, 0.0]], dtype=torch.double)


def of(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.double)


def by_name(kind: type[Listwise]) -> str:
    return kind.method


def scored(logps: Tensor, lists: Tensor = LISTS, scores: Tensor = SCORES) -> Scored:
    """Six answers: four under one prompt, two under another."""
    refs = torch.tensor([-21.0, -19, -24, -20, -22, -18], dtype=torch.double)
    last = (lists >= 0).sum(1) - 1
    pairs = torch.stack([lists[:, 0], lists.gather(1, last[:, None])[:, 0]], 1)
    lengths = torch.tensor([5, 3, 8, 4, 6, 7])
    return Scored.of(logps=logps, lengths=lengths, ref_logps=refs, pairs=pairs, lists=lists, scores=scores)


def some_logps(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(6, generator=generator, dtype=torch.double) * 3 - 20).requires_grad_()


def test_golden_numbers_of_two_answers_of_which_one_is_all_that_is_wanted() -> None:
    """Those of the losses for pairs: Dw = 2, Dl = -1, beta 0.1."""
    ratios, there = of(2.0, -1.0), torch.tensor([[True, True]])
    shares = wanted_shares(of(1.0, 0.0), there, temperature=1e-4)
    assert float(infonca_loss(ratios, shares, there, beta=0.1)) == pytest.approx(0.554355, abs=5e-7)
    assert float(nca_scores_loss(ratios, shares, there, beta=0.1)) == pytest.approx(1.319407, abs=5e-7)


def test_golden_numbers_of_three_answers() -> None:
    """By hand: scores ln 2, 0, 0 want 1/2, 1/4, 1/4. Rewards .2, -.1, 0 have the log-sum-exp 1.139831 and
    -log sigma(.2, -.1, 0) = .598139, .744397, .693147, of the other sign .798139, .644397, .693147.
    """
    ratios, there = of(2.0, -1.0, 0.0), torch.ones(1, 3, dtype=torch.bool)
    shares = wanted_shares(of(math.log(2), 0.0, 0.0), there, temperature=1.0)
    assert shares.tolist()[0] == pytest.approx([0.5, 0.25, 0.25])
    assert float(infonca_loss(ratios, shares, there, beta=0.1)) == pytest.approx(1.064831, abs=5e-7)
    found = float(nca_scores_loss(ratios, shares, there, beta=0.1))
    by_hand = 0.5 * 0.598139 + 0.25 * (0.744397 + 0.693147) + (0.798139 + 0.644397 + 0.693147) / 3
    assert found == pytest.approx(by_hand, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS, ids=by_name)
def test_the_formula_once_more_answer_by_answer(kind: type[Listwise]) -> None:
    logps = some_logps()
    rows = scored(logps)
    found = kind(beta=0.3, score_temperature=2.0).losses(rows).detach().numpy()
    for number, count in enumerate((4, 2)):
        answers = LISTS[number, :count].numpy()
        wanted = np.exp(SCORES[number, :count].numpy() / 2)
        wanted /= wanted.sum()
        rewards = 0.3 * rows.logratios.detach().numpy()[answers]
        if kind is InfoNCA:
            expected = -(wanted * (rewards - np.log(np.exp(rewards).sum()))).sum()
        else:
            expected = (wanted * softplus(-rewards)).sum() + softplus(rewards).mean()
        assert found[number] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", KINDS, ids=by_name)
def test_gradients_in_fp64_and_none_for_what_is_not_there(kind: type[Listwise]) -> None:
    objective = kind(beta=0.3, score_temperature=2.0)
    assert torch.autograd.gradcheck(lambda logps: objective.losses(scored(logps)), (some_logps(1),))
    logps = some_logps(2)
    (slopes,) = torch.autograd.grad(objective.losses(scored(logps))[1], logps)
    assert slopes.nonzero().flatten().tolist() == [3, 5]


@pytest.mark.parametrize(("kind", "pair"), [(InfoNCA, DPO), (NCAScores, NCA)], ids=["infonca", "nca_scores"])
def test_with_two_answers_and_no_temperature_they_are_the_losses_for_pairs(kind: type[Listwise], pair: type) -> None:
    logps = some_logps(3)
    rows = scored(logps, LISTS[1:, :2], SCORES[1:, :2])
    found = kind(beta=0.3, score_temperature=1e-4).losses(rows)
    expected = pair(beta=0.3).losses(rows)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(one.sum(), logps)[0] for one in (found, expected)))


def test_value_and_gradient_at_the_reference() -> None:
    rows = scored(some_logps(4)).at_reference()
    assert InfoNCA().losses(rows).tolist() == pytest.approx([math.log(4), math.log(2)])
    assert NCAScores().losses(rows).tolist() == pytest.approx([2 * math.log(2)] * 2)
    there = torch.ones(1, 3, dtype=torch.bool)
    shares = wanted_shares(of(3.0, 2.0, 0.0), there, temperature=1.0)
    ratios = torch.zeros(1, 3, dtype=torch.double, requires_grad=True)
    (slopes,) = torch.autograd.grad(infonca_loss(ratios, shares, there, beta=0.1).sum(), ratios)
    torch.testing.assert_close(slopes, 0.1 * (1 / 3 - shares))  # toward the wanted shares, and in sum nowhere
    (slopes,) = torch.autograd.grad(nca_scores_loss(ratios, shares, there, beta=0.1).sum(), ratios)
    torch.testing.assert_close(slopes, 0.05 * (1 / 3 - shares))


def test_where_each_loss_is_least() -> None:
    """InfoNCA where rewards differ as the logs of the shares do; NCA at log(K q) for each answer."""
    there = torch.ones(1, 3, dtype=torch.bool)
    shares = wanted_shares(of(3.0, 2.0, 0.0), there, temperature=1.0)
    for loss, best in ((infonca_loss, shares.log() + 5), (nca_scores_loss, (3 * shares).log())):
        ratios = (best / 0.1).requires_grad_()
        (slopes,) = torch.autograd.grad(loss(ratios, shares, there, beta=0.1).sum(), ratios)
        torch.testing.assert_close(slopes, torch.zeros_like(slopes))


@pytest.mark.parametrize("kind", KINDS, ids=by_name)
def test_rows_of_several_sizes_may_be_joined_and_an_answer_may_stand_anywhere(kind: type[Listwise]) -> None:
    objective, logps = kind(beta=0.3), some_logps(5)
    expected = objective.losses(scored(logps))
    parts = [scored(logps, LISTS[:1], SCORES[:1]), scored(logps, LISTS[1:, :2], SCORES[1:, :2])]
    both = join(parts)
    assert both.items.lists is not None
    assert both.items.lists.tolist() == [[2, 0, 4, 1], [11, 9, -1, -1]]
    torch.testing.assert_close(objective.losses(both), expected)
    order = torch.tensor([3, 1, 0, 2])
    turned = scored(logps, LISTS[:1, order], SCORES[:1, order])
    torch.testing.assert_close(objective.losses(turned), expected[:1])


def test_a_number_added_to_all_scores_changes_nothing_and_rows_without_scores_are_refused() -> None:
    logps = some_logps(6)
    moved = scored(logps, scores=SCORES + 3.0)
    for kind in KINDS:
        torch.testing.assert_close(kind().losses(moved), kind().losses(scored(logps)))
        with pytest.raises(ValueError, match=f"{kind.method} needs rows of scored answers"):
            kind().losses(scored(logps).with_items(lists=None))


def test_what_a_temperature_means_in_words() -> None:
    words = InfoNCA(beta=0.1, score_temperature=2.0).explain(20)
    assert "of two answers 4.39 apart in score the better is wanted 9 times in 10" in words
    with pytest.raises(ValueError, match=r"score_temperature=0 is out of range; it must be above 0"):
        NCAScores(score_temperature=0)
