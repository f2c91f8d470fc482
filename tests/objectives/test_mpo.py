"""MPO is the sum that its paper names: numbers made from those of its parts, state, and what TRL's list leaves out."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch

from likelier import DPO
from likelier.objectives import MPO, BCOPair, Objective, Scored, WeightedSum
from likelier.training.config import parse
from likelier.utils.errors import ConfigError
from tests.helpers.loss_oracle import World, sigmoid

# Of the pair that all golden numbers are of (tests/objectives/test_losses.py): DPO, BCO with d the step's own middle,
# BCO with d = 0, and the chosen answer's mean.
OF_DPO, OF_BCO, WITHOUT_D, LIKELIHOOD = 0.554355, 1.241914, 1.242536, 2.0


def a_pair(chosen: float, rejected: float) -> Scored:
    """Of these log-ratios; both answers have -20 nats, the chosen one 10 tokens."""
    logps = torch.tensor([-20.0, -20.0], dtype=torch.double)
    references = logps - torch.tensor([chosen, rejected], dtype=torch.double)
    return Scored.of(logps, torch.tensor([10, 8]), references, pairs=torch.tensor([[0, 1]]))


def after(objective: Objective, *steps: Scored) -> Objective:
    for step in steps:
        objective = objective.after(objective.step_statistics(step))
    return objective


def slopes(objective: Objective, scored: Scored) -> list[float]:
    logps = scored.logps.clone().requires_grad_()
    (found,) = torch.autograd.grad(objective.losses(scored.with_sums(logps)).sum(), logps)
    return found.tolist()


def test_its_number_is_that_of_its_parts_in_the_papers_weights() -> None:
    step = a_pair(2.0, -1.0)
    found = float(after(MPO(), step).losses(step))
    assert found == pytest.approx(0.8 * OF_DPO + 0.2 * OF_BCO + 1.0 * LIKELIHOOD, abs=1e-6)
    assert found == pytest.approx(2.691867, abs=1e-6)


def test_trls_list_is_the_same_without_bcos_mean() -> None:
    """TRL 1.16's `["sigmoid", "bco_pair", "sft"]`: equal where d is 0 and all chosen answers are of one length, since
    its `sft` is a mean over the tokens of the micro-batch. Where both rewards have risen, its BCO has gone quiet on the
    chosen side, and pulls the rejected answer with all its might.
    """
    step = a_pair(2.0, -1.0)
    assert float(MPO().losses(step)) == pytest.approx(0.8 * OF_DPO + 0.2 * WITHOUT_D + LIKELIHOOD, abs=1e-6)
    drifted = a_pair(70.0, 50.0)
    of_dpo = 0.8 * 0.1 * sigmoid(-2.0)
    ours, theirs = slopes(after(MPO(), drifted), drifted), slopes(MPO(), drifted)
    balanced = 0.2 * 0.1 * sigmoid(-1.0)
    assert ours == pytest.approx([-of_dpo - balanced - 0.1, of_dpo + balanced], rel=1e-9)
    quiet, loud = 0.2 * 0.1 * sigmoid(-7.0), 0.2 * 0.1 * sigmoid(5.0)
    assert theirs == pytest.approx([-of_dpo - quiet - 0.1, of_dpo + loud], rel=1e-9)


def test_at_the_reference_value_and_gradient_are_known() -> None:
    step = a_pair(0.0, 0.0)
    assert float(after(MPO(), step).losses(step)) == pytest.approx((0.8 + 2 * 0.2) * math.log(2) + LIKELIHOOD)
    assert slopes(MPO(), step) == pytest.approx([-0.1 * (0.8 + 0.2) / 2 - 0.1, 0.1 * (0.8 + 0.2) / 2])


def test_the_gradient_is_that_of_the_value() -> None:
    scored = World().of_pairs()
    objective = after(MPO(), scored)
    logps = scored.logps.requires_grad_()
    assert torch.autograd.gradcheck(lambda logps: objective.losses(scored.with_sums(logps)), logps)


def test_rewards_are_dpos_and_rates_its_papers() -> None:
    scored = World().of_pairs()
    assert torch.equal(MPO().rewards(scored), DPO(beta=0.1).rewards(scored))
    assert MPO().learning_rate == 5e-6 and MPO().facts()["source"] == "arXiv 2411.10442"
    assert MPO().needs_step and MPO().needs_reference and not MPO().takes_margins and not MPO().takes_soft_labels
    assert WeightedSum(loss=MPO().loss, nll_weight=1.0).losses(scored).equal(MPO().losses(scored))


def test_a_killed_run_goes_on_bit_for_bit_however_its_steps_are_cut() -> None:
    """What a checkpoint holds of it: hyperparameters and state, as JSON."""
    worlds = [World(seed).of_pairs() for seed in range(3)]
    whole = after(MPO(), *worlds)
    before = after(MPO(), worlds[0])
    kept = json.loads(json.dumps([before.hyperparameters(), before.recorded_state()]))
    resumed = after(MPO.of(kept[0]).with_state(kept[1]), *worlds[1:])
    assert resumed == whole and resumed.recorded_state() == whole.recorded_state()
    assert resumed.losses(worlds[2]).equal(whole.losses(worlds[2]))
    assert set(whole.state) == {"bco_pair.chosen", "bco_pair.rejected"}
    assert set(whole.state_metrics()) == {"reward_shift"}
    pairs = worlds[0].items.pairs
    assert pairs is not None
    cut = [MPO().step_statistics(worlds[0].with_items(pairs=part)) for part in pairs.split([2, 5])]
    again = MPO().after(torch.stack([one for one in cut if one is not None]).sum(0))
    torch.testing.assert_close(dict(again.state), dict(before.state), rtol=1e-13, atol=1e-13)


def made(**given: Any) -> Objective:
    return parse({"method": "mpo", "model": "m", "data": "d", "output": "o", **given}).objective


def test_by_name_it_needs_nothing_and_its_numbers_can_be_others() -> None:
    assert made() == MPO.of({}) == MPO() and MPO.of(MPO().hyperparameters()) == MPO()
    given = {"loss": "bco-pair=0.5 dpo=1", "bco_pair.beta": 0.2, "dpo.label_smoothing": 0.1, "nll_weight": 0.5}
    expected = MPO(loss=((BCOPair(beta=0.2), 0.5), (DPO(beta=0.1, label_smoothing=0.1), 1.0)), nll_weight=0.5)
    assert made(**given) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"loss": "dpo=1 ipo=1"},
            "loss='dpo ipo'.*must be weights of dpo and bco_pair; weighted_sum adds",
        ),
        ({"loss": "dpo=1"}, "loss='dpo' is out of range"),
        ({"loss": ""}, "loss is missing"),
        ({"beta": 0.2}, "beta has no effect on mpo.*mpo has: loss, nll_weight, dpo.beta"),
        ({"ipo.tau": 0.2}, "ipo.tau has no effect on mpo"),
        ({"use_margins": "column"}, "mpo has no place for a margin"),
    ],
)
def test_other_losses_are_weighted_sums(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made(**given)
