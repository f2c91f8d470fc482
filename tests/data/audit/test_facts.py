"""What one pass over the records keeps: numbers of contents, and records by what they judge."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np

from likelier.data.audit.facts import ANSWER, LABEL, PAIR, Cases, Facts, first_of_equal
from likelier.data.audit.material import Material
from likelier.data.records import Demonstration, Labelled, Pair, Record, Source

HERE = Source("a.jsonl", 1)
RECORDS: list[Record] = [
    Pair("say", "yes", "no", HERE),
    Labelled("say", "no", True, HERE),
    Demonstration("other", "yes", Source("a.jsonl", 2)),
    Pair("say", "no", "yes", Source("a.jsonl", 3), votes=(1, 1, 0)),
    Pair("say", "yes", "no", Source("a.jsonl", 4), tools="[]"),
]


def test_contents_are_numbered_as_they_first_stand() -> None:
    facts = Facts.of(RECORDS)
    assert list(facts.keys) == [(0, 1, 2), (0, 2), (3, 1), (0, 2, 1), (4, 1, 2)]
    assert facts.keys[1:3][0] == (0, 2) and len(facts.keys) == 5
    assert facts.kinds.tolist() == [PAIR, LABEL, ANSWER, PAIR, PAIR]
    assert facts.decided.tolist() == [True, False, False, False, True] and facts.votes.sum() == 1
    assert facts.lengths[:2].tolist() == [[3, 3, 2], [3, 2, -1]]
    assert len(np.unique(facts.rows)) == 4


def test_a_record_of_elsewhere_has_the_numbers_of_what_it_shares() -> None:
    material = Material(RECORDS)
    assert material.keys_of(replace(RECORDS[0], source=Source("b.jsonl", 1))) == (0, 1, 2)
    assert material.keys_of(Pair("say", "new", "yes", HERE)) == (0, 5, 1)
    assert material.keys_of(Labelled("newer", "new", False, HERE)) == (6, 5)
    assert Material([]).keys_of(RECORDS[0]) == (0, 1, 2)
    assert Material([]).pair_cases.counts.shape == (0, 2) and Material([]).rows == 0


def test_cases_are_what_a_dictionary_would_hold() -> None:
    rng = random.Random(0)
    keys = np.array([[rng.randrange(4), rng.randrange(3)] for _ in range(200)])
    sides = np.array([rng.random() < 0.5 for _ in range(200)])
    numbers = np.arange(1000, 1200)
    expected: dict[tuple[int, ...], tuple[list[int], list[int]]] = {}
    for number, key, side in zip(numbers.tolist(), keys.tolist(), sides.tolist(), strict=True):
        expected.setdefault(tuple(key), ([], []))[side].append(number)
    found = Cases(numbers, keys, sides)
    assert list(found.items()) == list(expected.items()) and len(found) == len(expected)
    assert found.counts.tolist() == [[len(one), len(other)] for one, other in expected.values()]
    only = np.arange(len(found)) == 3
    assert list(found.items(only)) == [list(expected.items())[3]] and found.prompts[3] == list(expected)[3][0]
    first = {tuple(key): number for number, key in reversed(list(enumerate(keys.tolist())))}
    assert first_of_equal(keys).tolist() == [first[tuple(key)] for key in keys.tolist()]
