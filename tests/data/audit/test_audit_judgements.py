"""Contradictions, circles, annotators, shortcuts and balance, each on rows made for it."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import softplus

from likelier.data.audit import Audit, Finding, audit_records
from likelier.data.audit.words import _fit, _Rows, word_table
from likelier.data.records import Labelled, Message, Pair, Source, Unusable
from likelier.utils.statistics import (
    Share,
    chance_above,
    flip_rate,
    histogram,
    rank_correlation,
    ranks,
    share_of,
    summary,
    wilson,
)
from tests.helpers.audit_rows import labels, pair, pairs, text
from tests.helpers.support import clustered, clustered_error


def found(audit: Audit, name: str) -> Finding:
    finding = audit.finding(name)
    assert finding is not None, [one.name for one in audit.findings]
    return finding


def names(audit: Audit) -> set[str]:
    return {finding.name for finding in audit.findings}


# --- contradictions ------------------------------------------------------------------------------------------------


def test_contradictory_pairs_are_distinct_pairs_and_the_minority_goes() -> None:
    rows = [pair(1, "p", "a", "b"), pair(2, "p", "b", "a"), pair(3, "p", "a", "b"), pair(4, "q", "b", "a")]
    rows += [pair(5, "r", "a", "b"), pair(6, "r", "b", "a")]
    finding = found(audit_records(rows), "contradictory-pairs")
    assert (finding.count, finding.records) == (2, (1, 4, 5))
    assert finding.details == {"rows": 5, "share": 2 / 3, "minority_share": 2 / 5}


def test_contradictory_labels() -> None:
    one, two = labels(2)
    thumbs = [replace(one, desirable=up) for up in (True, True, False)] + [replace(two, desirable=True)]
    finding = found(audit_records(thumbs), "contradictory-labels")
    assert (finding.count, finding.records) == (1, (2,))


@pytest.mark.parametrize(
    ("edges", "circles"),
    [
        ("ab bc ca", 1),
        ("ab bc ac", 0),
        ("ab bc cd da", 1),
        ("ab bc ca cd de ec", 2),
        ("ab ba bc ca", 0),  # a and b are tied
        ("ab ab ba bc ca", 1),  # two of three prefer a to b
        ("ab bc ca ad dc", 1),  # c, a is in both circles
    ],
)
def test_circles_share_no_judgement(edges: str, circles: int) -> None:
    rows = [pair(at, "p", better, worse) for at, (better, worse) in enumerate(edges.split(), 1)]
    rows += [pair(9, "q", "c", "a")]  # another prompt's preferences do not close a circle
    audit = audit_records(rows)
    assert (audit.finding("intransitive-cycles") or Finding("x", 0, "info", "")).count == circles


# --- votes ---------------------------------------------------------------------------------------------------------


def test_the_flip_rate_comes_from_how_often_two_votes_differ() -> None:
    rows = [pair(at, f"p{at}", "a", "b", (3, 0, 0) if at % 2 else (2, 1, 0)) for at in range(100)]
    audit = audit_records(rows)
    noise = audit.statistics["noise"]
    assert noise["disagreement"] == pytest.approx((0 + 2 / 3) / 2)
    rate = (1 - math.sqrt(1 - 2 / 3)) / 2
    assert noise["flip_rate"] == pytest.approx(rate)
    assert noise["ceilings"]["of_single_votes"] == pytest.approx(5 / 6)
    sure, unsure = ((1 - rate) ** m / ((1 - rate) ** m + rate**m) for m in (3, 1))
    assert noise["ceiling"] == pytest.approx((sure + unsure) / 2)
    finding = found(audit, "annotator-disagreement")
    assert (finding.count, finding.severity) == (50, "warning")
    assert (finding.details["share"], finding.details["minority_share"]) == (1 / 2, 1 / 3)
    assert f"--flip-probability {rate:.3g}" in finding.mend
    assert found(audit, "noise-ceiling").count == round(100 * (1 - noise["ceiling"]))


def test_the_flip_rate_is_the_one_that_made_the_votes() -> None:
    rng = random.Random(0)
    rows = []
    for at in range(4000):
        wrong = sum(rng.random() < 0.15 for _ in range(5))
        up, down = max(wrong, 5 - wrong), min(wrong, 5 - wrong)
        rows.append(pair(at, f"p{at}", "a" if wrong < 3 else "b", "b" if wrong < 3 else "a", (up, down, 0)))
    noise = audit_records(rows).statistics["noise"]
    assert noise["flip_rate"] == pytest.approx(0.15, abs=0.01)
    truth = np.mean([row.chosen[0].content == "a" for row in rows])  # type: ignore[union-attr]
    assert noise["ceiling"] == pytest.approx(float(truth), abs=0.005)


def test_votes_on_one_pair_in_several_rows_are_counted_together() -> None:
    rows = [pair(1, "p", "a", "b", (1, 0, 0)), pair(2, "p", "b", "a", (1, 0, 0)), pair(3, "q", "a", "b", (2, 0, 1))]
    audit = audit_records(rows)
    assert found(audit, "annotator-disagreement").records == (0, 1)
    assert audit.statistics["noise"]["judgements"] == 4 and audit.statistics["noise"]["ties"] == 1


def test_votes_on_rows_set_aside_tell_of_the_annotators() -> None:
    rows, aside = [pair(1, "p", "a", "b", (3, 0, 0))], pair(2, "q", "a", "", (2, 1, 0))
    left_out = Unusable(aside.source, "empty-answer", record=aside)
    finding = found(audit_records(rows, [left_out]), "annotator-disagreement")
    assert (finding.count, finding.records, finding.examples) == (1, (), ("made.jsonl:2",))


def test_undecided_pairs_prefer_nothing() -> None:
    rows = [replace(one, votes=(1, 1, 1)) for one in pairs(60)]
    audit = audit_records([*rows, *(replace(one, votes=(1, 1, 0)) for one in rows[:3])])
    assert found(audit, "undecided-pairs").count == 63
    assert "length_rule" not in audit.statistics and "contradictory-pairs" not in names(audit)


def test_without_repeated_judgements_nothing_is_known_of_the_noise() -> None:
    assert "noise" not in audit_records(pairs(20)).statistics


# --- shortcuts -----------------------------------------------------------------------------------------------------


def _with_lengths(count: int, longer: int) -> list[Pair]:
    rng = random.Random(1)
    rows = []
    for at in range(count):
        long, short = text(rng, 30, 40), text(rng, 15, 25)
        rows.append(pair(at, text(rng), *((long, short) if at < longer else (short, long))))
    return rows


@pytest.mark.parametrize(("longer", "severity"), [(900, "error"), (650, "warning"), (570, "info"), (100, "error")])
def test_length_bias_says_which_length_wins_and_how_often(longer: int, severity: str) -> None:
    audit = audit_records(_with_lengths(1000, longer))
    finding, rule = found(audit, "length-bias"), audit.statistics["length_rule"]["characters"]
    assert (finding.severity, finding.count) == (severity, max(longer, 1000 - longer))
    assert rule["longer_wins"]["value"] == longer / 1000
    assert rule["rule_accuracy"] == max(longer, 1000 - longer) / 1000
    assert (rule["rank_correlation"] > 0) == (longer > 500)
    assert f"the {'longer' if longer > 500 else 'shorter'} answer" in finding.summary


def test_length_bias_of_labels_compares_a_good_answer_with_a_bad_one() -> None:
    rng = random.Random(2)
    rows = [
        Labelled((Message("user", text(rng)),), (Message("assistant", text(rng, *size)),), up, Source("f", at))
        for at, (up, size) in enumerate([(True, (30, 40)), (False, (10, 20))] * 100)
    ]
    audit = audit_records(rows)
    assert found(audit, "length-bias").severity == "error"
    assert audit.statistics["length_rule"]["characters"]["longer_wins"]["value"] > 0.99


def test_a_stock_phrase_is_a_surface_bias() -> None:
    rng = random.Random(3)

    def phrased(at: int, one: Pair) -> Pair:
        assert isinstance(one.chosen, tuple)
        begin = "certainly " if at < 600 else f"{text(rng, 1, 1)} "
        return replace(one, chosen=(Message("assistant", begin + one.chosen[0].content),))

    rows = [phrased(at, one) for at, one in enumerate(pairs(1000, 7))]
    audit = audit_records(rows, show=True)
    finding = found(audit, "surface-bias")
    assert finding.severity == "warning" and 0.7 < audit.statistics["surface_rule"]["first_word"]["value"] < 0.9
    assert "certainly" in finding.quotes[0]
    hidden = found(audit_records(rows), "surface-bias")
    assert not hidden.quotes and "certainly" not in str(hidden.as_json())


def test_a_surface_bias_of_labels() -> None:
    def marked(one: Labelled) -> Labelled:
        assert isinstance(one.answer, tuple)
        return replace(
            one, answer=(Message("assistant", one.answer[0].content + (" sorry" if not one.desirable else "")),)
        )

    finding = found(audit_records([marked(one) for one in labels(600)]), "surface-bias")
    assert finding.severity == "error" and finding.count > 550


def test_the_first_word_is_a_rule_where_all_answers_begin_with_known_words() -> None:
    rng = random.Random(5)
    rows = [
        pair(at, text(rng), f"{good} {text(rng, 9, 9)}", f"{bad} {text(rng, 9, 9)}")
        for at in range(300)
        for good, bad in [("yes", "no") if rng.random() < 0.8 else ("no", "yes")]
    ]
    right = sum(one.chosen[0].content.startswith("yes") for one in rows) / 300  # type: ignore[union-attr]
    assert audit_records(rows).statistics["surface_rule"]["first_word"]["value"] == pytest.approx(right)


@pytest.mark.slow
@pytest.mark.parametrize("paired", [True, False])
def test_the_words_are_weighed_as_a_full_optimizer_would(paired: bool) -> None:
    rng = np.random.default_rng(0)
    count, texts = 200, 400 if paired else 200
    table = word_table([" ".join(f"w{number}" for number in rng.integers(0, 40, 12)) for _ in range(texts)])
    present = np.zeros((texts, len(table.words)))
    present[np.repeat(np.arange(texts), np.diff(table.offsets)), table.features] = 1
    matrix = torch.tensor(present[0::2] - present[1::2] if paired else present)
    signs = np.ones(count) if paired else np.where(rng.random(count) < 0.7, 1.0, -1.0)
    seen = np.arange(count) < 150
    weights, constant = _fit(_Rows.of(table, paired=paired), signs, seen)

    def objective(values: torch.Tensor) -> torch.Tensor:
        scores = torch.tensor(signs) * (matrix @ values[:-1] + values[-1] * (not paired))
        return softplus(-scores)[torch.tensor(seen)].mean() + values[:-1].square().sum() / (2 * 0.1 * seen.sum())

    best = torch.zeros(len(table.words) + 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([best], max_iter=500, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = objective(best)
        loss.backward()
        return loss

    optimizer.step(closure)
    reached = objective(torch.tensor(np.append(weights, constant)))
    assert float(reached) == pytest.approx(float(objective(best.detach())), abs=1e-4)


def test_a_shortcut_must_hold_on_prompts_that_were_not_seen() -> None:
    """Every prompt has its own favourite words, repeated in all of its pairs: learned by heart, of no use elsewhere."""
    rng = random.Random(4)
    rows = []
    for at in range(60):
        good, bad = text(rng, 20, 20), text(rng, 20, 20)
        for turn in range(5):
            mixed = (" ".join(rng.sample(words.split(), 20)) for words in (good, bad))
            rows.append(pair(5 * at + turn, f"prompt {at}", *mixed))
    assert "surface-bias" not in names(audit_records(rows))


# --- balance and overlap -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "severity", "mend"),
    [
        (0.2, "info", "--desirable-weight 4,"),
        (0.95, "warning", "--undesirable-weight 19,"),
        (1.0, "error", "sft"),
        (0.4, None, ""),
    ],
)
def test_label_balance(share: float, severity: str | None, mend: str) -> None:
    audit = audit_records(labels(1000, share=share))
    assert audit.statistics["label_balance"]["share_desirable"] == share
    finding = audit.finding("label-balance")
    assert (finding.severity if finding else None) == severity
    if finding:
        assert mend in finding.mend and finding.count == round(1000 * min(share, 1 - share))


def test_an_evaluation_file_that_shares_prompts() -> None:
    rows = pairs(20)
    assert isinstance(rows[0].prompt, tuple)
    plain = Pair(rows[0].prompt[0].content.upper() + "\n", "x", "y", Source("held.csv", 7))
    audit = audit_records(rows, held_out=[plain, rows[3], *pairs(5, seed=9)])
    finding = found(audit, "eval-overlap")
    assert (finding.count, finding.severity, finding.records) == (2, "error", (0, 3))
    assert finding.related[0] == "held.csv:7"
    assert finding.details == {"prompts": 2, "evaluation_rows": 2, "same_rows": 1}
    assert "eval-overlap" not in names(audit_records(rows, held_out=pairs(5, seed=9)))


# --- statistics ----------------------------------------------------------------------------------------------------


@given(st.floats(0, 0.5))
def test_the_flip_rate_undoes_the_disagreement(rate: float) -> None:
    assert flip_rate(2 * rate * (1 - rate)) == pytest.approx(rate, abs=1e-7)


def test_a_share_over_prompts_is_less_sure_than_over_rows() -> None:
    """By what drawing whole prompts gives, however unequal they are."""
    sizes, sums = clustered(300, seed=1)
    right = np.concatenate([np.arange(size) < own for size, own in zip(sizes, sums, strict=True)]).astype(float)
    numbers = np.repeat(np.arange(len(sizes)), sizes)
    rows, prompts = share_of(right, np.arange(len(right))), share_of(right, numbers)
    mean, error = sum(sums) / sum(sizes), clustered_error(sizes, sums)
    assert rows.value == prompts.value == pytest.approx(mean)
    assert (rows.low, rows.high) == wilson(sum(sums), len(right))
    assert (prompts.low, prompts.high) == pytest.approx((mean - 1.96 * error, mean + 1.96 * error), abs=0.15 * error)
    assert prompts.high - prompts.low > 2 * (rows.high - rows.low)


def test_a_handful_of_prompts_is_no_surer_than_its_rows() -> None:
    right = np.repeat(np.random.default_rng(0).random(40) < 0.6, 10).astype(float)
    rows, one = share_of(right, np.arange(400)), share_of(right, np.zeros(400))
    assert (one.low, one.high) == (rows.low, rows.high)  # every draw of one prompt is the same
    halves = share_of(np.tile([1.0, 0.0], 200), np.repeat(np.arange(2), 200))
    assert (halves.low, halves.high) == wilson(200, 400)  # nor do two that are alike vary
    assert share_of(np.empty(0), np.empty(0)) == Share(0.5, 0.0, 1.0, 0)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=30))
def test_the_chance_to_be_above_is_the_share_of_comparisons(rows: list[tuple[int, bool]]) -> None:
    values, up = np.array([value for value, _ in rows]), np.array([is_up for _, is_up in rows])
    compared = [(a > b) + 0.5 * (a == b) for a in values[up] for b in values[~up]]
    share = chance_above(values, up)
    assert share.value == pytest.approx(np.mean(compared) if compared else 0.5)
    assert 0 <= share.low <= share.value <= share.high <= 1


def test_ranks_and_correlation() -> None:
    assert ranks(np.array([3, 1, 3, 2])).tolist() == [3.5, 1, 3.5, 2]
    assert rank_correlation(np.array([1, 2, 3]), np.array([10, 20, 900])) == pytest.approx(1)
    assert rank_correlation(np.array([1, 2]), np.array([5, 5])) == 0


def test_a_histogram_holds_every_value() -> None:
    values = np.concatenate([np.arange(1000), [10**6]])
    bars = histogram(values, values[:10])
    assert [sum(counts) for counts in bars["counts"]] == [1001, 10]
    assert bars["edges"][-1] < 1100
    assert summary(values)["max"] == 10**6 and summary(np.empty(0, int)) == {"count": 0}
    assert histogram(np.empty(0))["edges"] == []
