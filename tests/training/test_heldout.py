"""Held-out figures against direct counts: both sides' log-ratios, KTO's baseline, each data set's share, the table."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from likelier import DPO, IPO, KTO, SFT, SimPO
from likelier.data.groups import Group
from likelier.data.mismatched import with_partners
from likelier.data.records import to_labels
from likelier.data.tokenize import tokenize_records
from likelier.objectives import Objective
from likelier.objectives.weighted_pairs import LDDPO, WPO
from likelier.scoring import attach_scorer
from likelier.training.evaluation.heldout import Evaluation, evaluate_as_reference, evaluate_groups, item_table
from tests.helpers.support import chat_pairs, labelled_rows, naive_logp, tiny_policy

MEASURES = ("rewards/accuracies", "pair_accuracy", "ranking_accuracy", "ranking_accuracy_per_token")


@pytest.fixture(scope="module")
def policy() -> Any:
    found = tiny_policy(dtype=torch.float32)
    attach_scorer(found.model, scorer="plain")
    return found


def groups_of(policy: Any, records: Sequence[Any], *, partners: bool = False) -> list[Group]:
    groups = tokenize_records(records, policy.tokenizer, max_length=256, chat=policy.chat).groups
    groups = with_partners(groups, 256) if partners else groups
    rng = random.Random(0)
    return [replace(one, ref_logps=tuple(rng.uniform(-40, -5) for _ in one.answers)) for one in groups]


def evaluated(policy: Any, objective: Objective, groups: Sequence[Group]) -> Evaluation:
    return evaluate_groups(policy.model, objective, groups, token_budget=200, device="cpu")


def logps(policy: Any, groups: Sequence[Group], side: int) -> torch.Tensor:
    return torch.tensor([naive_logp(policy.model, one, side) for one in groups], dtype=torch.double)


def ratios(policy: Any, groups: Sequence[Group], side: int) -> torch.Tensor:
    return logps(policy, groups, side) - torch.tensor([one.ref_logps[side] for one in groups])  # type: ignore[index]


def close(value: torch.Tensor | float) -> Any:
    return pytest.approx(float(value), abs=1e-3)


def test_pairs_have_the_mean_log_ratio_of_each_side(policy: Any) -> None:
    groups = groups_of(policy, chat_pairs(9))
    found = evaluated(policy, DPO(beta=0.3), groups)
    assert len(found.groups) == len(groups) == found.metrics["items"]
    for number, side in enumerate(("chosen", "rejected")):
        assert found.metrics[f"logratios/{side}"] == close(ratios(policy, groups, number).mean())
        assert found.metrics[f"rewards/{side}"] == close(0.3 * ratios(policy, groups, number).mean())
        assert found.metrics[f"logps/{side}"] == close(logps(policy, groups, number).mean())
        assert found.metrics[f"lengths/{side}"] == close(sum(len(one.answers[number]) for one in groups) / len(groups))
    bare = [replace(one, ref_logps=None) for one in groups]
    assert not any("logratios" in name or "kl" in name for name in evaluated(policy, SimPO(), bare).metrics)


def test_labelled_rows_have_those_of_each_label_and_ktos_baseline(policy: Any) -> None:
    groups = groups_of(policy, labelled_rows(10, seed=4), partners=True)
    groups = [replace(one, ref_logps=(one.ref_logps[0], one.ref_logps[1] - 120.0)) for one in groups]  # type: ignore[index]
    found = evaluated(policy, KTO(beta=0.2), groups).metrics
    own, other = ratios(policy, groups, 0), ratios(policy, groups, 1)
    good = torch.tensor([bool(one.desirable) for one in groups])
    assert found["logratios/chosen"] == close(own[good].mean())
    assert found["logratios/rejected"] == close(own[~good].mean())
    baseline = other.mean().clamp(min=0)
    assert baseline > 1 and found["baseline"] == close(baseline)
    assert found["baseline_standard_error"] == close(other.std() / len(groups) ** 0.5)
    assert not any(name.startswith("kl") for name in found)
    right = torch.where(good, own > baseline, own < baseline).double()
    assert found["rewards/accuracies"] == close(right.mean())
    assert found["rewards/margins"] == close(0.2 * (own[good].mean() - own[~good].mean()))


@pytest.mark.parametrize("objective", [DPO(beta=0.3), IPO(tau=0.1), KTO()], ids=["dpo", "ipo", "kto"])
def test_where_the_policy_is_its_reference_the_known_scores_give_the_numbers_of_a_pass(
    policy: Any, objective: Objective
) -> None:
    kto = objective.data != "pairs"
    records = to_labels(chat_pairs(7)) if kto else chat_pairs(7)
    groups = groups_of(policy, records, partners=kto)
    with torch.no_grad():
        groups = [
            replace(one, ref_logps=tuple(naive_logp(policy.model, one, side) for side in range(len(one.answers))))
            for one in groups
        ]
    passed, known = evaluated(policy, objective, groups), evaluate_as_reference(objective, groups, "cpu", torch.float32)
    assert known is not None and known.scored.logps.dtype == passed.scored.logps.dtype
    assert known.metrics.keys() == passed.metrics.keys() >= {"logps/chosen", "lengths/chosen", "items"}
    for name, value in known.metrics.items():
        if "pair_accuracy" not in name and "rewards/accuracies" not in name:  # of ties, which a pass breaks by rounding
            assert value == pytest.approx(passed.metrics[name], abs=1e-4), name
    table, expected = item_table(known, 100), item_table(passed, 100)
    assert table["source"] == expected["source"] and table.keys() == expected.keys()
    for side in table.keys() & {"chosen", "rejected", "completion"}:
        assert table[side]["logps"] == pytest.approx(expected[side]["logps"], abs=1e-3)
        assert table[side]["logps"] == table[side]["ref_logps"]


def test_scores_that_do_not_tell_all_or_come_from_elsewhere_are_no_substitute_for_a_pass(policy: Any) -> None:
    groups = groups_of(policy, chat_pairs(3))
    given = [replace(one, given_ref_logps=one.ref_logps) for one in groups]
    bare = [replace(one, ref_logps=None) for one in groups]
    for objective, own in ((DPO(), given), (DPO(), bare), (WPO(), groups), (LDDPO(), groups)):
        assert evaluate_as_reference(objective, own, "cpu", torch.float32) is None
    assert evaluate_as_reference(DPO(), groups, "cpu", torch.float32) is not None


def test_each_of_several_data_sets_has_its_own_share_and_one_alone_has_none(policy: Any) -> None:
    groups = groups_of(policy, chat_pairs(12, seed=3))
    assert not any("/one" in name for name in evaluated(policy, DPO(), groups).metrics)
    names = ["one", "two", "one", "three"] * 3
    groups = [replace(one, source=replace(one.source, data_set=name)) for one, name in zip(groups, names, strict=True)]
    found = evaluated(policy, DPO(), groups).metrics
    right = logps(policy, groups, 0) > logps(policy, groups, 1)
    for name in set(names):
        own = torch.tensor([other == name for other in names])
        assert found[f"ranking_accuracy/{name}"] == close(right[own].double().mean())
        assert {f"{measure}/{name}" for measure in MEASURES} <= set(found)


def test_a_pair_read_as_two_labels_is_ranked_as_the_pair(policy: Any) -> None:
    pairs = chat_pairs(8, seed=2)
    labelled = evaluated(policy, KTO(), groups_of(policy, to_labels(pairs), partners=True)).metrics
    whole = evaluated(policy, DPO(), groups_of(policy, pairs)).metrics
    for name in ("ranking_accuracy", "ranking_accuracy_per_token"):
        for end in ("", "_low", "_high"):
            assert labelled[name + end] == pytest.approx(whole[name + end], abs=1e-6)


def test_the_table_of_labelled_rows_holds_each_answer_beside_its_label(policy: Any) -> None:
    groups = groups_of(policy, labelled_rows(9, seed=5), partners=True)
    table = item_table(evaluated(policy, KTO(), groups[::-1]), 9)
    assert set(table) == {"source", "prompt", "label", "completion"}
    assert table["source"] == [str(one.source) for one in groups]  # in the order of the data
    assert table["label"] == [one.desirable for one in groups]
    assert table["completion"]["logps"] == pytest.approx(logps(policy, groups, 0).tolist(), abs=1e-3)
    assert table["completion"]["ref_logps"] == pytest.approx([one.ref_logps[0] for one in groups], abs=1e-4)  # type: ignore[index]
    assert table["completion"]["lengths"] == [len(one.answers[0]) for one in groups]


def test_the_table_of_rows_without_labels_has_answers_alone(policy: Any) -> None:
    rows = groups_of(policy, chat_pairs(5))
    rows = [replace(one, answers=one.answers[:1], desirable=True, ref_logps=None) for one in rows]
    found = evaluated(policy, SFT(), rows)
    table = item_table(found, 3)
    assert set(table) >= {"source", "prompt", "completion"} and table["completion"]["ref_logps"] is None
    assert len(table["source"]) == 3 and "rewards/accuracies" not in found.metrics


@pytest.mark.parametrize(("pairs", "alone", "kind"), [(4, 8, "chosen"), (4, 9, "completion"), (0, 5, "completion")])
def test_rows_are_shown_as_pairs_where_at_least_half_of_them_are(
    policy: Any, pairs: int, alone: int, kind: str
) -> None:
    records = [*to_labels(chat_pairs(pairs)), *labelled_rows(alone, seed=9)]
    moved = [replace(one, source=replace(one.source, number=n)) for n, one in enumerate(records[2 * pairs :], 100)]
    groups = groups_of(policy, [*records[: 2 * pairs], *moved], partners=True)
    table = item_table(evaluated(policy, KTO(), groups), 100)
    assert kind in table and len(table["source"]) == (pairs if kind == "chosen" else 2 * pairs + alone)
    assert ("label" in table) == (kind == "completion")
