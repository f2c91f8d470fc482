"""One case, one interval: six pairs over two prompts, all right, wherever the product says how sure it is."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from likelier import SimPO
from likelier.data.audit.scores import reference_checks
from likelier.data.groups import Group
from likelier.data.records import Pair
from likelier.data.tokenize import tokenize_records
from likelier.insight.compare.paired import compare_pairs
from likelier.insight.compare.subjects import read_comparison
from likelier.insight.diagnose.items import items_of
from likelier.runs.evaluations import NO_DETAIL, Detail
from likelier.scoring import attach_scorer
from likelier.scoring.implicit_rewards import summarize
from likelier.training.evaluation.heldout import Evaluation, evaluate_groups
from tests.helpers.support import chat_pairs, tiny_policy
from tests.insight.test_compare import make_run

HONEST = pytest.approx((1.0, 0.609666, 1.0), abs=1e-6)  # Wilson's interval of 6 of 6
PROMPTS = [0, 0, 0, 1, 1, 1]


@pytest.fixture(scope="module")
def policy() -> Any:
    found = tiny_policy(dtype=torch.float32)
    attach_scorer(found.model, scorer="plain")
    return found


@pytest.fixture(scope="module")
def records(policy: Any) -> list[Pair]:
    """Of each pair the likelier answer is the chosen one."""
    one, other = chat_pairs(2)
    rows = [row for row in (one, other) for _ in range(3)]
    held = evaluated(policy, rows)
    chosen = held.scored.logps[held.scored.items.pairs[:, 0]] > held.scored.logps[held.scored.items.pairs[:, 1]]  # type: ignore[index]
    right = {str(group.source): bool(is_right) for group, is_right in zip(held.groups, chosen, strict=True)}
    return [row if right[str(row.source)] else swapped(row) for row in rows]


def swapped(row: Pair) -> Pair:
    return Pair(row.prompt, row.rejected, row.chosen, row.source)


def groups_of(policy: Any, records: list[Pair]) -> list[Group]:
    return tokenize_records(records, policy.tokenizer, max_length=256, chat=policy.chat).groups


def evaluated(policy: Any, records: list[Pair]) -> Evaluation:
    return evaluate_groups(policy.model, SimPO(), groups_of(policy, records), token_budget=4096, device="cpu")


def test_evaluation(policy: Any, records: list[Pair]) -> None:
    found = evaluated(policy, records).metrics
    assert tuple(found[f"ranking_accuracy{end}"] for end in ("", "_low", "_high")) == HONEST


def test_audit(policy: Any, records: list[Pair]) -> None:
    ranker = SimpleNamespace(words="m", margins=lambda groups: np.ones((len(groups), 2)))
    material: Any = SimpleNamespace(
        records=records, decided=np.arange(6), sample=6, chat=policy.chat, tokenizer=policy.tokenizer, max_length=256
    )
    material.ranker = ranker
    found = reference_checks(material)[1]["reference"]["ranking_accuracy"]
    assert tuple(found[name] for name in ("value", "low", "high")) == HONEST


def test_score(policy: Any, records: list[Pair]) -> None:
    sides = {"chosen": {"logp": -1.0, "reward": 1.0}, "rejected": {"logp": -2.0, "reward": 0.0}}
    text = summarize([{**sides, "correct": True}] * 6, groups_of(policy, records), 0.1)
    assert re.findall(r"^(\w+) accuracy +(.+?)   ", text, re.MULTILINE) == [
        ("reward", "100.0% [61.0%, 100.0%]"),
        ("ranking", "100.0% [61.0%, 100.0%]"),
    ]


def test_compare(tmp_path: Path) -> None:
    """The distances to Wilson's limits of both runs, 0.39 each, with their squares added."""
    before, after = (make_run(tmp_path / name, right=[name == "b"] * 6, prompts=PROMPTS) for name in "ab")
    comparison = read_comparison([before, after])
    found = compare_pairs(comparison.subjects, comparison.subjects[0])[0]
    assert (found.prompts, found.difference, found.high) == (2, 1.0, 1.0)
    assert found.low == pytest.approx(1 - 2**0.5 * (1 - 0.609666), abs=1e-6)


def test_diagnosis() -> None:
    sides = {
        side: {"logps": [logp] * 6, "ref_logps": [-2.0] * 6} for side, logp in (("chosen", -1.0), ("rejected", -3))
    }
    items = items_of(NO_DETAIL, Detail(1, items={"prompt": PROMPTS, **sides}))
    assert items is not None
    found = items.share([margin > 0 for margin in items.margins], [True] * 6)
    assert (found.value, found.low, found.high) == HONEST
