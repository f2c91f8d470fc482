"""Every loss and objective against its formula written a second time, in NumPy; soft labels as mixtures of labels."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch

from likelier import DPO, IPO, KTO, METHODS, SFT, RewardModel, SigmoidNorm, SimPO
from likelier.objectives import LDDPO, SPPO, WPO, Objective, Scored, losses
from tests.helpers.loss_oracle import PAIRED, Ndarray, World, sigmoid, smoothed, softplus

EXACT = {"rtol": 0, "atol": 1e-14}
SOFT: dict[str, Callable[..., Objective]] = {
    "dpo": lambda **more: DPO(beta=0.3, **more),
    "ipo": lambda **more: IPO(tau=0.4, **more),
    "simpo": lambda **more: SimPO(beta=2.5, gamma_beta_ratio=0.0, **more),
    "sigmoid_norm": lambda **more: SigmoidNorm(beta=3.0, **more),
    "reward": lambda **more: RewardModel(**more),
    "sppo": lambda **more: SPPO(beta=0.3, **more),
    "wpo": lambda **more: WPO(beta=0.3, **more),
    "ld_dpo": lambda **more: LDDPO(beta=0.3, **more),
}
TARGETS = {"ipo": 1 / (2 * 0.4), "sppo": 0.5 / 0.3}  # of the losses that are squares; they have no label_smoothing


def named(objective: object) -> str:
    return repr(objective)


@pytest.mark.parametrize(("objective", "formula"), PAIRED, ids=[named(one) for one, _ in PAIRED])
def test_a_paired_loss_is_its_formula(objective: Objective, formula: Callable[[World], Ndarray]) -> None:
    for seed in range(3):
        world = World(seed)
        found = objective.losses(world.of_pairs())
        assert found.dtype == torch.float64
        np.testing.assert_allclose(found.numpy(), formula(world), rtol=1e-13, atol=1e-13)


def test_every_paired_method_has_its_formula_here() -> None:
    assert {one.method for one, _ in PAIRED} == {name for name, one in METHODS.items() if one.data == "pairs"}


def test_margins_are_each_pairs_own() -> None:
    world = World()
    scored = world.of_pairs(margins=world.margins)
    expected = {
        DPO(beta=0.3): softplus(-(0.3 * world.gap - world.margins)),
        WPO(beta=0.3): world.own_share * softplus(-(0.3 * world.gap - world.margins)),
        LDDPO(beta=0.3): softplus(-(0.3 * world.desensitized(0.5) - world.margins)),
        IPO(tau=0.4): (world.mean_gap - 1.25 * world.margins) ** 2,
        SimPO(beta=2.5, gamma_beta_ratio=0.3): softplus(-2.5 * (world.mean_logp_gap - 0.3 * world.margins)),
        RewardModel(): softplus(-(world.logp_gap - world.margins)),
    }
    assert {one.method for one in expected} == {name for name, one in METHODS.items() if one.takes_margins}
    for objective, values in expected.items():
        np.testing.assert_allclose(objective.losses(scored).numpy(), values, rtol=1e-13)


# --- soft labels -----------------------------------------------------------------------------------------------------


def test_every_method_that_takes_soft_labels_is_tried_here() -> None:
    assert set(SOFT) == {name for name, one in METHODS.items() if one.takes_soft_labels}
    smoothing = {name for name, one in METHODS.items() if "label_smoothing" in {part.name for part in fields(one)}}
    one_for_all = {"exo", "aot", "aot_unpaired"}  # no mixture of two labels' losses, or not of a pair's
    assert smoothing == (set(SOFT) | one_for_all) - TARGETS.keys()


def swapped(scored: Scored) -> Scored:
    assert scored.items.pairs is not None and scored.items.ref_head_logps is not None
    return scored.with_items(pairs=scored.items.pairs.flip(1), ref_head_logps=scored.items.ref_head_logps.flip(1))


@pytest.mark.parametrize("method", SOFT)
def test_a_soft_label_is_the_mixture_of_both_labels(method: str) -> None:
    """loss(e) = (1 - e) loss(0) + e loss(swapped); a square loses a constant, 4 e (1 - e) of its target's square, since
    the soft target is (1 - 2 e) times the hard one.
    """
    objective = SOFT[method]()
    for seed in range(3):
        world = World(seed)
        plain = world.of_pairs()
        chance = torch.tensor(world.chances)
        mixed = (1 - chance) * objective.losses(plain) + chance * objective.losses(swapped(plain))
        constant = 4 * chance * (1 - chance) * TARGETS.get(method, 0.0) ** 2
        found = objective.losses(world.of_pairs(flip_chances=world.chances))
        torch.testing.assert_close(found, mixed - constant, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", sorted(set(SOFT) - TARGETS.keys()))
def test_smoothing_is_the_same_soft_label_for_every_pair(method: str) -> None:
    world = World()
    for chance in (0.0, 0.15, 0.4):
        one_for_all = SOFT[method](label_smoothing=chance).losses(world.of_pairs())
        each = SOFT[method]().losses(world.of_pairs(flip_chances=np.full(len(world.pairs), chance)))
        torch.testing.assert_close(one_for_all, each, **EXACT)


@pytest.mark.parametrize("method", SOFT)
def test_a_pairs_own_soft_label_stands_above_the_smoothing_of_all(method: str) -> None:
    world = World()
    scored = world.of_pairs(flip_chances=world.chances)
    plain = SOFT[method]().losses(scored)
    more: dict[str, Any] = {} if method in TARGETS else {"label_smoothing": 0.3}
    torch.testing.assert_close(SOFT[method](**more).losses(scored), plain, **EXACT)


def test_a_soft_label_with_a_margin_mixes_the_logit_and_its_opposite() -> None:
    world = World()
    scored = world.of_pairs(margins=world.margins, flip_chances=world.chances)
    for objective in (DPO(beta=0.3), LDDPO(beta=0.3), SimPO(beta=2.5, gamma_beta_ratio=0.3), RewardModel()):
        logits = objective.logits(scored)
        assert logits is not None
        expected = smoothed(logits.numpy(), world.chances)
        np.testing.assert_allclose(objective.losses(scored).numpy(), expected, rtol=1e-13)


def test_a_tie_is_the_same_from_both_sides() -> None:
    world = World()
    scored = world.of_pairs(flip_chances=np.full(len(world.pairs), 0.5))
    for make in SOFT.values():
        torch.testing.assert_close(make().losses(scored), make().losses(swapped(scored)), **EXACT)


# --- labels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.1, 1.0), (1.3, 0.7), (1 / 3, 2 / 3), (0.0, 0.1)])
@pytest.mark.parametrize("kl", [0.0, 0.37])
def test_kto_in_float64_is_its_closed_form(weights: tuple[float, float], kl: float) -> None:
    """Weights that no float32 holds are not rounded to one."""
    rng = np.random.default_rng(3)
    ratios, desirable = rng.normal(0, 5, 40), rng.random(40) < 0.5
    found = losses.kto_loss(
        torch.tensor(ratios),
        torch.tensor(desirable),
        kl,
        beta=0.1,
        desirable_weight=weights[0],
        undesirable_weight=weights[1],
    )
    up, down = weights[0] * sigmoid(-0.1 * (ratios - kl)), weights[1] * sigmoid(-0.1 * (kl - ratios))
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), np.where(desirable, up, down), rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_kto_keeps_the_precision_of_its_input(dtype: torch.dtype) -> None:
    ratios, desirable = torch.tensor([1.0, -2.0], dtype=dtype), torch.tensor([True, False])
    zero = torch.zeros((), dtype=dtype)
    assert losses.kto_loss(ratios, desirable, zero, beta=0.1, desirable_weight=1.3).dtype == dtype
    assert losses.kto_logits(ratios, desirable, zero, beta=0.1).dtype == dtype


def test_kto_against_its_formula_with_a_baseline_of_the_whole_step() -> None:
    for seed in range(6):
        world = World(seed)
        scored, objective = world.of_rows(), KTO(beta=0.3, desirable_weight=1.3, undesirable_weight=0.9)
        statistics = objective.step_statistics(scored)
        ratios = world.logps - world.refs
        others = ratios[world.partners]
        baseline = max(0.0, others.mean())
        own = ratios[world.rows]
        up, down = 1.3 * sigmoid(-0.3 * (own - baseline)), 0.9 * sigmoid(0.3 * (own - baseline))
        np.testing.assert_allclose(
            objective.losses(scored, statistics).numpy(), np.where(world.desirable, up, down), rtol=1e-13
        )
        metrics = objective.statistics_metrics(statistics)
        assert metrics["kl"] == pytest.approx(baseline, abs=1e-12)
        assert metrics["kl_standard_error"] == pytest.approx(others.std(ddof=1) / math.sqrt(len(others)), rel=1e-9)
        held = objective.reward_baseline(statistics)
        assert held is not None and float(held) == pytest.approx(0.3 * baseline, abs=1e-12)
        assert objective.reward_baseline(None) is None


def test_the_statistics_of_parts_add_up_to_those_of_the_step() -> None:
    world, objective = World(count=8), KTO()
    whole = objective.step_statistics(world.of_rows())
    cut = [
        world.scored(rows=world.rows[part], desirable=world.desirable[part], partners=world.partners[part])
        for part in (slice(0, 3), slice(3, 8))
    ]
    torch.testing.assert_close(sum(objective.step_statistics(part) for part in cut), whole, rtol=1e-12, atol=0)


def test_nothing_flows_back_through_ktos_baseline() -> None:
    world = World(2)
    logps = torch.tensor(
        world.logps + 3, requires_grad=True
    )  # a baseline above 0, where the clamp would let it through
    scored = world.of_rows().with_sums(logps)
    objective = KTO()
    statistics = objective.step_statistics(scored)
    assert float(objective.baseline(statistics)) > 0
    objective.losses(scored, statistics).sum().backward()
    assert logps.grad is not None
    only_partners = sorted(set(world.partners.tolist()) - set(world.rows.tolist()))
    assert only_partners and not logps.grad[only_partners].any()
    assert bool(logps.grad[world.rows].all())


def test_sft_is_the_mean_of_each_answer() -> None:
    world = World()
    found = SFT().losses(world.scored(rows=world.rows))
    np.testing.assert_allclose(found.numpy(), (-world.logps / world.lengths)[world.rows], rtol=1e-14)
