"""The real data sets: each is read whole by itself, with the counts that its origin states."""

from __future__ import annotations

import json

import pytest

from likelier.data.load import PreferenceData, load_preferences
from likelier.data.records import Demonstration, Labelled, Message, Pair
from tests.helpers.support import SHARED

pytestmark = pytest.mark.skipif(not SHARED.exists(), reason=f"the real data files do not lie in {SHARED}")


def loaded(*path: str, **columns: object) -> PreferenceData:
    return load_preferences(SHARED.joinpath(*path), columns=columns or None)


def pairs_of(data: PreferenceData) -> list[Pair]:
    return [record for record in data.train if isinstance(record, Pair)]


def places(data: PreferenceData, reason: str) -> list[int]:
    return [row.source.number for row in data.unusable if row.reason == reason]


def test_pandalm_votes() -> None:
    data = loaded("pandalm", "testset-v1.json")
    pairs = pairs_of(data)
    assert data.format == "PandaLM votes" and len(pairs) + len(data.unusable) == 999
    assert data.unusable.counts() == {"empty-answer": 54, "not-text": 6}
    assert places(data, "not-text") == [number + 1 for number in (157, 158, 159, 161, 162, 164)]
    assert all(pair.votes is not None and sum(pair.votes) == 3 for pair in pairs)
    assert all(pair.votes[0] >= pair.votes[1] for pair in pairs if pair.votes)
    undecided = [pair.votes for pair in pairs if not pair.is_decided]
    assert len(undecided) == 84 and set(undecided) == {(0, 0, 3)}


def test_pandalm_votes_as_its_origin_counts_them() -> None:
    """999 records x 3 annotators: 120 not unanimous, 69 with opposite votes, 85 unanimous ties; unusable ones too."""
    rows = json.loads((SHARED / "pandalm" / "testset-v1.json").read_text(encoding="utf-8"))
    for number, row in enumerate(rows):  # every answer usable, so that every vote is read
        row |= {name: f"{name} of {number}" for name in ("response1", "response2")}
    votes = [pair.votes for pair in pairs_of(load_preferences(rows)) if pair.votes]
    assert len(votes) == 999 and sum(map(sum, votes)) == 2997
    assert sum(max(vote) < 3 for vote in votes) == 120
    assert sum(vote[0] > 0 and vote[1] > 0 for vote in votes) == 69
    assert votes.count((0, 0, 3)) == 85


def test_qa_feedback_judgements() -> None:
    data = loaded("qa-feedback", "dev_feedback.json")
    pairs = pairs_of(data)
    assert (data.format, len(data.unusable), len(pairs)) == ("QA feedback", 0, 3000)
    assert sum(pair.is_decided for pair in pairs) == 2616
    assert len({pair.source for pair in pairs}) == len({pair.prompt for pair in pairs}) == 500
    assert all(isinstance(pair.prompt, tuple) and pair.prompt[0].content.endswith("?") for pair in pairs[:60])


@pytest.mark.parametrize(("name", "count"), [("natural", 100), ("adversarial_neighbor", 134)])
def test_llmbar_pairs(name: str, count: int) -> None:
    data = loaded("llmbar", f"{name}.json")
    assert (data.format, len(data.train), len(data.unusable)) == ("LLMBar", count, 0)
    assert all(pair.votes is None for pair in pairs_of(data))


def test_in_llmbars_adversarial_pairs_the_worse_answer_is_longer() -> None:
    pairs = pairs_of(loaded("llmbar", "adversarial_neighbor.json", chat="false"))
    assert round(100 * sum(len(pair.rejected) > len(pair.chosen) for pair in pairs) / len(pairs)) == 88  # type: ignore[arg-type]


def test_stackexchange_pairs() -> None:
    data = loaded("stackexchange", "stack_exchange_paired_tiny.json")
    pairs = pairs_of(data)
    assert (data.format, len(pairs), len(data.unusable)) == ("StackExchange pairs", 25, 0)
    assert len({pair.prompt for pair in pairs}) == 8


def test_hh_rlhf_pairs() -> None:
    data = loaded("hh-rlhf", "harmless-base_test.jsonl.gz")
    assert len(data.train) + len(data.unusable) == 2312
    assert places(data, "empty-answer") == [87, 517, 926, 1104]


@pytest.mark.parametrize(("name", "duplicates"), [("dpo_en_demo", 5), ("dpo_zh_demo", 11)])
def test_llama_factory_pairs(name: str, duplicates: int) -> None:
    pairs = pairs_of(loaded("llama-factory", f"{name}.json"))
    assert len(pairs) == 300
    assert len({(pair.prompt, pair.chosen, pair.rejected) for pair in pairs}) == 300 - duplicates


def test_llama_factory_labels_and_demonstrations() -> None:
    labels = loaded("llama-factory", "kto_en_demo.json")
    thumbs = [record.desirable for record in labels.train if isinstance(record, Labelled)]
    assert (thumbs.count(True), thumbs.count(False), len(labels.unusable)) == (150, 150, 0)
    answers = loaded("llama-factory", "alpaca_en_demo.json")
    assert len(answers.train) == 999 and all(isinstance(record, Demonstration) for record in answers.train)


# --- the same with a few lines of column map -----------------------------------------------------------------------


def test_a_map_reads_what_is_recognised_by_itself() -> None:
    by_itself = loaded("pandalm", "testset-v1.json")
    mapped = loaded(
        "pandalm",
        "testset-v1.json",
        prompt=["instruction", "input"],
        first="response1",
        second="response2",
        winner=["annotator1", "annotator2", "annotator3"],
        winner_coding="1/2/0",
        chat=True,
    )
    assert mapped.train == by_itself.train and mapped.format == "two answers and a winner"


def test_a_map_changes_one_thing_of_a_known_set() -> None:
    plain = loaded("stackexchange", "stack_exchange_paired_tiny.json", chat="false")
    assert all(isinstance(record.prompt, str) for record in plain.train)
    one = loaded("pandalm", "testset-v1.json", winner="annotator1")
    assert one.format == "PandaLM votes" and sum(pair.is_decided for pair in pairs_of(one)) == 844


def test_a_system_prompt_for_a_known_set() -> None:
    rows = [{"question": "ask", "response_j": "yes", "response_k": "no", "tone": "be kind"}]
    (pair,) = load_preferences(rows, columns={"system": "tone"}).train
    assert pair.prompt == (Message("system", "be kind"), Message("user", "ask"))
