"""Verdicts on a reward model: pairs are compared by its scores, and nothing is said of a policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from likelier.insight.diagnose import diagnose
from likelier.insight.diagnose.catalogue import CATALOGUE
from likelier.insight.diagnose.facts import Facts
from likelier.insight.diagnose.generalization import noisy_data
from likelier.insight.diagnose.items import items_of
from likelier.insight.diagnose.length import length_exploitation
from likelier.insight.diagnose.scores import of_scores
from likelier.insight.verdicts import Verdict
from likelier.objectives import RewardModel
from likelier.runs.card import checked_card
from likelier.runs.evaluations import NO_DETAIL, Detail
from likelier.runs.reader import Run
from tests.helpers.diagnosis_world import numbers
from tests.helpers.runs_by_hand import a_step

CARD = {"method": "reward", "objective": RewardModel().facts(), "hyperparameters": {"center_weight": 0.0}}


def trained(steps: list[dict[str, Any]], evaluations: list[dict[str, Any]] | None = None, **card: Any) -> Run:
    known = CARD | {"status": "done", "options": {"batch_size": 8}} | card
    return Run(Path("/nowhere"), checked_card(known, "run.json"), steps, evaluations or [])


def scored(step: int, chosen: list[float], rejected: list[float], longer_by: list[int]) -> Detail:
    sides = {
        "chosen": {"logps": chosen, "ref_logps": None, "lengths": [20 + by for by in longer_by]},
        "rejected": {"logps": rejected, "ref_logps": None, "lengths": [20] * len(rejected)},
    }
    return Detail(step, items={"source": [f"a:{number}" for number in range(len(chosen))], **sides})


def test_pairs_are_compared_by_scores_and_not_by_what_has_become_of_them() -> None:
    """The head is drawn: pairs that it happened to order rightly may lose margin and still be right."""
    start, now = scored(0, [3.0, 0.0], [0.0, 0.0], [1, 1]), scored(9, [1.0, 1.0], [0.0, 2.0], [1, 1])
    found = items_of(start, now, scores=True)
    assert found is not None and found.margins == [1.0, -1.0] and found.level("chosen").value == 1.0
    assert found.sides["chosen"].moved == (-2.0, 1.0) and found.typical("chosen") == pytest.approx(2.5**0.5)
    policy = items_of(start, now)
    assert policy is not None and policy.margins == [-2.0, -1.0]
    alone = items_of(NO_DETAIL, now, scores=True)
    assert alone is not None and alone.margins == [1.0, -1.0] and alone.typical("chosen") == 0.0


def test_length_is_told_by_scores() -> None:
    """From the start on the longer answer has the higher score: its changes are 0 and would tell nothing."""
    by = [5] * 40 + [-5] * 40
    drawn, zero = [2.0] * 40 + [-0.5] * 40, [0.0] * 80
    held = {"step": 9, "items": 80, "rewards/chosen": 0.75, "rewards/rejected": 0.0, "rewards/margins": 0.75}
    facts = Facts(trained([], [{"step": 0, "items": 80}, held]))
    vars(facts)["details"] = [scored(0, drawn, zero, by), scored(9, drawn, zero, by)]
    (verdict,) = length_exploitation(facts)
    assert "right where it is the shorter one: 0 %" in numbers(verdict)
    assert "policy that learns from it" in of_scores(verdict).meaning


def test_a_head_that_is_drawn_far_from_zero_has_learnt_nothing_by_that() -> None:
    """Scores that stand still are not learning, however large they are."""
    steps = [a_step(n, 4.0, 1.0) for n in range(1, 60)]
    run = trained(steps)
    verdict = diagnose(run)[0]
    assert verdict.name == "not-learning/learning-rate" and "scored as before" in verdict.meaning
    assert "scores changed by: 0 an answer" in numbers(verdict) and "+3 of score" in numbers(verdict)
    assert "not-learning" not in {one.name.split("/")[0] for one in diagnose(trained(rising()))}


def rising() -> list[dict[str, Any]]:
    return [a_step(n, 0.05 * n, -0.05 * n, loss=0.69 - 0.005 * n) for n in range(1, 60)]


def test_its_margin_in_training_is_what_it_learnt() -> None:
    verdict = next(one for one in diagnose(trained(rising())) if one.name in ("healthy", "unclear"))
    assert verdict.name == "healthy" and "margin: +5 of score" in numbers(verdict)
    assert "chosen answers" not in numbers(verdict)  # scores have no zero


def test_coin_tosses_are_told_of_its_scores() -> None:
    held = {"step": 9, "items": 200, "rewards/accuracies": 0.5, "rewards/chosen": 3.0, "rewards/rejected": 3.0}
    (verdict,) = map(of_scores, noisy_data(Facts(trained(rising(), [held]))))
    said = " ".join([verdict.meaning, numbers(verdict)])
    assert "the model moved" in said and "of score an answer" in said and "policy" not in said and "nats" not in said


@pytest.mark.parametrize("name", ["healthy", "unclear", "overfitting", "unstable", "not-learning/too-few-steps"])
def test_no_verdict_names_a_policy(name: str) -> None:
    entry = CATALOGUE[name]
    said = of_scores(Verdict(name, "info", entry.title, (("the policy", "x"),), entry.meaning, ("see the policy",)))
    assert "policy" not in " ".join([said.title, said.meaning, *said.evidence[0], *said.advice])
