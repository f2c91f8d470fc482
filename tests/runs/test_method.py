"""What a run's card says of its method, in cards of today and in those from before it was recorded."""

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from likelier.objectives import DPO, IPO, METHODS, SFT, APODown, Hinge, Objective, SigmoidNorm, SimPO
from likelier.runs.card import RunCard, checked_card
from likelier.runs.method import MethodFacts
from likelier.utils.errors import RunFolderError
from tests.helpers.methods import usual


def written(objective: Objective, *without: str) -> RunCard:
    """The part of a run's card that its method decides, as it is read back."""
    card = {
        "method": objective.method,
        "hyperparameters": objective.hyperparameters(),
        "reward_scale": objective.reward_scale(),
        "objective": objective.facts(),
    }
    kept = {name: value for name, value in card.items() if name not in without}
    return checked_card(json.loads(json.dumps(kept)), "run.json")


@pytest.mark.parametrize("method", METHODS)
def test_a_card_without_the_block_has_the_facts_of_its_method(method: str) -> None:
    objective = usual(method).resolved(40)
    told = written(objective).facts
    assert told == written(objective, "objective").facts
    assert asdict(told) == objective.facts()


@pytest.mark.parametrize(
    ("objective", "nats", "per_token"),
    [
        (DPO(beta=0.2), 25.0, False),
        (IPO(tau=0.1, length_normalize=False), 5.0, False),
        (IPO(tau=2.0), 0.25, True),
        (Hinge(beta=0.05), 20.0, False),
        (SigmoidNorm(beta=5.0), 1.0, True),
        (SimPO(), None, True),
        (SFT(), None, True),
    ],
)
def test_where_the_loss_asks_for_no_more(objective: Objective, nats: float | None, per_token: bool) -> None:
    told = written(objective).facts
    assert told.satisfied_at == (None if nats is None else pytest.approx(nats)) and told.per_token == per_token


def test_the_page_of_methods_names_the_sources() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")
    sections = re.split(r"^## ", page, flags=re.MULTILINE)
    for method, kind in METHODS.items():
        (section,) = [one for one in sections if method in one.splitlines()[0].split()]
        assert kind.source in section


def test_what_sets_methods_apart() -> None:
    facts = {method: RunCard(method=method).facts for method in METHODS}
    of = {
        name: {method for method, one in facts.items() if getattr(one, name) is True}
        for name in ("has_baseline", "has_target", "lowers_both", "rewards_per_token")
    }
    assert of["has_baseline"] == {"kto"} and of["lowers_both"] == {APODown.method}
    assert of["rewards_per_token"] == {"simpo", "orpo", "alphapo", "sft"}
    assert {name for name, one in facts.items() if one.items == "rows"} == {
        *("kto", "sft", "bco", "infonca", "nca_scores")
    }


def test_a_block_of_a_later_version_and_one_of_no_known_method_are_read() -> None:
    later = {"method": "later", "objective": {"items": "rows", "dances": True, "satisfied_at": None}}
    assert RunCard.of(later).facts == MethodFacts(items="rows")
    assert RunCard(method="gone").facts == RunCard().facts == MethodFacts()


def test_a_strength_that_only_the_scale_tells() -> None:
    told = RunCard(method="ipo", reward_scale=0.1, hyperparameters={"length_normalize": False}).facts
    assert told.satisfied_at == pytest.approx(5.0) and told.has_target and told.strength_from_data


def test_hyperparameters_of_another_version_leave_the_usual_facts() -> None:
    assert RunCard(method="dpo", hyperparameters={"gone": 1}).facts == MethodFacts()


@pytest.mark.parametrize(("name", "value"), [("satisfied_at", "far"), ("has_baseline", 1), ("items", 3)])
def test_a_block_of_something_else_is_damaged(name: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=rf"objective\.{name}"):
        checked_card({"objective": {name: value}}, tmp_path / "run.json")
