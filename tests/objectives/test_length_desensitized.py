"""LD-DPO: between DPO and the shared tokens alone, and what it takes from where."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from likelier import DPO
from likelier.objectives import LDDPO, Scored
from likelier.objectives.ratio_losses import ld_logratios
from tests.helpers.loss_oracle import World


def scored_by(world: World, tokens: Tensor) -> Scored:
    """The world's pairs, their sums made of these tokens."""
    lengths = torch.tensor(world.lengths)
    sums = torch.stack([one.sum() for one in tokens.split(lengths.tolist())])
    return Scored.of(
        sums,
        lengths,
        torch.tensor(world.refs),
        token_logps=tokens,
        pairs=torch.tensor(world.pairs),
        ref_head_logps=torch.tensor(world.heads(world.ref_tokens)),
    )


def tokens_of(world: World) -> Tensor:
    return torch.tensor(np.concatenate(world.tokens), requires_grad=True)


def test_a_golden_number() -> None:
    """By hand: the chosen answer gains 2 nats, 1.5 of them in its head; the shorter one loses 1. With alpha 0.5 that is
    1.75 + 1, and ln(1 + e^-0.275).
    """
    wholes, heads = (torch.tensor([values], dtype=torch.double) for values in ([2.0, -1.0], [1.5, -1.0]))
    assert ld_logratios(wholes, heads, ld_alpha=0.5).tolist() == [[1.75, -1.0]]
    scored = Scored.of(
        torch.tensor([-20.0, -24.0], dtype=torch.double),
        torch.tensor([3, 2]),
        torch.tensor([-22.0, -23.0], dtype=torch.double),
        token_logps=torch.tensor([-10.0, -7.5, -2.5, -12.0, -12.0], dtype=torch.double),
        pairs=torch.tensor([[0, 1]]),
        ref_head_logps=torch.tensor([[-19.0, -23.0]], dtype=torch.double),
    )
    assert float(LDDPO(beta=0.1).losses(scored)) == pytest.approx(0.565071, abs=5e-7)
    assert float(LDDPO(beta=0.1).losses(scored)) == pytest.approx(math.log1p(math.exp(-0.275)), abs=1e-12)


@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_gradients_in_fp64(alpha: float) -> None:
    world, objective = World(1, count=3), LDDPO(beta=0.3, ld_alpha=alpha, label_smoothing=0.1, nll_weight=0.2)
    assert torch.autograd.gradcheck(lambda tokens: objective.losses(scored_by(world, tokens)), (tokens_of(world),))


def test_a_tail_token_moves_the_loss_alpha_times_as_much_as_one_of_the_head() -> None:
    world = World(2, count=1)
    tokens = tokens_of(world)
    LDDPO(beta=0.3, ld_alpha=0.3).losses(scored_by(world, tokens)).sum().backward()
    assert tokens.grad is not None
    shared = int(world.lengths[world.pairs].min())
    for answer, slopes in enumerate(tokens.grad.split(world.lengths.tolist())):
        tail = slopes[shared:]
        assert (tail / slopes[0]).tolist() == pytest.approx([0.3] * len(tail)) or answer not in world.pairs
        assert bool(slopes.any()) == (answer in world.pairs)


def test_with_alpha_1_or_answers_of_one_length_it_is_dpo() -> None:
    world = World(3)
    tokens = tokens_of(world)
    scored = scored_by(world, tokens)
    torch.testing.assert_close(LDDPO(beta=0.3, ld_alpha=1.0).losses(scored), DPO(beta=0.3).losses(scored))
    alike = Scored.of(
        scored.logps[:4],
        torch.full((4,), 2),
        torch.tensor(world.refs[:4]),
        token_logps=(scored.logps[:4] / 2).repeat_interleave(2),
        pairs=torch.tensor([[0, 1], [2, 1]]),
        ref_head_logps=torch.tensor(world.refs[[[0, 1], [2, 1]]]),
    )
    torch.testing.assert_close(LDDPO(beta=0.3, ld_alpha=0.2).losses(alike), DPO(beta=0.3).losses(alike))


def test_at_the_reference_it_is_ln_2_whatever_the_lengths() -> None:
    scored = World(4).of_pairs().at_reference()
    for alpha in (0.0, 0.5):
        assert LDDPO(ld_alpha=alpha).losses(scored).tolist() == pytest.approx([math.log(2)] * 7, abs=1e-12)


def test_neither_padding_nor_order_changes_a_loss() -> None:
    world, objective = World(5), LDDPO(beta=0.3)
    scored = world.of_pairs()
    order = torch.randperm(7, generator=torch.Generator().manual_seed(0))
    assert scored.items.pairs is not None and scored.items.ref_head_logps is not None
    mixed = scored.with_items(pairs=scored.items.pairs[order], ref_head_logps=scored.items.ref_head_logps[order])
    torch.testing.assert_close(objective.losses(mixed), objective.losses(scored)[order], rtol=0, atol=1e-13)


def test_what_is_missing_is_named() -> None:
    world = World()
    with pytest.raises(ValueError, match="needs the reference's sums over the answers' heads and got none"):
        LDDPO().losses(world.scored(pairs=world.pairs))
    with pytest.raises(ValueError, match="needs pairs and got labelled rows"):
        _ = world.of_rows().heads


def test_it_says_what_a_nat_of_the_tail_counts() -> None:
    words = LDDPO(beta=0.2, ld_alpha=0.3).explain(40.0)
    assert "a reward margin of 1 is 5 nats" in words
    assert words.endswith("in the loss a nat of the tokens that only the longer answer has counts 0.3")
