"""The audit on generated sets: every seeded defect is counted, a clean set gives nothing."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from likelier.data.audit import CHECKS, Audit, audit_records
from likelier.data.audit.catalogue import CATALOGUE
from likelier.data.audit.checks import NEEDS
from likelier.data.audit.findings import SEVERITIES
from likelier.data.load import load_preferences
from likelier.data.records import Demonstration, Message, Pair, Record, Source, TokenIds
from likelier.utils.errors import ConfigError, DataError
from tests.helpers.audit_rows import UNUSABLE, clean_rows, labels, long_rows, pair, pairs, seeded_rows, text, write
from tests.helpers.support import tiny_tokenizer


def counts(audit: Audit) -> dict[str, int]:
    return {finding.name: finding.count for finding in audit.findings}


def audit_file(path: Path) -> Audit:
    data = load_preferences(path)
    return audit_records(data.train, data.unusable, name=str(path), format=data.format)


# --- whole sets ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_seeded_defect_is_counted(tmp_path: Path) -> None:
    rows, expected, held_out = seeded_rows(5000 - 20)
    rows += long_rows(apart=8, early=12)
    data = load_preferences(write(tmp_path / "seeded.jsonl", rows))
    held = load_preferences(write(tmp_path / "held.jsonl", held_out))
    audit = audit_records(data.train, data.unusable, held_out=held.train, tokenizer=tiny_tokenizer(), max_length=1000)
    found = counts(audit)
    expected |= {"over-max-length": 20, "distinguishing-part-cut": 8}
    noise = found.pop("noise-ceiling")
    assert found == expected
    # Of the rows of contradictory pairs, the best model gets one of two right, or two of three.
    assert noise == 15 + 5
    assert audit.statistics["noise"]["ceiling"] == pytest.approx(1 - 20 / len(data.train))
    assert (audit.rows, audit.usable) == (5000, 5000 - UNUSABLE)
    assert audit.severity == "error" and "eval-overlap" in audit.verdict


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_clean_set_gives_no_finding(tmp_path: Path, seed: int) -> None:
    audit = audit_file(write(tmp_path / "clean.jsonl", clean_rows(5000, seed)))
    assert audit.findings == () and audit.severity is None
    assert audit.verdict == "Clean: no check found anything."
    assert audit_records(labels(2000, seed)).findings == ()


def test_every_place_is_the_row_that_it_says(tmp_path: Path) -> None:
    one, two, three = clean_rows(3)
    turned = {"chosen": two["rejected"], "rejected": two["chosen"]}
    path = write(tmp_path / "few.jsonl", [one, two, one, three, turned])
    audit = audit_file(path)
    repeat, contradiction = audit.finding("exact-duplicates"), audit.finding("contradictory-pairs")
    assert repeat and (repeat.examples, repeat.related) == ((f"{path}:3",), (f"{path}:1",))
    assert contradiction and (contradiction.examples, contradiction.related) == ((f"{path}:5",), (f"{path}:2",))
    assert [record + 1 for record in contradiction.records] == [2, 5]


def test_records_are_left_as_they_are() -> None:
    records = [*pairs(60), *pairs(60)]
    before = list(records)
    audit_records(records)
    assert records == before


def test_nothing_to_look_at_is_an_error() -> None:
    with pytest.raises(DataError):
        audit_records([])
    with pytest.raises(ConfigError):
        audit_records(pairs(3), max_length=10)


def test_the_tables_hold_together() -> None:
    assert {check.needs for check in CHECKS} <= NEEDS.keys()
    for name, entry in CATALOGUE.items():
        assert name == name.lower() and " " not in name
        assert entry.why.endswith(".") and entry.mend.endswith(".")
        assert entry.droppable == (f"--drop {name}" in entry.mend) or name == "annotator-disagreement"
    assert SEVERITIES == ("info", "warning", "error")


# --- duplicates ----------------------------------------------------------------------------------------------------


def test_duplicates_are_counted_as_rows_that_could_go() -> None:
    a, b = pairs(2)
    other_label = replace(labels(1)[0], desirable=False)
    same = [replace(other_label, desirable=True), other_label, other_label]
    assert counts(audit_records([a, b, a, a, b]))["exact-duplicates"] == 3
    assert counts(audit_records(same))["exact-duplicates"] == 1


def test_a_tie_is_no_duplicate_of_a_decision() -> None:
    tie = replace(pairs(1)[0], votes=(1, 1, 0))
    turned, decided = replace(tie, chosen=tie.rejected, rejected=tie.chosen), replace(tie, votes=(2, 1, 0))
    finding = audit_records([tie, decided, turned, decided, tie]).finding("exact-duplicates")
    assert finding and finding.records == (2, 3, 4)


def test_the_tools_are_part_of_the_prompt() -> None:
    one = pairs(1)[0]
    assert "exact-duplicates" not in counts(audit_records([one, replace(one, tools="[]")]))


def _near(left: Pair, right: Pair) -> int:
    return counts(audit_records([left, right])).get("near-duplicates", 0)


def test_near_duplicates_must_be_near_in_every_part() -> None:
    rng = random.Random(3)
    prompt, better, worse, other = (text(rng, 40, 40) for _ in range(4))
    base = pair(1, prompt, better, worse)
    assert _near(base, pair(2, prompt.upper() + "!", better + " yes", worse)) == 1
    assert _near(base, pair(2, prompt, better, other)) == 0
    assert _near(base, pair(2, prompt, other, worse)) == 0
    assert _near(base, pair(2, other, better, worse)) == 0
    assert _near(base, pair(2, prompt, worse, better)) == 0  # turned about, it is a contradiction
    half = " ".join(better.split()[:20] + other.split()[20:])
    assert _near(base, pair(2, prompt, half, worse)) == 0


@pytest.mark.parametrize("kind", ["chinese", "tokens", "signs"])
def test_near_duplicates_in_other_kinds_of_text(kind: str) -> None:
    rng = random.Random(4)

    def content() -> str:
        if kind == "chinese":
            return "".join(chr(rng.randrange(0x4E00, 0x5E00)) for _ in range(50))
        return " ".join(str(rng.randrange(1000)) for _ in range(50)) if kind == "tokens" else "?" * rng.randint(1, 9)

    prompt, better, worse = content(), content(), "!"
    if kind == "tokens":
        left, right = (
            Pair(*(TokenIds(tuple(map(int, part.split()))) for part in (prompt, answer, "1 2")), Source("x", number))
            for number, answer in enumerate((better, better + " 5"))
        )
        assert _near(left, right) == 1
    else:
        assert _near(pair(1, prompt, better, worse), pair(2, prompt, better + "一", worse)) == (kind == "chinese")


def test_a_heap_of_near_duplicates_keeps_one() -> None:
    rng = random.Random(5)
    prompt, better, worse = (text(rng, 60, 60) for _ in range(3))
    heap: Sequence[Record] = [pair(at, prompt, f"{better} {at}", worse) for at in range(300)]
    assert counts(audit_records(heap))["near-duplicates"] == 299


# --- what has no judgement -----------------------------------------------------------------------------------------


def test_answers_without_a_judgement_are_audited_for_what_they_have() -> None:
    rows = [Demonstration(one.prompt, one.chosen, one.source) for one in pairs(50)]
    audit = audit_records([*rows, rows[0]])
    assert (audit.kind, counts(audit)) == ("answers", {"exact-duplicates": 1})


def test_prompts_that_repeat_are_no_defect() -> None:
    prompt = (Message("user", "the same"),)
    rows = [replace(one, prompt=prompt) for one in pairs(100)]
    audit = audit_records(rows)
    assert not audit.findings
    assert audit.statistics["prompts"] == {"distinct": 1, "repeated": 1, "most_rows_of_one": 100}
