"""The audit on the real sets: counts that are known from elsewhere."""

from __future__ import annotations

from typing import Any

import pytest

from likelier.data.audit import Audit, audit_records
from likelier.data.load import load_preferences
from likelier.data.sources import read_rows
from tests.helpers.support import SHARED

pytestmark = pytest.mark.skipif(not SHARED.exists(), reason=f"the real data files do not lie in {SHARED}")


def audit_set(name: str, **more: Any) -> Audit:
    data = load_preferences(SHARED / name)
    return audit_records(data.train, data.unusable, name=name, format=data.format, **more)


def count(audit: Audit, name: str) -> int:
    finding = audit.finding(name)
    return finding.count if finding else 0


@pytest.mark.parametrize(("name", "repeats"), [("dpo_en_demo", 5), ("dpo_zh_demo", 11)])
def test_llama_factory_pairs_hold_exact_duplicates(name: str, repeats: int) -> None:
    audit = audit_set(f"llama-factory/{name}.json")
    assert (audit.rows, audit.usable) == (300, 300)
    assert count(audit, "exact-duplicates") == repeats
    assert not count(audit, "near-duplicates") and not count(audit, "contradictory-pairs")


def test_hh_rlhf_has_empty_answers() -> None:
    audit = audit_set("hh-rlhf/harmless-base_test.jsonl.gz")
    assert (audit.rows, audit.usable) == (2312, 2312 - 4)
    assert (count(audit, "prompts-differ"), count(audit, "empty-answer")) == (0, 4)
    lines = {place.rpartition(":")[2] for place in _places(audit, "empty-answer")}
    numbered_from_0 = (86, 516, 925, 1103)
    assert lines == {str(number + 1) for number in numbered_from_0}


def _places(audit: Audit, name: str) -> tuple[str, ...]:
    finding = audit.finding(name)
    assert finding is not None
    return finding.examples


def test_llmbar_neighbors_prefer_the_shorter_answer() -> None:
    audit = audit_set("llmbar/adversarial_neighbor.json")
    finding = audit.finding("length-bias")
    assert finding is not None and (finding.count, finding.severity) == (118, "error")
    assert (audit.rows, audit.usable) == (134, 134)
    rule = audit.statistics["length_rule"]["characters"]
    assert rule["rule"] == "the shorter one" and round(rule["rule_accuracy"], 2) == 0.88
    assert audit.finding("noise-ceiling") is None


def test_llmbar_natural_is_clean() -> None:
    audit = audit_set("llmbar/natural.json")
    assert (audit.rows, audit.usable, audit.findings) == (100, 100, ())


def test_pandalm_annotators_disagree() -> None:
    """63 distinct pairs have votes for both answers, one of them with an empty answer, which training leaves out."""
    audit = audit_set("pandalm/testset-v1.json")
    assert (audit.rows, audit.usable) == (999, 939)
    assert (count(audit, "not-text"), count(audit, "empty-answer")) == (6, 54)
    assert count(audit, "annotator-disagreement") == 63
    noise = audit.statistics["noise"]
    votes = _votes_by_pair()
    shares = [2 * a * b / ((a + b) * (a + b - 1)) for a, b in votes.values() if a + b > 1]
    assert noise["disagreement"] == pytest.approx(sum(shares) / len(shares))
    assert noise["ceilings"]["of_single_votes"] == pytest.approx(
        sum(max(pair) for pair in votes.values()) / sum(sum(pair) for pair in votes.values())
    )
    figures = (noise["disagreement"], noise["flip_rate"], noise["ceiling"], noise["ceilings"]["of_single_votes"])
    assert [round(figure, 3) for figure in figures] == [0.053, 0.027, 0.997, 0.974]


def _rows() -> list[dict[str, Any]]:
    return [dict(row) for _, row in read_rows(SHARED / "pandalm/testset-v1.json").rows]


def _votes_by_pair() -> dict[Any, tuple[int, int]]:
    found: dict[Any, tuple[int, int]] = {}
    for row in _rows():
        one, other = row["response1"], row["response2"]
        if isinstance(one, bool) or isinstance(other, bool):
            continue
        winners = [row[f"annotator{number}"] for number in (1, 2, 3)]
        key = (row["instruction"], row["input"], *sorted((one, other)))
        first = (winners.count(1), winners.count(2))
        forth = first if one < other else first[::-1]
        before = found.get(key, (0, 0))
        found[key] = (before[0] + forth[0], before[1] + forth[1])
    return {key: votes for key, votes in found.items() if sum(votes)}


def test_stackexchange_and_kto_repeat_prompts() -> None:
    stack = audit_set("stackexchange/stack_exchange_paired_tiny.json")
    assert (stack.rows, stack.statistics["prompts"]["distinct"]) == (25, 8)
    kto = load_preferences(SHARED / "llama-factory/kto_en_demo.json")
    shared = audit_set("llama-factory/dpo_en_demo.json", held_out=kto.train)
    assert count(shared, "eval-overlap") == 4


def test_qa_feedback_has_undecided_judgements() -> None:
    audit = audit_set("qa-feedback/dev_feedback.json")
    assert (audit.rows, audit.usable) == (500, 500)
    assert (audit.statistics["records"], count(audit, "undecided-pairs")) == (3000, 3000 - 2616)
