"""What a run compares its policy with: named, proved, asked again, and held to its claim in the first step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from likelier import DPO, SimPO
from likelier.data.groups import Group
from likelier.data.tokenize import tokenize_records
from likelier.models.policy import Policy
from likelier.objectives import Objective
from likelier.scoring import attach_scorer
from likelier.scoring.engine import ScoredGroups, score_groups
from likelier.scoring.reference import ReferenceScoring
from likelier.scoring.reference.identity import identities
from likelier.training.options import TrainingOptions
from likelier.training.reference import RunReference
from likelier.utils.errors import WrongReferenceError
from tests.helpers.support import chat_pairs, lora_policy, naive_logp, tiny_policy, tiny_tokenizer


def groups_of(count: int = 6) -> list[Group]:
    return tokenize_records(chat_pairs(count), tiny_tokenizer(), max_length=512).groups


def reference_of(
    folder: Path,
    policy: Policy,
    named: Any = "start",
    objective: Objective | None = None,
    *,
    asked_later: bool = False,
    **options: Any,
) -> RunReference:
    attach_scorer(policy.model, scorer="plain")
    policy.model.eval()
    how = ReferenceScoring(folder / "store", 200, "cpu")
    settings = TrainingOptions(scorer="plain", **options)
    return RunReference(policy, named, objective or DPO(), settings, how, asked_later=asked_later)


def parts(policy: Policy, groups: Sequence[Group]) -> list[ScoredGroups]:
    return list(score_groups(policy.model, groups, token_budget=200, device="cpu"))


def direct(policy: Policy, groups: Sequence[Group]) -> list[list[float]]:
    return [[naive_logp(policy.model, one, side) for side in (0, 1)] for one in groups]


def near(groups: Sequence[Group]) -> Any:
    return [pytest.approx(list(one.ref_logps or ()), abs=1e-9) for one in groups]


@pytest.mark.parametrize("mode", ["stored", "live"])
def test_the_first_step_is_held_to_the_claim_that_it_starts_there(
    tmp_path: Path, mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = tiny_policy()
    run = reference_of(tmp_path, policy, reference_scores=mode)
    known, _, card = run.prove(groups_of(), [], [0])
    assert run.is_live == (mode == "live") and card["words"].startswith("the policy itself as it was loaded")
    told = identities(policy.model, adapter=False, precision=policy.precision)
    assert {name: card[name] for name in told} == told and card["equals_policy"] is True
    assert (tmp_path / "store" / card["identity"]).is_dir() == (mode == "stored")
    assert card["scores"] == ("12 computed, 0 found in the store" if mode == "stored" else "asked at every step")
    said = capsys.readouterr().err
    assert f"reference: {card['words']}\n" in said
    assert "step-0 check: loss 0.693147, expected 0.693147; passed\n" in said  # of no difference: log 2
    known = run.with_live_scores(known)
    known = sorted(known, key=lambda one: one.source.number)
    assert direct(policy, known) == near(known)
    for part in parts(policy, known):
        run.check_first_step(part)
    with torch.no_grad():
        policy.model.get_output_embeddings().weight.mul_(1.01)
    (part, *_) = parts(policy, known)
    with pytest.raises(WrongReferenceError, match=r"does not start as its reference .* in the first step"):
        run.check_first_step(part)


def test_another_model_makes_no_claim_on_the_first_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy, other = tiny_policy(), tiny_policy(seed=3)
    run = reference_of(tmp_path, policy, replace(other, name="elsewhere"))
    known, held_out, card = run.prove(groups_of(4), groups_of(2), [])
    assert card["words"] == "the model elsewhere" and "step0_loss" not in card
    assert "step-0 check" not in capsys.readouterr().err
    assert 0 <= card["stored_difference_per_token"] < 1e-8
    assert direct(other, [*known, *held_out]) == near([*known, *held_out])
    for part in parts(policy, known):
        run.check_first_step(part)
    assert run.with_live_scores(known) == known and not run.is_live


def test_a_method_without_one_is_compared_with_its_beginning_where_that_is_asked_later(tmp_path: Path) -> None:
    groups = groups_of()
    for asked_later in (False, True):
        run = reference_of(tmp_path, tiny_policy(), objective=SimPO(), asked_later=asked_later)
        assert run.access() is None
        assert run.prove(groups, groups[:2], [])[:2] == (groups, groups[:2])
        assert run.model is None and not run.is_live and run.with_live_scores(groups) == groups
        access = run.access()
        assert (access is not None) == asked_later
        if access is not None:
            assert not access.at_hand and not access.can_be_asked  # made in Python: nobody can load it again
        for part in parts(run.policy, [replace(one, ref_logps=(-1.0, -1.0)) for one in groups]):
            run.check_first_step(part)


@pytest.mark.parametrize("asked_later", [False, True])
def test_an_adapter_that_goes_on_is_kept_only_for_later_questions(tmp_path: Path, asked_later: bool) -> None:
    policy = lora_policy()
    for name, weight in policy.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.constant_(weight, 0.05)
    run = reference_of(tmp_path, policy, asked_later=asked_later)
    known, _, _ = run.prove(groups_of(3), [], [])
    access = run.access()
    assert access is not None and access.at_hand == access.can_be_asked == asked_later
    before = direct(policy, known)
    with torch.no_grad():
        for name, weight in policy.model.named_parameters():
            if "lora_B" in name:
                weight.add_(0.1)
    if asked_later:
        with access.opened(known) as reference, reference.use() as model:
            found = [[naive_logp(model, one, side) for side in (0, 1)] for one in known]
        assert found == [pytest.approx(one, abs=1e-9) for one in before] and direct(policy, known) != before


def test_base_is_the_adapter_switched_off(tmp_path: Path) -> None:
    policy = lora_policy()
    for name, weight in policy.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.constant_(weight, 0.05)
    run = reference_of(tmp_path, policy, "base")
    known, _, card = run.prove(groups_of(3), [], [])
    assert card["words"] == "the base model, adapter switched off"
    assert direct(tiny_policy(), known) == near(known)
