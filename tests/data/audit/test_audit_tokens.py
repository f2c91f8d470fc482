"""What the audit says with a tokenizer or a model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from likelier.data.audit import Audit, Finding, audit_records
from likelier.data.audit.scripts import main_script
from likelier.data.records import Labelled, Message, Pair, Source, TokenIds
from likelier.data.tokenize import tokenize_records
from likelier.scoring.ranking import ModelRanker
from tests.helpers.audit_rows import labels, pair, pairs
from tests.helpers.support import CHATML, chat_pairs, naive_logp, tiny_policy, tiny_tokenizer

PROMPT = "the cat sat on the mat"


def found(audit: Audit, name: str) -> Finding:
    finding = audit.finding(name)
    assert finding is not None, [one.name for one in audit.findings]
    return finding


def audited(records: Any, max_length: int = 4096, **more: Any) -> Audit:
    return audit_records(records, tokenizer=tiny_tokenizer(), max_length=max_length, **more)


def seeded() -> list[Pair]:
    """40 short pairs, 6 with a long answer, 5 whose answers differ only at the end, 4 whose prompt is too long."""
    long, common = "right wrong " * 40, "good bad " * 40
    rows = [pair(at, f"{PROMPT} {at}", "yes", "no") for at in range(40)]
    rows += [pair(at, PROMPT, f"{at} {long}", f"no {at}") for at in range(40, 46)]
    rows += [pair(at, PROMPT, f"{common} {at}", f"{common} no {at}") for at in range(46, 51)]
    rows += [pair(at, f"{common} {at}", "yes", "no") for at in range(51, 55)]
    return rows


def test_what_a_limit_would_cut() -> None:
    rows = seeded()
    audit = audited(rows, 60)
    over, apart = found(audit, "over-max-length"), found(audit, "distinguishing-part-cut")
    assert (over.count, over.records) == (15, tuple(range(40, 55)))
    assert (apart.count, apart.records) == (9, tuple(range(46, 55)))
    groups = tokenize_records(rows, tiny_tokenizer(), max_length=10**6).groups
    longest = sorted(len(group.prompt) + max(map(len, group.answers)) for group in groups)
    assert over.details["longest"] == longest[-1]
    assert over.details["length_that_keeps"]["100%"] == longest[-1]
    assert sum(length <= over.details["length_that_keeps"]["90%"] for length in longest) >= 0.9 * len(rows)
    tokens = audit.statistics["tokens"]
    assert tokens["chosen"]["max"] == max(len(group.answers[0]) for group in groups)
    assert tokens["total"] == sum(len(group.prompt) + sum(map(len, group.answers)) for group in groups)
    names = {finding.name for finding in audited(rows, longest[-1]).findings}
    assert names == {"length-bias", "surface-bias"}  # yes and no are no accident here


def test_answers_without_an_end_and_boundaries() -> None:
    eos = tiny_tokenizer().eos_token_id
    ids = [
        Pair(TokenIds((5, 6, at)), TokenIds((7, 8, eos)), TokenIds((9, eos if at != 12 else 10)), Source("ids", at))
        for at in range(10, 14)
    ]
    finding = found(audited(ids), "missing-eos")
    assert (finding.count, finding.records, finding.severity) == (1, (2,), "error")
    merged = [Pair("the c", "at", "ar", Source("text", 1)), Pair("it was\n", "good", "bad", Source("text", 2))]
    boundary = found(audited(merged), "boundary-merges")
    assert (boundary.count, boundary.examples) == (1, ("text:1",))
    twins = [pair(1, "p", "yes", "no"), Pair(TokenIds((5,)), TokenIds((7,)), TokenIds((7,)), Source("ids", 3))]
    assert found(audited(twins), "no-tokens").examples == ("ids:3",)


def test_length_bias_in_tokens_stands_beside_that_in_characters() -> None:
    statistics = audited(pairs(60)).statistics
    assert statistics["length_rule_tokens"]["longer_wins"]["cases"] <= 60
    assert 0 <= statistics["length_rule_tokens"]["longer_wins"]["value"] <= 1


def test_labels_have_one_answer() -> None:
    audit = audited(labels(30), 10)
    assert found(audit, "over-max-length").count == 30
    assert set(audit.statistics["tokens"]) >= {"prompt", "desirable", "undesirable"}
    assert audit.finding("distinguishing-part-cut") is None


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("Hello, wörld 123", "Latin"),
        ("Привет", "Cyrillic"),
        ("你好，世界", "Chinese"),
        ("これは日本語です", "Japanese"),
        ("안녕하세요", "Korean"),
        ("שלום", "Hebrew"),
        ("नमस्ते", "Devanagari"),
        ("สวัสดี", "Thai"),
        ("123 !? 🙂", "none"),
    ],
)
def test_scripts(text: str, script: str) -> None:
    assert main_script(text) == script


def test_tokens_a_character_go_by_script() -> None:
    rows = [pair(1, "p", "the cat sat", "the dog ran"), pair(2, "p", "你好世界", "世界你好")]
    scripts = audited(rows).statistics["tokens"]["scripts"]
    assert list(scripts) == ["Latin", "Chinese"] or list(scripts) == ["Chinese", "Latin"]
    assert scripts["Chinese"]["tokens_per_character"] > 2 > scripts["Latin"]["tokens_per_character"]
    assert scripts["Latin"]["characters"] == 22 and scripts["Latin"]["answers"] == 2


def test_the_reference_ranks_a_sample() -> None:
    policy = tiny_policy()
    rows = chat_pairs(30)
    audit = audit_records(rows, ranker=ModelRanker(policy), max_length=512, score_sample=20)
    figures = audit.statistics["reference"]
    assert figures["sample"] == 20
    picked = [rows[at * 30 // 20] for at in range(20)]
    groups = tokenize_records(picked, policy.tokenizer, max_length=512).groups
    right = [naive_logp(policy.model, group, 0) > naive_logp(policy.model, group, 1) for group in groups]
    assert figures["ranking_accuracy"]["value"] == pytest.approx(sum(right) / 20)


def test_what_the_reference_finds_impossible_or_certain() -> None:
    policy = tiny_policy()
    long = " ".join(["red blue"] * 60)
    rows = [pair(at, f"{PROMPT} {at}", *(("yes", long) if at < 3 else (long, "yes"))) for at in range(8)]
    audit = audit_records(rows, ranker=ModelRanker(policy), max_length=2048, score_sample=100)
    certain, impossible = found(audit, "reference-certain"), found(audit, "reference-impossible")
    assert (certain.count, impossible.count) == (3, 5)
    assert set(impossible.examples) == {f"made.jsonl:{at}" for at in range(3, 8)}
    assert impossible.severity == "warning"
    assert audit.statistics["reference"]["ranking_accuracy"]["value"] == pytest.approx(3 / 8)
    assert not any(parameter.grad is not None for parameter in policy.model.parameters())
    assert torch.isfinite(torch.tensor(audit.statistics["reference"]["median_margin"]))


def test_a_row_that_the_template_refuses_is_named() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% if messages[0].role == 'tool' %}{{ raise_exception('no') }}{% endif %}" + CHATML
    rows = [*pairs(3), replace(pairs(1)[0], prompt=(Message("tool", "x"),), source=Source("file.jsonl", 99))]
    finding = next(
        one
        for one in audit_records(rows, tokenizer=tokenizer, max_length=99).findings
        if one.name == "template-refuses"
    )
    assert finding.count == 1 and finding.details["first"].startswith("file.jsonl:99: the chat template refuses")


def test_labels_and_the_model_do_not_meet() -> None:
    rows: list[Labelled] = labels(10)
    assert (
        "reference"
        not in audit_records(rows, ranker=ModelRanker(tiny_policy()), max_length=64, score_sample=5).statistics
    )
