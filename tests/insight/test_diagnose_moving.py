"""A run whose reference moved: rewards in training are no distance from its start, held-out ones are."""

from __future__ import annotations

from typing import Any

import pytest

from likelier.insight.diagnose.facts import Facts
from likelier.insight.diagnose.start import wrong_reference
from tests.helpers.runs_by_hand import a_run, a_step

MOVES: dict[str, Any] = {"how": "soft", "every": 1, "mix": 0.6}


def facts_of(moves: dict[str, Any] | None, evaluations: list[dict[str, Any]] | None = None) -> Facts:
    """Rewards that stay 0, while the answers grow more and less likely."""
    steps = [a_step(n, 0.0, 0.0, **{"logps/chosen": -40.0 + n, "logps/rejected": -40.0 - n}) for n in range(1, 13)]
    card = {"equals_policy": True, "words": "the policy itself as it was loaded"} | ({"moves": moves} if moves else {})
    return Facts(a_run(steps, evaluations, reference=card, objective={"needs_reference": True}))


def test_rewards_of_0_while_the_policy_changes_are_wrong_only_where_the_reference_was_to_stay() -> None:
    assert [one.title for one in wrong_reference(facts_of(None))] == ["The reference moves along"]
    assert list(wrong_reference(facts_of(MOVES))) == []


def test_without_held_out_rows_the_policy_s_own_log_probabilities_tell_how_far_it_went() -> None:
    facts = facts_of(MOVES)
    assert not facts.margin and not facts.logratio("chosen")
    assert facts.lost["chosen"].value > 5 and facts.lost["rejected"].value < -5
    assert facts.moved is not None and facts.moved.value > 5


def test_held_out_rewards_and_kl_are_measured_against_the_start() -> None:
    last = {"step": 12, "items": 20, "rewards/chosen": 0.4, "rewards/rejected": -0.6, "kl": 2.0, "kl_per_token": 0.1}
    facts = facts_of(MOVES, [last])
    assert facts.lost["chosen"].value == pytest.approx(4.0) and facts.lost["rejected"].value == pytest.approx(-6.0)
    assert facts.distance is not None and facts.distance[0] == "KL to the start"
    fixed = facts_of(None, [last]).distance
    assert fixed is not None and fixed[0] == "KL to the reference"
