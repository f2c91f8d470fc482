"""The audit's figures against counts by hand: duplicates, noise, shortcuts."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from likelier.data.audit import Audit, audit_records
from likelier.data.audit.noise import Votes
from likelier.data.records import Labelled, Message, Pair, Record, Source
from likelier.utils.statistics import chance_above, flip_rate, histogram, share_of, summary
from tests.helpers.audit_rows import labels, pair, pairs, text

# --- duplicates ----------------------------------------------------------------------------------------------------


def names(records: list[Any]) -> set[str]:
    return {finding.name for finding in audit_records(records).findings}


def rows_of(records: list[Any], name: str) -> tuple[int, ...]:
    return next((finding.records for finding in audit_records(records).findings if finding.name == name), ())


def nearly(record: Record, number: int) -> Record:
    """The same with one word more at the end of its last answer."""
    source = Source("made.jsonl", number)
    if isinstance(record, Pair):
        return replace(record, rejected=longer(record.rejected), source=source)
    return replace(record, answer=longer(record.answer), source=source)


def longer(answer: Any) -> tuple[Message, ...]:
    return (Message("assistant", f"{answer[0].content} also"),)


@pytest.mark.parametrize("up", [True, False])
def test_nearly_the_same_answer_with_the_other_label_is_no_duplicate(up: bool) -> None:
    rows = [replace(one, desirable=up) for one in labels(12)]
    assert not names(rows) & {"near-duplicates", "exact-duplicates"}
    again = nearly(rows[3], 100)
    assert isinstance(again, Labelled)
    assert rows_of([*rows, again], "near-duplicates") == (12,)
    assert rows_of([*rows, replace(again, desirable=not up)], "near-duplicates") == ()
    same = replace(rows[3], source=Source("made.jsonl", 101))
    assert rows_of([*rows, same], "exact-duplicates") == (12,)
    turned = [*rows, replace(same, desirable=not up)]
    assert not names(turned) & {"near-duplicates", "exact-duplicates"} and "contradictory-labels" in names(turned)


def test_a_pair_is_near_only_part_by_part_and_judged_alike() -> None:
    rows = pairs(12)
    again = nearly(rows[5], 100)
    assert isinstance(again, Pair)
    assert rows_of([*rows, again], "near-duplicates") == (12,)
    others = {
        "turned round": replace(again, chosen=again.rejected, rejected=again.chosen),
        "another prompt": replace(again, prompt=rows[6].prompt),
        "another answer": replace(again, chosen=rows[6].chosen),
        "undecided": replace(again, votes=(1, 1, 0)),
        "the same row of the file": replace(again, source=rows[5].source),
    }
    for why, other in others.items():
        assert rows_of([*rows, other], "near-duplicates") == (), why


def test_the_first_of_each_stays_and_every_later_one_is_named() -> None:
    rows: list[Pair] = pairs(6)
    again = [replace(rows[at], source=Source("made.jsonl", 50 + at)) for at in (0, 0, 3)]
    assert rows_of([*rows, *again], "exact-duplicates") == (6, 7, 8)
    ties = [replace(one, votes=(2, 2, 0)) for one in rows]
    turned = replace(ties[1], chosen=ties[1].rejected, rejected=ties[1].chosen, source=Source("made.jsonl", 60))
    assert rows_of([*ties, turned], "exact-duplicates") == (6,)  # undecided: either way round
    assert rows_of([*rows, replace(turned, votes=None)], "exact-duplicates") == ()


def test_a_row_goes_only_where_one_that_stays_is_near() -> None:
    """The first is near the second and the second near the third, but not the first near the third."""
    words = text(random.Random(7), 80, 80).split()
    answers = [" ".join(words[cut:] + [f"new{at}" for at in range(cut)]) for cut in (0, 6, 12)]
    rows = [pair(n, "p", answer, f"{'other ' * 30}{answer}") for n, answer in enumerate(answers, 1)]
    prompt, rejected = rows[0].prompt, rows[0].rejected
    rows = [replace(row, prompt=prompt, rejected=rejected) for row in rows]
    assert rows_of(rows[:2], "near-duplicates") == (1,) == rows_of(rows[1:], "near-duplicates")
    assert rows_of([rows[0], rows[2]], "near-duplicates") == () and rows_of(rows, "near-duplicates") == (1,)


# --- noise ---------------------------------------------------------------------------------------------------------


def noise_of(records: list[Any]) -> dict[str, Any]:
    return audit_records(records).statistics["noise"]


def voted(votes: list[tuple[int, int]]) -> list[Pair]:
    """Pairs with these votes for the chosen and the rejected answer, half of them with the answers' numbers swapped."""
    rows = []
    for number, (forth, back) in enumerate(votes):
        answers = ("zz", "aa") if number % 2 else ("aa", "zz")
        rows.append(
            pair(number + 1, f"prompt {number}", f"{answers[0]} {number}", f"{answers[1]} {number}", (forth, back, 0))
        )
    return rows


def test_disagreement_is_the_share_of_two_votes_that_differ() -> None:
    for one, other in itertools.product(range(6), repeat=2):
        votes = [True] * one + [False] * other
        drawn = [a != b for a, b in itertools.combinations(votes, 2)]
        expected = pytest.approx(np.mean(drawn)) if drawn else None
        assert Votes(one, other).disagreement == expected


@pytest.mark.parametrize("votes", [[(3, 2), (5, 0), (4, 1)], [(2, 1), (2, 0), (1, 0), (7, 3)]])
def test_the_noise_of_votes_is_what_counting_them_gives(votes: list[tuple[int, int]]) -> None:
    found = noise_of(voted(votes))
    twice = [case for case in votes if sum(case) > 1]
    disagreement = np.mean([2 * up * down / (sum(case) * (sum(case) - 1)) for case in twice for up, down in [case]])
    assert found["from"] == "votes" and found["judgements"] == sum(map(sum, votes)) and found["cases"] == len(votes)
    assert found["judged_twice"] == len(twice) and found["both_ways"] == sum(min(case) > 0 for case in votes)
    assert found["disagreement"] == pytest.approx(disagreement)
    rate = found["flip_rate"]
    assert 2 * rate * (1 - rate) == pytest.approx(disagreement)
    limits = found["ceilings"]
    assert limits["of_single_votes"] == pytest.approx(sum(map(max, votes)) / sum(map(sum, votes)))
    assert limits["of_one_annotator"] == pytest.approx(1 - rate)
    assert limits["if_few_are_coin_tosses"] == pytest.approx(1 - disagreement)
    likely = [(1 - rate) ** (a - b) / ((1 - rate) ** (a - b) + rate ** (a - b)) for a, b in votes]
    assert found["ceiling"] == pytest.approx(min(float(np.mean(likely)), limits["of_rows"]))


def test_the_noise_of_repeated_rows_is_what_counting_them_gives() -> None:
    one, other, third = pairs(3)
    turned = replace(one, chosen=one.rejected, rejected=one.chosen)
    rows = [one, one, one, turned, other, other, third]
    rows = [replace(row, source=Source("made.jsonl", number)) for number, row in enumerate(rows, 1)]
    found = noise_of(rows)
    assert (found["from"], found["judgements"], found["cases"], found["judged_twice"]) == ("repeated rows", 7, 3, 2)
    assert found["both_ways"] == 1 and found["disagreement"] == pytest.approx((0.5 + 0) / 2)
    assert found["ceiling"] == found["ceilings"]["of_rows"] == pytest.approx(6 / 7)
    assert set(found["ceilings"]) == {"of_rows"}
    thumbs = labels(2)
    both = [thumbs[0], replace(thumbs[0], desirable=not thumbs[0].desirable, source=Source("x", 9)), thumbs[1]]
    assert noise_of(both)["ceiling"] == pytest.approx(2 / 3)


def test_votes_on_one_case_are_added_up_whichever_way_its_rows_stand() -> None:
    one = pair(1, "p", "aa", "zz", (3, 1, 1))
    turned = replace(one, chosen=one.rejected, rejected=one.chosen, votes=(2, 1, 0), source=Source("made.jsonl", 2))
    for rows in ([one, turned], [turned, one]):
        found = noise_of(rows)
        assert (found["cases"], found["judgements"], found["ties"], found["both_ways"]) == (1, 7, 1, 1)
        assert found["disagreement"] == Votes(3 + 1, 1 + 2).disagreement
        assert found["ceilings"]["of_single_votes"] == pytest.approx(4 / 7)


def test_flips_beyond_one_half_are_coin_tosses() -> None:
    assert flip_rate(0.0) == 0 and flip_rate(0.5) == flip_rate(0.9) == 0.5


# --- shortcuts -----------------------------------------------------------------------------------------------------


def of_lengths(pairs_of: list[tuple[int, int]], prompts: int | None = None) -> list[Pair]:
    rng = random.Random(0)
    rows = []
    for number, (chosen, rejected) in enumerate(pairs_of):
        prompt = f"prompt {number if prompts is None else number % prompts}"
        sides = ("".join(rng.choices("abcdefgh ", k=size - 1)) + "x" for size in (chosen, rejected))
        rows.append(pair(number + 1, prompt, *sides))
    return rows


def length_rule(audit: Audit) -> dict[str, Any]:
    return audit.statistics["length_rule"]["characters"]


def test_the_length_rule_of_pairs_counts_pairs_of_unequal_answers() -> None:
    lengths = [(30, 20)] * 45 + [(20, 30)] * 15 + [(25, 25)] * 40
    found = length_rule(audit_records(of_lengths(lengths)))
    expected = share_of(np.array([1.0] * 45 + [0.0] * 15), np.arange(60))
    assert found["longer_wins"] == expected.as_json() and expected.cases == 60
    assert found["rule"] == "the longer one" and found["rule_accuracy"] == pytest.approx((45 + 20) / 100)
    assert (found["mean_preferred"], found["mean_other"]) == (26.5, 23.5)
    turned = length_rule(audit_records(of_lengths([(b, a) for a, b in lengths])))
    assert turned["rule"] == "the shorter one" and turned["rule_accuracy"] == found["rule_accuracy"]
    assert turned["rank_correlation"] == pytest.approx(-found["rank_correlation"]) and found["rank_correlation"] > 0


def test_the_length_rule_of_few_prompts_is_less_sure() -> None:
    lengths = [(30, 20) if number % 5 < 3 else (20, 30) for number in range(300)]
    alone, shared = (length_rule(audit_records(of_lengths(lengths, prompts))) for prompts in (None, 5))
    assert alone["longer_wins"]["value"] == shared["longer_wins"]["value"] == pytest.approx(0.6)
    width = [one["longer_wins"]["high"] - one["longer_wins"]["low"] for one in (alone, shared)]
    assert width[1] > 4 * width[0]  # each of the five prompts is wholly one way
    assert "length-bias" in {one.name for one in audit_records(of_lengths(lengths)).findings}
    assert "length-bias" not in {one.name for one in audit_records(of_lengths(lengths, 5)).findings}


def test_the_length_rule_of_labels_is_the_chance_that_a_good_answer_is_longer() -> None:
    rng = random.Random(1)
    sizes = [rng.randint(10, 40) for _ in range(80)]
    ups = [size + rng.randint(-8, 8) > 24 for size in sizes]
    rows = [
        Labelled((Message("user", f"p{n}"),), (Message("assistant", "x" * size),), up, Source("m", n))
        for n, (size, up) in enumerate(zip(sizes, ups, strict=True), 1)
    ]
    found = length_rule(audit_records(rows))
    wins = [
        (a > b) + (a == b) / 2
        for a, up in zip(sizes, ups, strict=True)
        if up
        for b, other in zip(sizes, ups, strict=True)
        if not other
    ]
    assert found["longer_wins"]["value"] == pytest.approx(np.mean(wins)) and found["rule_accuracy"] == pytest.approx(
        np.mean(wins)
    )
    assert found["longer_wins"] == chance_above(np.array(sizes), np.array(ups)).as_json()
    middle = np.median(sizes)
    assert found["rows_right"] == sum((size > middle) == up for size, up in zip(sizes, ups, strict=True))


@pytest.mark.parametrize("longer", [True, False])
def test_the_length_rule_of_labels_is_told_the_right_way_round(longer: bool) -> None:
    """Of 61 answers one is as long as the middle one: it counts as no longer than usual."""
    rows = [
        Labelled(
            (Message("user", f"p{n}"),), (Message("assistant", "x" * (n + 10)),), (n > 40) is longer, Source("m", n)
        )
        for n in range(1, 62)
    ]
    audit = audit_records(rows)
    found = length_rule(audit)
    assert found["rule_accuracy"] == 1.0 and found["longer_wins"]["value"] == float(longer)
    assert found["rows_right"] == sum(((n > 31) is longer) == ((n > 40) is longer) for n in range(1, 62)) == 52
    (finding,) = (one for one in audit.findings if one.name == "length-bias")
    assert f"the {'longer' if longer else 'shorter'} answer by characters is preferred in 100.0%" in finding.summary
    assert finding.severity == "error" and finding.count == 52
    assert (found["mean_preferred"] > found["mean_other"]) is longer and (found["rank_correlation"] > 0) is longer


def test_the_shorter_answer_is_told_with_its_own_share() -> None:
    lengths = [(20, 30)] * 70 + [(30, 20)] * 30
    (finding,) = (one for one in audit_records(of_lengths(lengths)).findings if one.name == "length-bias")
    assert "the shorter answer by characters is preferred in 70.0%" in finding.summary and finding.count == 70
    assert finding.severity == "warning"


def test_no_rule_is_told_of_few_rows() -> None:
    assert "length-bias" not in names(of_lengths([(30, 20)] * 49)) and "length-bias" in names(
        of_lengths([(30, 20)] * 50)
    )


def test_words_that_tell_are_held_out_by_prompt() -> None:
    rng = random.Random(2)
    rows = [pair(n + 1, f"p{n}", f"sure {text(rng)}", f"never {text(rng)}") for n in range(60)]
    (finding,) = (one for one in audit_records(rows).findings if one.name == "surface-bias")
    assert finding.count == 60 and finding.severity == "error"
    figures = audit_records(rows).statistics["surface_rule"]
    assert figures["sample"] == 60 and figures["words"]["value"] == 1.0 and figures["words"]["cases"] == 60
    few = [replace(row, prompt=rows[n % 2].prompt) for n, row in enumerate(rows)]
    assert "surface_rule" not in audit_records(few).statistics  # two prompts cannot be cut in three


def test_words_that_say_nothing_are_ties() -> None:
    """Both answers of a pair have the same words: neither is told from the other, which is half right."""
    rng = random.Random(3)
    rows = []
    for number in range(60):
        words = text(rng, 12, 12).split()
        rows.append(pair(number + 1, f"p{number}", f"so {' '.join(words)}", f"so {' '.join(words[::-1])}"))
    figures = audit_records(rows).statistics["surface_rule"]
    assert figures["words"]["value"] == figures["first_word"]["value"] == 0.5
    assert "surface-bias" not in names(rows)


# --- figures -------------------------------------------------------------------------------------------------------


def test_a_summary_is_numpys_and_a_histogram_counts_each_value_once() -> None:
    values = np.random.default_rng(0).integers(0, 500, 1000)
    found = summary(values)
    expected = {"p5": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "p99": 0.99}
    assert all(found[name] == pytest.approx(np.quantile(values, at), abs=0.006) for name, at in expected.items())
    assert (found["count"], found["min"], found["max"]) == (1000, values.min(), values.max())
    assert found["mean"] == pytest.approx(values.mean(), abs=0.006)
    bars = histogram(values, values[:100])
    edges = bars["edges"]
    assert 20 <= len(edges) - 1 <= 24 and len({b - a for a, b in itertools.pairwise(edges)}) == 1 and edges[0] == 0
    for counts, own in zip(bars["counts"], (values, values[:100]), strict=True):
        by_hand = Counter(min(int(value) // edges[1], len(edges) - 2) for value in own)
        assert counts == [by_hand[place] for place in range(len(edges) - 1)]
