"""BCO and beta-DPO: what enters their running means, when, and what the losses make of them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from likelier.objectives import BCO, BCOPair, BetaDPO, Objective, Scored
from likelier.objectives.metrics import item_metrics
from tests.helpers.loss_oracle import World, sigmoid, softplus

CARRYING: list[Objective] = [BCOPair(beta=0.3), BCO(beta=0.3), BetaDPO(beta=0.3), BetaDPO(beta=0.3, beta_of="pair")]


def scored_for(objective: Objective, world: World) -> Scored:
    return world.of_pairs() if objective.data == "pairs" else world.of_rows()


def statistics_of(objective: Objective, scored: Scored) -> Tensor:
    found = objective.step_statistics(scored)
    assert found is not None
    return found


def a_pair(chosen: float, rejected: float) -> Scored:
    """Of these log-ratios."""
    logps = torch.tensor([chosen - 9, rejected - 9], dtype=torch.double)
    return Scored.of(logps, torch.tensor([5, 5]), torch.full_like(logps, -9), pairs=torch.tensor([[0, 1]]))


def learnt(objective: Objective, *steps: Scored) -> Objective:
    for step in steps:
        objective = objective.after(statistics_of(objective, step))
    return objective


def loss(objective: Objective, scored: Scored) -> float:
    return float(objective.losses(scored, objective.step_statistics(scored)).mean())


# --- BCO -------------------------------------------------------------------------------------------------------------


def test_bcos_first_step_has_its_own_mean_as_trl_had_until_it_left_it_out() -> None:
    step = a_pair(2.0, -1.0)
    assert loss(learnt(BCOPair(beta=0.1), step), step) == pytest.approx(1.241914, abs=1e-6)  # d = 0.1 (2 - 1) / 2
    assert loss(BCOPair(beta=0.1), step) == pytest.approx(1.242536, abs=1e-6)  # TRL 1.16


def test_without_its_mean_bco_holds_rewards_at_the_reference() -> None:
    """What TRL lacks: where both rewards rise together, d rises with them, and the gradients stay balanced."""
    drifted = a_pair(70.0, 50.0).with_sums(torch.tensor([61.0, 41.0], dtype=torch.double, requires_grad=True))
    slopes = {}
    for name, objective in {"ours": learnt(BCOPair(beta=0.1), drifted), "trl": BCOPair(beta=0.1)}.items():
        (slopes[name],) = torch.autograd.grad(objective.losses(drifted).sum(), drifted.logps)
    chosen, rejected = slopes["ours"].tolist()
    assert -chosen == pytest.approx(rejected, rel=1e-12) and rejected == pytest.approx(0.1 * sigmoid(-1.0), rel=1e-12)
    assert slopes["trl"].tolist() == pytest.approx([-0.1 * sigmoid(-7.0), 0.1 * sigmoid(5.0)], rel=1e-9)


def test_bcos_mean_is_over_answers_and_each_side_counts_half() -> None:
    """A last step of fewer rows counts less; three good answers to one bad one do not draw it to their side."""
    world, more = World(0), World(1, count=3)
    objective = learnt(BCO(beta=0.3), world.of_rows(), more.of_rows())
    ratios = [one.logps[one.rows] - one.refs[one.rows] for one in (world, more)]
    good = [float(x) for one, w in zip(ratios, (world, more), strict=True) for x in 0.3 * one[w.desirable]]
    bad = [float(x) for one, w in zip(ratios, (world, more), strict=True) for x in 0.3 * one[~w.desirable]]
    shift = (sum(good) / len(good) + sum(bad) / len(bad)) / 2
    assert len(good) != len(bad)
    assert float(objective.state_metrics()["reward_shift"]) == pytest.approx(shift, rel=1e-12)
    logits = 0.3 * ratios[0] - shift
    expected = [float(softplus(-z if up else z)) for z, up in zip(logits, world.desirable, strict=True)]
    assert objective.losses(world.of_rows()).tolist() == pytest.approx(expected, rel=1e-12)


def test_a_side_that_was_not_seen_counts_as_the_reference() -> None:
    scored = World().of_rows().with_items(desirable=torch.ones(7, dtype=torch.bool))
    objective = learnt(BCO(beta=0.3), scored)
    mean = 0.3 * float((scored.logratios[scored.items.rows]).mean())
    assert float(objective.state_metrics()["reward_shift"]) == pytest.approx(mean / 2, rel=1e-12)
    assert "one kind only" in BCO().warnings(8, 7, 0)[0] and BCO().warnings(1, 3, 4) == []


def test_a_pair_is_two_labels() -> None:
    world = World()
    pairs = world.of_pairs()
    rows = world.scored(rows=world.pairs.T.flatten(), desirable=[True] * 7 + [False] * 7)
    of_pairs, of_rows = learnt(BCOPair(beta=0.3), pairs), learnt(BCO(beta=0.3), rows)
    assert of_pairs.recorded_state() == of_rows.recorded_state()
    found = of_rows.losses(rows).reshape(2, 7).sum(0)
    torch.testing.assert_close(of_pairs.losses(pairs), found, rtol=1e-13, atol=0)


def test_a_label_is_right_on_its_side_of_the_shift() -> None:
    world = World()
    scored = world.of_rows()
    objective = BCO(beta=0.3).with_state({"chosen": [3.0, 1.0], "rejected": [0.0, 0.0]})
    baseline = objective.reward_baseline(None)
    sums = item_metrics(scored, objective.losses(scored), objective.rewards(scored), baseline)
    above = 0.3 * (world.logps - world.refs)[world.rows] > 1.5
    assert sums.means()["rewards/accuracies"] == pytest.approx(float((above == world.desirable).mean()))


def test_bco_takes_rows_and_bco_pair_pairs() -> None:
    with pytest.raises(ValueError, match="BCO needs labelled rows"):
        BCO().losses(World().of_pairs())
    with pytest.raises(ValueError, match="needs pairs"):
        BCOPair().losses(World().of_rows())


# --- beta-DPO --------------------------------------------------------------------------------------------------------


def test_beta_follows_the_steps_mean_margin_against_its_moving_mean() -> None:
    """M0 takes the step's mean before beta is made, as in the authors' code: half of it where nothing is kept of before
    but half.
    """
    objective: Any = BetaDPO(beta=0.1, beta_scaling=0.6, margin_momentum=0.5)
    one, other = a_pair(2.0, -1.0), a_pair(5.0, 0.0)
    first = learnt(objective, one)
    assert float(first.state["mean_margin"]) == pytest.approx(0.15)
    assert float(first.state["beta"]) == pytest.approx(0.1 * (1 + 0.6 * (0.3 - 0.15)))
    second = learnt(first, other)
    assert float(second.state["mean_margin"]) == pytest.approx(0.5 * 0.15 + 0.5 * 0.5)
    beta = 0.1 * (1 + 0.6 * (0.5 - 0.325))
    assert loss(second, other) == pytest.approx(math.log1p(math.exp(-beta * 5.0)), rel=1e-12)
    assert {name: float(value) for name, value in second.state_metrics().items()} == {
        "mean_margin": pytest.approx(0.325),
        "step_beta": pytest.approx(beta),
    }


def test_each_pairs_own_beta_has_the_papers_golden_number() -> None:
    for whose in ("pair", "step"):
        objective = BetaDPO(beta=0.1, beta_of=whose).with_state({"mean_margin": 0.1, "beta": 0.112})
        assert loss(objective, a_pair(2.0, -1.0)) == pytest.approx(0.539193, abs=1e-6)


@pytest.mark.parametrize("whose", ["pair", "step"])
def test_nothing_flows_back_through_beta(whose: Any) -> None:
    logps = torch.tensor([-7.0, -10.0], dtype=torch.double, requires_grad=True)
    step = a_pair(2.0, -1.0).with_sums(logps)
    objective = learnt(BetaDPO(beta=0.1, beta_of=whose), step)
    beta = 0.1 * (1 + 0.6 * (0.3 - 0.03))
    (slopes,) = torch.autograd.grad(objective.losses(step).sum(), logps)
    assert slopes.tolist() == pytest.approx([-beta * sigmoid(-3 * beta), beta * sigmoid(-3 * beta)], rel=1e-12)


def test_beta_never_falls_to_0() -> None:
    objective = learnt(BetaDPO(beta=0.1), a_pair(-200.0, 200.0))
    assert float(objective.state["beta"]) == 1e-3


def test_at_the_reference_beta_is_the_one_that_was_given() -> None:
    objective = learnt(BetaDPO(beta=0.3), World().of_pairs().at_reference())
    assert float(objective.state["beta"]) == pytest.approx(0.3, rel=1e-15)
    assert loss(objective, World().of_pairs().at_reference()) == pytest.approx(math.log(2))


# --- all of them -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", CARRYING, ids=repr)
def test_statistics_of_parts_add_up_and_are_detached(objective: Objective) -> None:
    world = World(count=8)
    scored = scored_for(objective, world)
    names = ("pairs",) if objective.data == "pairs" else ("rows", "desirable")
    own = {name: getattr(scored.items, name) for name in names}
    parts = [scored.with_items(**{name: value[cut] for name, value in own.items()}) for cut in (slice(3), slice(3, 8))]
    whole = statistics_of(objective, scored.with_sums(scored.logps.clone().requires_grad_()))
    assert whole.dtype == torch.float64 and not whole.requires_grad
    torch.testing.assert_close(sum(statistics_of(objective, part) for part in parts), whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("objective", CARRYING, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_keep_the_precision_of_their_input(objective: Objective, dtype: torch.dtype) -> None:
    full = scored_for(objective, World())
    assert full.items.ref_logps is not None
    scored = full.with_sums(full.logps.to(dtype)).with_items(ref_logps=full.items.ref_logps.to(dtype))
    later = learnt(objective, scored)
    assert later.losses(scored, statistics_of(later, scored)).dtype == dtype
    assert all(value.dtype == torch.float64 for value in later.state.values())


@pytest.mark.parametrize("objective", CARRYING, ids=repr)
def test_they_say_what_they_carry(objective: Objective) -> None:
    assert "mean" in objective.explain(20.0) and "1 is 3.33333 nats" in objective.explain(20.0)
