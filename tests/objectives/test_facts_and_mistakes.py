"""What methods say of themselves, held against what their losses do and what readers of a run ask for."""

from dataclasses import fields

import pytest
import torch

from likelier.objectives import METHODS, Objective, Scored
from likelier.objectives.base import SATISFIED
from likelier.objectives.metrics import item_metrics, readable
from likelier.runs.method import MethodFacts
from tests.helpers.methods import usual

KINDS = list(METHODS.values())
PAIRED = [kind for kind in KINDS if kind.data == "pairs"]


def gap_of(nats: float) -> Scored:
    """A pair whose log-ratios are so far apart, with nothing lost on the chosen side."""
    logps = torch.tensor([nats / 2 - 50, -nats / 2 - 50], dtype=torch.double)
    start = torch.full((2,), -50.0, dtype=torch.double)
    items = {"pairs": torch.tensor([[0, 1]]), "ref_head_logps": start[None]}
    return Scored.of(logps, torch.tensor([10, 10]), start, -start, (logps / 10).repeat_interleave(10), **items)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.method)
def test_the_card_has_each_fact_under_the_readers_name(kind: type[Objective]) -> None:
    objective = usual(kind.method).resolved(10.0)
    facts = objective.facts()
    assert facts.keys() == {one.name for one in fields(MethodFacts)}
    assert facts["has_baseline"] == objective.has_baseline and facts["lowers_both"] == objective.lowers_both
    assert MethodFacts(**facts).has_target == objective.has_target


@pytest.mark.parametrize("kind", PAIRED, ids=lambda kind: kind.method)
def test_a_target_is_what_a_loss_pulls_back_to(kind: type[Objective]) -> None:
    objective = usual(kind.method).resolved(10.0)
    far, farther = (float(objective.losses(gap_of(nats))) for nats in (1000.0, 2000.0))
    assert (farther > far) == objective.has_target


def test_a_sigmoid_is_satisfied_where_its_gradient_is_below_a_hundredth() -> None:
    left = [float(torch.sigmoid(torch.tensor(-reached))) for reached in (SATISFIED, SATISFIED - 0.5)]
    assert left[0] < 0.01 < left[1]


def test_the_margin_is_the_chosen_answers_reward_less_the_rejected_ones() -> None:
    scored = gap_of(8.0)
    found = readable(item_metrics(scored, torch.tensor([0.5]), torch.tensor([3.0, -1.0])))
    assert (found["rewards/margins"], found["rewards/chosen"], found["rewards/rejected"]) == (4.0, 3.0, -1.0)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.method)
def test_rewards_per_token_are_those_that_do_not_grow_with_an_answer(kind: type[Objective]) -> None:
    objective, short = usual(kind.method).resolved(10.0), gap_of(8.0)
    long = Scored.of(2 * short.logps, 2 * short.lengths, 2 * short.logps - 2 * short.logratios)
    same = torch.allclose(objective.rewards(short), objective.rewards(long))
    assert same == objective.rewards_per_token
