"""The comparison's figures against counts by hand: items, differences, the sign test, the frontier, seeds."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from likelier.insight.compare.frontier import Frontier, Place
from likelier.insight.compare.measures import MEASURES, Figure, Summary, summaries
from likelier.insight.compare.paired import compare_pairs, differ_in_rows, items_of, sign_test
from likelier.insight.compare.subjects import Subject
from likelier.runs.reader import Run, read_run


def run_with(folder: Path, items: dict[str, Any], end: dict[str, Any] | None = None, **card: Any) -> Run:
    (folder / "evaluations").mkdir(parents=True)
    content = {"status": "done", "method": "dpo", "reward_scale": 0.1, "hyperparameters": {}, "steps": 2} | card
    (folder / "run.json").write_text(json.dumps(content))
    rows = [{"step": 0, "eval_loss": 1.0}, {"step": 2, "eval_loss": 1.0} | (end or {})]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    detail = {"step": 2, "when": "end", "items_of": 1, "items": items}
    (folder / "evaluations" / "step-2.json").write_text(json.dumps(detail))
    return read_run(folder)


def table(rows: list[tuple[str, int, float, int, float, int]]) -> dict[str, Any]:
    """(source, prompt, chosen logp and length, rejected logp and length) a row."""
    source, prompt, chosen, longs, rejected, shorts = (list(column) for column in zip(*rows, strict=True))
    sides = {"chosen": (chosen, longs), "rejected": (rejected, shorts)}
    found = {side: {"logps": logps, "lengths": lengths, "ref_logps": None} for side, (logps, lengths) in sides.items()}
    return {"source": source, "prompt": prompt} | found


def test_items_are_known_by_place_and_lengths_and_twins_are_left_out(tmp_path: Path) -> None:
    rows = [
        ("a:1", 0, -8.0, 8, -3.0, 2),
        ("a:1", 0, -2.0, 4, -4.0, 4),
        ("a:2", 1, -4.0, 4, -4.0, 4),
        ("a:3", 2, -1.0, 3, -2.0, 3),
        ("a:3", 2, -2.0, 3, -1.0, 3),
        ("a:3", 2, -2.0, 3, -1.0, 4),
    ]
    found = items_of(run_with(tmp_path / "a", table(rows)))
    assert set(found) == {("a:1", 8, 2), ("a:1", 4, 4), ("a:2", 4, 4), ("a:3", 3, 4)}
    told = {
        key: (item.right["ranking_accuracy"], item.right["ranking_accuracy_per_token"]) for key, item in found.items()
    }
    assert told[("a:1", 8, 2)] == (False, True) and told[("a:1", 4, 4)] == (True, True)
    assert told[("a:2", 4, 4)] == (False, False) and found["a:2", 4, 4].prompt == 1  # a tie is wrong


def test_a_paired_difference_is_the_mean_over_common_rows(tmp_path: Path) -> None:
    rng = random.Random(0)
    prompts = [number // 3 for number in range(30)]

    def run(name: str, places: range) -> tuple[Run, dict[int, bool]]:
        right = {number: rng.random() < 0.6 for number in places}
        rows = [(f"a:{n}", prompts[n] - prompts[places[0]], -1.0 - (not right[n]) * 2, 4, -2.0, 4) for n in places]
        return run_with(tmp_path / name, table(rows)), right

    (one, first), (other, second) = run("one", range(30)), run("other", range(6, 30))
    found = compare_pairs([Subject("one", (one,)), Subject("other", (other,))], Subject("one", (one,)))
    common = range(6, 30)
    by_prompt = {prompts[n]: 0 for n in common}
    for n in common:
        by_prompt[prompts[n]] += second[n] - first[n]
    paired = next(found for found in found if (found.name, found.measure) == ("other", "ranking_accuracy"))
    assert (paired.items, paired.prompts, paired.runs, paired.against) == (24, 8, 1, "one")
    assert 0 in by_prompt.values()  # neither better nor worse
    assert paired.difference == pytest.approx(sum(by_prompt.values()) / 24)
    assert paired.better == sum(value > 0 for value in by_prompt.values())
    assert paired.worse == sum(value < 0 for value in by_prompt.values())
    assert paired.p == sign_test(paired.better, paired.worse) and paired.low <= paired.difference <= paired.high


def test_only_rows_that_every_run_has_are_compared(tmp_path: Path) -> None:
    """Three runs against one: rows that one of the three lacks play no part, and one run is all that is known."""
    base = run_with(tmp_path / "base", table([(f"a:{n}", n, -1.0, 4, -2.0, 4) for n in range(9)]))
    own = [
        run_with(tmp_path / str(seed), table([(f"a:{n}", n, -3.0, 4, -2.0, 4) for n in range(seed, 9)]))
        for seed in (0, 1, 3)
    ]
    one = Subject("base", (base,))
    for subjects, against, worse in (
        ([one, Subject("own", tuple(own))], one, True),
        ([one, Subject("own", tuple(own))], Subject("own", tuple(own)), False),
    ):
        found = compare_pairs(subjects, subjects[0 if against is one else 1])[0]
        assert (found.items, found.runs) == (6, 1) and found.difference == (-1 if worse else 1)
        assert (found.better, found.worse) == ((0, 6) if worse else (6, 0)) and found.is_clear
        assert found.words == ("worse" if worse else "better")


def test_every_other_subject_is_compared_with_the_one(tmp_path: Path) -> None:
    rows = table([(f"a:{n}", n, -1.0, 4, -2.0, 4) for n in range(6)])
    subjects = [Subject(name, (run_with(tmp_path / name, rows),)) for name in ("base", "one", "two")]
    found = compare_pairs(subjects, subjects[0])
    assert {one.name for one in found} == {"one", "two"} and {one.against for one in found} == {"base"}
    assert len({(one.name, one.measure) for one in found}) == len(found)


def test_rows_are_told_apart_by_their_hashes_alone(tmp_path: Path) -> None:
    """Of sweeps by the hash of the rows' text, whatever else is noted beside it; of others by that of their tokens."""
    pairs = table([("a:1", 0, -1.0, 4, -2.0, 4)])
    names = iter(range(100))

    def run(items: Any = pairs, **card: Any) -> Run:
        return run_with(tmp_path / str(next(names)), items, **card)

    def sweep(value: str) -> dict[str, Any]:
        return {"sweep": {"held_out": {"hash": value, "rows": next(names)}}}

    assert not differ_in_rows(*(run(**sweep("x")) for _ in range(2)))
    assert differ_in_rows(*(run(**sweep(value)) for value in "xy"))
    for one, other, differ in (("a", "a", False), ("a", "b", True), ("a", None, False), (None, None, False)):
        runs = [run(fingerprint={"eval_hash": value}) for value in (one, other)]
        assert differ_in_rows(*runs) is differ
    # the rows' own text is what counts where it is known of both
    assert not differ_in_rows(*(run(**sweep("x"), fingerprint={"eval_hash": value}) for value in "ab"))
    assert differ_in_rows(run(**sweep("x"), fingerprint={"eval_hash": "a"}), run(fingerprint={"eval_hash": "b"}))
    # runs of another kind of data are not surely held to other rows
    labelled = {"source": ["a:1"], "prompt": [0], "label": [True], "completion": pairs["chosen"]}
    assert not differ_in_rows(run(fingerprint={"eval_hash": "a"}), run(labelled, fingerprint={"eval_hash": "b"}))


@pytest.mark.parametrize(("better", "worse"), [(0, 0), (1, 0), (7, 2), (2, 7), (6, 6), (0, 9)])
def test_the_sign_test_counts_every_way_to_toss(better: int, worse: int) -> None:
    tosses = list(itertools.product((0, 1), repeat=better + worse))
    as_far = [abs(2 * sum(one) - len(one)) >= abs(better - worse) for one in tosses]
    assert sign_test(better, worse) == pytest.approx(float(np.mean(as_far)))


def test_the_frontier_is_what_no_other_beats() -> None:
    rng = random.Random(5)
    for _ in range(30):
        places = [Place(str(n), rng.randint(0, 5), rng.randint(0, 5) / 5) for n in range(8)]
        found = Frontier(MEASURES[0], (), tuple(places)).best
        by_hand = [
            one
            for one in places
            if not any((b.kl < one.kl and b.gain >= one.gain) or (b.kl <= one.kl and b.gain > one.gain) for b in places)
        ]
        assert sorted(found, key=lambda one: one.name) == by_hand and [one.kl for one in found] == sorted(
            one.kl for one in found
        )


def test_figures_over_seeds_and_of_a_run(tmp_path: Path) -> None:
    over = Summary(tuple(Figure(value) for value in (0.2, 0.5, 0.8)))
    assert (
        over.mean == pytest.approx(0.5)
        and over.deviation == pytest.approx(0.3)
        and Summary((Figure(1),)).deviation is None
    )
    end = {"eval_ranking_accuracy": 0.75, "eval_ranking_accuracy_low": 0.5, "eval_ranking_accuracy_high": 0.9}
    end |= {"eval_pair_accuracy": 0.6, "eval_rewards/accuracies": 0.4, "eval_rewards/margins": 0.3, "eval_kl": 2.0}
    end |= {"eval_kl_standard_error": 0.25}
    known = summaries(Subject("one", (run_with(tmp_path / "one", {}, end),)))
    assert known["ranking_accuracy"].figures == (Figure(0.75, 0.5, 0.9),)
    assert known["pair_accuracy"].mean == 0.6 and "label_accuracy" not in known
    assert known["margin"].mean == pytest.approx(3.0)  # 0.3 over a scale of 0.1: nats
    assert known["kl"].figures == (Figure(2.0, error=0.25),)
    ratios = end | {"eval_logratios/chosen": 1.5, "eval_logratios/rejected": -2.0}
    assert summaries(Subject("x", (run_with(tmp_path / "x", {}, ratios),)))["margin"].mean == pytest.approx(3.5)
    labelled = {"eval_rewards/accuracies": 0.4}
    known = summaries(Subject("two", (run_with(tmp_path / "two", {}, labelled),)))
    assert known["label_accuracy"].mean == 0.4 and "pair_accuracy" not in known


def test_a_figure_of_a_setting_is_known_for_all_of_its_runs(tmp_path: Path) -> None:
    one, other = (run_with(tmp_path / name, {}, end) for name, end in (("a", {"eval_kl": 1.0}), ("b", {})))
    assert "kl" in summaries(Subject("s", (one,))) and "kl" not in summaries(Subject("s", (one, other)))
    rows = [{"step": 1, "items": 8, "loss": 1.0}, {"step": 2, "items": 14, "loss": 1.0}]
    (one.folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert summaries(Subject("s", (read_run(one.folder),)))["items"].mean == 14
