"""What objectives log, weigh, propose and refuse; their formulas are in `loss_oracle`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from likelier import DPO, DPOP, IPO, KTO, SFT, APODown, APOZero, Hinge, RobustDPO, SigmoidNorm, SimPO
from likelier.objectives import (
    AOT,
    CPO,
    EXO,
    FDPO,
    LDDPO,
    NCA,
    ORPO,
    SPPO,
    WPO,
    AlphaPO,
    AOTUnpaired,
    CalDPO,
    DiscoPOP,
    SLiC,
)
from likelier.objectives.running_means import BCO, BCOPair, BetaDPO
from tests.helpers.loss_oracle import PAIRED, World


def test_rewards_are_as_the_decisions_say() -> None:
    world = World()
    scored, ratios = world.of_pairs(), world.logps - world.refs
    for objective, expected in [
        (DPO(beta=0.3), 0.3 * ratios),
        (RobustDPO(beta=0.3), 0.3 * ratios),
        (Hinge(beta=0.2), 0.2 * ratios),
        (SigmoidNorm(beta=3.0), 3.0 * ratios),
        (APOZero(beta=0.3), 0.3 * ratios),
        (APODown(beta=0.3), 0.3 * ratios),
        (DPOP(beta=0.3), 0.3 * ratios),
        (KTO(beta=0.3), 0.3 * ratios),
        (IPO(tau=0.4), 0.4 * ratios),
        (SimPO(beta=2.5), 2.5 * world.logps / world.lengths),
        *((kind(beta=0.3), 0.3 * ratios) for kind in (EXO, NCA, SPPO, DiscoPOP, FDPO, CalDPO, AOT, AOTUnpaired, WPO)),
        *((kind(beta=0.3), 0.3 * ratios) for kind in (BCOPair, BCO, BetaDPO, LDDPO)),
        (CPO(beta=0.3), 0.3 * world.logps),
        (ORPO(odds_weight=0.3), 0.3 * world.logps / world.lengths),
        (AlphaPO(beta=2.5, alpha=0.5), 2.5 * (1 - np.exp(-0.5 * world.logps / world.lengths)) / 0.5),
        (SLiC(), world.logps),
        (SFT(), world.logps / world.lengths),
    ]:
        np.testing.assert_allclose(objective.rewards(scored).numpy(), expected, rtol=1e-14)
        scale = objective.reward_scale()
        if scale is not None:
            np.testing.assert_allclose(scale * ratios, expected, rtol=1e-14)
        assert (scale is None) == (not objective.needs_reference)


def test_logits_give_the_loss_where_there_is_no_doubt() -> None:
    world = World()
    for objective, _ in PAIRED:
        logits = objective.logits(world.of_pairs())
        plain = not objective.needs_collisions and not any(
            getattr(objective, name, 0)
            for name in ("label_smoothing", "nll_weight", "flip_probability", "center_weight")
        )
        if logits is not None and plain:
            torch.testing.assert_close(
                objective.losses(world.of_pairs()), torch.nn.functional.softplus(-logits), rtol=1e-12, atol=1e-12
            )
    kto, scored = KTO(beta=0.3), world.of_rows()
    statistics = kto.step_statistics(scored)
    torch.testing.assert_close(
        kto.losses(scored, statistics), torch.sigmoid(-kto.logits(scored, statistics)), rtol=1e-12, atol=1e-12
    )
    for objective in (IPO(tau=0.4), Hinge(), APOZero(), APODown(), SFT()):
        assert objective.logits(world.of_pairs()) is None


def test_weights_multiply_each_items_loss() -> None:
    world = World()
    weights = np.linspace(0, 3, len(world.pairs))
    for objective, formula in PAIRED:
        found = objective.weighted_losses(world.of_pairs(weights=weights)).numpy()
        np.testing.assert_allclose(found, weights * formula(world), rtol=1e-12, atol=1e-12)
        plain: Tensor = objective.weighted_losses(world.of_pairs())
        np.testing.assert_allclose(plain.numpy(), formula(world), rtol=1e-12, atol=1e-12)


def test_at_the_reference_every_reward_is_zero() -> None:
    world = World()
    at_zero = world.of_pairs().at_reference()
    assert not at_zero.logratios.any()
    assert float(DPO().losses(at_zero).std()) == pytest.approx(0, abs=1e-15)
    assert torch.equal(at_zero.logps, world.of_pairs().logps)


@pytest.mark.parametrize("length", [7.0, 40.0])
def test_a_tau_that_nobody_gave_has_a_target_of_five_nats_an_answer(length: float) -> None:
    for objective, nats in ((IPO(), length), (IPO(length_normalize=False), 1.0)):
        resolved = objective.resolved(length)
        assert isinstance(resolved, IPO) and resolved.tau is not None
        assert nats / (2 * resolved.tau) == pytest.approx(5.0)
    assert IPO(tau=0.7).resolved(length) == IPO(tau=0.7)


def test_ktos_proposed_weight_makes_both_sides_count_alike() -> None:
    for up, down in ((10, 30), (30, 10), (1, 1000), (20, 20)):
        for own in (KTO(), KTO(desirable_weight=0.5), KTO(undesirable_weight=2.0)):
            name, weight = own.balancing_weight(up, down)
            even = replace(own, **{name: weight})
            assert even.desirable_weight * up == pytest.approx(even.undesirable_weight * down)
            assert even.proposals(up, down) == []
            assert name == ("desirable_weight" if up < down else "undesirable_weight")


def test_what_is_out_of_range_is_refused_and_its_border_is_not() -> None:
    for kind, wrong, more in (
        (DPO, {"beta": 0.0}, {}),
        (DPO, {"label_smoothing": 0.5}, {}),
        (DPO, {"label_smoothing": -0.1}, {}),
        (DPO, {"nll_weight": -1.0}, {}),
        (RobustDPO, {"flip_probability": 0.5}, {}),
        (SigmoidNorm, {"label_smoothing": 0.5}, {}),
        (SimPO, {"label_smoothing": 0.5}, {}),
        (SimPO, {"beta": 0.99}, {}),
        (SimPO, {"beta": -1.0}, {"allow_small_beta": True}),
        (SimPO, {"gamma_beta_ratio": -0.1}, {}),
        (IPO, {"tau": 0.0}, {}),
        (DPOP, {"penalty": -0.1}, {}),
        (EXO, {"label_smoothing": 0.0}, {}),
        (EXO, {"label_smoothing": 0.5}, {}),
        (DiscoPOP, {"discopop_tau": 0.0}, {}),
        (AOT, {"beta": 0.0}, {}),
        (WPO, {"beta": 0.0}, {}),
        (LDDPO, {"ld_alpha": 1.01}, {}),
        (LDDPO, {"ld_alpha": -0.01}, {}),
        (AOTUnpaired, {"label_smoothing": 0.5}, {}),
        (FDPO, {"divergence": "kl"}, {}),
        (FDPO, {"alpha": 0.3}, {}),
        (FDPO, {"trl_alpha": 1.0}, {"divergence": "alpha"}),
        (FDPO, {"alpha": None}, {"divergence": "alpha"}),
        (FDPO, {"alpha": 0.3}, {"divergence": "alpha", "trl_alpha": 0.7}),
        (ORPO, {"odds_weight": -0.1}, {}),
        (SLiC, {"delta": 0.0}, {}),
        (SLiC, {"likelihood_weight": -0.1}, {}),
        (AlphaPO, {"beta": 0.0}, {}),
        (BCOPair, {"beta": 0.0}, {}),
        (BetaDPO, {"beta_scaling": -0.1}, {}),
        (BetaDPO, {"margin_momentum": 1.0}, {}),
        (BetaDPO, {"beta_of": "batch"}, {}),
        (KTO, {"beta": 0.0}, {}),
        (KTO, {"desirable_weight": -0.1}, {}),
        (KTO, {"undesirable_weight": -0.1}, {}),
    ):
        ((name, value),) = wrong.items()
        with pytest.raises(ValueError, match=f"^{kind.method}: {name}={value!r} is out of range"):
            kind(**wrong, **more)
    for right in (
        DPO(label_smoothing=0.0),
        RobustDPO(flip_probability=0.0),
        SimPO(beta=1.0, gamma_beta_ratio=0.0),
        SimPO(beta=0.1, allow_small_beta=True),
        DPOP(penalty=0.0),
        KTO(desirable_weight=0.0),
    ):
        assert right.method
