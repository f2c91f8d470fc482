"""What every method brings along when nobody says otherwise, and the edges of what it advises."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch

from likelier import DPO, DPOP, IPO, KTO, SFT, APODown, APOZero, Hinge, RewardModel, RobustDPO, SigmoidNorm, SimPO
from likelier.data.groups import Group
from likelier.data.mismatched import data_hash, derangement, token_hash
from likelier.data.records import Source
from likelier.objectives import (
    AOT,
    BCO,
    CPO,
    EXO,
    FDPO,
    LDDPO,
    METHODS,
    MPO,
    NCA,
    ORPO,
    SPPO,
    WPO,
    AlphaPO,
    AOTUnpaired,
    BCOPair,
    BetaDPO,
    CalDPO,
    DiscoPOP,
    InfoNCA,
    NCAScores,
    Objective,
    SLiC,
)
from likelier.training import step as steps
from tests.training.test_step_and_mistakes import rows_for, walker_of

# The values of each method's own paper or reference code (sources: docs/defaults.md), 0 for what is switched off.
OWN: dict[type[Objective], dict[str, Any]] = {
    DPO: {"beta": 0.1, "label_smoothing": 0.0, "nll_weight": 0.0},
    RobustDPO: {"beta": 0.1, "flip_probability": 0.1, "nll_weight": 0.0},
    Hinge: {"beta": 0.05, "nll_weight": 0.0},
    SigmoidNorm: {"beta": 5.0, "label_smoothing": 0.0, "nll_weight": 0.0},
    APOZero: {"beta": 0.1, "nll_weight": 0.0},
    APODown: {"beta": 0.1, "nll_weight": 0.0},
    DPOP: {"beta": 0.1, "penalty": 5.0, "nll_weight": 0.0},
    IPO: {"tau": None, "length_normalize": True, "nll_weight": 0.0},
    SimPO: {
        "beta": 2.0,
        "gamma_beta_ratio": 0.5,
        "label_smoothing": 0.0,
        "allow_small_beta": False,
        "nll_weight": 0.0,
    },
    KTO: {"beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0},
    EXO: {"beta": 0.1, "label_smoothing": 0.001, "nll_weight": 0.0},
    NCA: {"beta": 0.01, "nll_weight": 0.0},
    SPPO: {"beta": 0.001, "nll_weight": 0.0},
    DiscoPOP: {"beta": 0.05, "discopop_tau": 0.05, "nll_weight": 0.0},
    FDPO: {"beta": 0.1, "divergence": "js", "alpha": None, "trl_alpha": None, "nll_weight": 0.0},
    CalDPO: {"beta": 0.002, "nll_weight": 0.0},
    CPO: {"beta": 0.1, "nll_weight": 1.0},
    ORPO: {"odds_weight": 0.1, "nll_weight": 0.0},
    AlphaPO: {"beta": 2.5, "gamma_beta_ratio": 0.1, "alpha": 0.25, "nll_weight": 0.0},
    SLiC: {"delta": 1.0, "likelihood_weight": 0.1, "nll_weight": 0.0},
    AOT: {"beta": 0.01, "label_smoothing": 0.0, "nll_weight": 0.0},
    AOTUnpaired: {"beta": 0.01, "label_smoothing": 0.0, "nll_weight": 0.0},
    WPO: {"beta": 0.01, "label_smoothing": 0.0, "nll_weight": 0.0},
    SFT: {},
    RewardModel: {"center_weight": 0.0, "label_smoothing": 0.0},
    BCOPair: {"beta": 0.01, "nll_weight": 0.0},
    BCO: {"beta": 0.01},
    BetaDPO: {"beta": 0.1, "beta_scaling": 0.6, "margin_momentum": 0.9, "beta_of": "step", "nll_weight": 0.0},
    InfoNCA: {"beta": 0.01, "score_temperature": 1.0},
    NCAScores: {"beta": 0.01, "score_temperature": 1.0},
    LDDPO: {"beta": 0.1, "ld_alpha": 0.5, "label_smoothing": 0.0, "nll_weight": 0.0},
    MPO: {"loss": ((DPO(beta=0.1), 0.8), (BCOPair(beta=0.1), 0.2)), "nll_weight": 1.0},
}
RATES = {SimPO: 6e-7, SigmoidNorm: 5e-7, KTO: 2e-6, SFT: 1e-5, RewardModel: 1e-5}  # the others as DPO, 1e-6
RATES |= {NCA: 5e-6, SPPO: 5e-7, DiscoPOP: 5e-7, CalDPO: 5e-7, ORPO: 8e-6, AlphaPO: 7e-7}
RATES |= dict.fromkeys((BCOPair, BCO, BetaDPO), 5e-7) | dict.fromkeys((MPO, InfoNCA, NCAScores), 5e-6)
SOFT = {DPO, SigmoidNorm, IPO, SimPO, RewardModel, SPPO, WPO, LDDPO}
WITHOUT_REFERENCE = (SimPO, CPO, ORPO, AlphaPO, SLiC, SFT, RewardModel)
DATA = {KTO: "labels", BCO: "labels", SFT: "answers", InfoNCA: "scores", NCAScores: "scores"}
MARGINS = {DPO, IPO, SimPO, RewardModel, WPO, LDDPO}
NAMES = (
    "dpo robust hinge sigmoid_norm apo_zero apo_down dpop ipo simpo kto exo nca sppo discopop f_dpo cal_dpo cpo orpo "
    "alphapo slic aot aot_unpaired wpo sft reward bco_pair bco beta_dpo infonca nca_scores ld_dpo mpo"
)


@pytest.mark.parametrize("kind", OWN, ids=lambda kind: kind.method)
def test_a_method_brings_its_own_papers_values_along(kind: type[Objective]) -> None:
    assert {field.name: getattr(kind(), field.name) for field in fields(kind)} == OWN[kind]
    assert kind.learning_rate == RATES.get(kind, 1e-6)
    assert kind.takes_soft_labels is (kind in SOFT) and kind.takes_margins is (kind in MARGINS)
    assert kind.needs_reference is (kind not in WITHOUT_REFERENCE) and kind.needs_partner is (kind is KTO)
    assert kind.data == DATA.get(kind, "pairs")


def test_each_method_answers_to_its_name() -> None:
    assert {name: METHODS[name] for name in NAMES.split()} == dict(zip(NAMES.split(), OWN, strict=True))
    assert METHODS.keys() == {*NAMES.split(), "weighted_sum"}
    with pytest.raises(TypeError):
        DPO(0.1, 0.0, 1.0)  # type: ignore[misc]  # nll_weight goes by its name


def test_ktos_advice_holds_to_its_borders() -> None:
    for up, down in ((95, 100), (150, 100), (100, 100)):
        assert KTO().proposals(up, down) == []
    for up, down in ((94, 100), (151, 100)):
        assert len(KTO().proposals(up, down)) == 1
    assert KTO(undesirable_weight=2.0).proposals(10, 10) == KTO(undesirable_weight=2.0).proposals(10, 10) != []
    name, weight = KTO(undesirable_weight=2.0).balancing_weight(10, 10)
    assert KTO(**{"undesirable_weight": 2.0, name: weight}).proposals(10, 10) == []
    assert KTO().warnings(8, 1, 1) == [] and "very noisy" in KTO().warnings(7, 1, 1)[0]
    assert len(KTO().warnings(8, 0, 5)) == len(KTO().warnings(8, 5, 0)) == 1


def test_two_mismatched_answers_have_a_spread_and_one_has_none() -> None:
    assert KTO().statistics_metrics(torch.tensor([3.0, 5.0, 2.0]))["kl_standard_error"] == pytest.approx(0.5)
    assert "kl_standard_error" not in KTO().statistics_metrics(torch.tensor([3.0, 9.0, 1.0]))


def ids(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int32)


# --- partners ------------------------------------------------------------------------------------------------------


def test_a_partners_seed_draws_its_own_arrangement() -> None:
    groups = rows_for(DPO(), 30)
    drawn = {seed: derangement(groups, seed) for seed in "abc"}
    assert len({tuple(order) for order in drawn.values()}) == 3 and derangement(groups, "a") == drawn["a"]
    for order in drawn.values():
        assert sorted(order) == list(range(30)) and all(here != there for here, there in enumerate(order))
        followers = sum(there == (here + 1) % 30 for here, there in enumerate(order))
        assert followers < 10  # drawn, not each the next one's


def test_hashes_are_those_that_runs_have_recorded() -> None:
    """A run that was cut is resumed by them, in another version as well: they change with the data only."""
    pair = Group(ids(1, 2), (ids(3), ids(4, 5)), Source("rows", 0, "row"))
    label = Group(ids(1, 2), (ids(3),), Source("rows", 1, "row"), desirable=True)
    assert token_hash([pair, label]) == data_hash([pair, label]) == "b541dc7a7beeed642d76959649619e7f"
    assert data_hash([replace(pair, weight=0.5), replace(label, margin=1.0)]) == "8e3817e62a02651c70dc364ac7630185"


# --- the trial before the first step -------------------------------------------------------------------------------


@pytest.mark.parametrize(("budget", "gradients_beside"), [(100_000, False), (100, True)])
def test_the_trial_trains_beside_all_that_a_step_holds(
    monkeypatch: pytest.MonkeyPatch, budget: int, gradients_beside: bool
) -> None:
    """The optimizer's moments always, and the gradients of earlier micro-batches where a step has several."""
    walker = walker_of(DPO(), budget)
    walker.model.eval()
    held: list[torch.Tensor] = []
    modes: list[bool] = []
    for name in ("empty", "empty_like"):
        original = getattr(torch, name)

        def noted(*args: Any, made: Any = original, **kwargs: Any) -> torch.Tensor:
            held.append(made(*args, **kwargs))
            return held[-1]

        monkeypatch.setattr(steps.torch, name, noted)
    walker.model.register_forward_pre_hook(lambda module, args: modes.append(module.training))
    walker.prove_it_fits(rows_for(DPO()), 4, 12_345)
    monkeypatch.undo()
    assert held[0].nbytes == 12_345 and modes == [True] and not walker.model.training
    weights = [tuple(weight.shape) for weight in walker.model.parameters()]
    assert ([tuple(one.shape) for one in held[1 : 1 + len(weights)]] == weights) is gradients_beside
