"""Diseases of data and of going too far. Each is a short real training; diseases that one run has together share it."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from likelier import KTO, SFT, SimPO
from likelier.data.records import Labelled, Message, Pair
from likelier.insight.diagnose import live_warnings
from tests.helpers.diagnosis_world import (
    alike_pairs,
    bad,
    long_pairs,
    numbers,
    plain_pairs,
    the,
    train,
    turned_round,
)
from tests.helpers.support import tiny_policy

pytestmark = pytest.mark.slow

SAME = (Message("assistant", "the red cat sat on the mat and it was good"),)


def loops(count: int, seed: int = 1) -> list[Pair]:
    """Pairs whose chosen answer says one word over and over."""
    rng = random.Random(seed)
    answers = [" ".join(["very"] * rng.randint(9, 14)) for _ in range(count)]
    pairs = zip(plain_pairs(count, seed), answers, strict=True)
    return [replace(one, chosen=(Message("assistant", answer),)) for one, answer in pairs]


# --- both fall -----------------------------------------------------------------------------------------------------


def test_displacement_by_answers_that_are_nearly_the_same(tmp_path: Path) -> None:
    run = train(tmp_path / "run", data=alike_pairs(160), held_out=alike_pairs(40, 2))
    assert bad(run) == ["likelihood-displacement"]
    verdict = the(run, "likelihood-displacement")
    assert "tokens that lose most" in numbers(verdict) and "pairs of which both answers fell" in numbers(verdict)
    assert "answers of a pair are nearly the same: --method dpop" in verdict.advice[0]


def test_displacement_shows_in_training_alone(tmp_path: Path) -> None:
    run = train(tmp_path / "run", data=alike_pairs(160))
    assert bad(run) == ["likelihood-displacement"]
    assert [one.name for one in live_warnings(run)] == ["likelihood-displacement"]


def test_simpo_with_too_high_a_rate_drifts(tmp_path: Path) -> None:
    run = train(tmp_path / "run", SimPO(), held_out=plain_pairs(40, 2), learning_rate=1e-2, max_steps=40)
    assert "simpo-drift" in bad(run)
    verdict = the(run, "simpo-drift")
    assert "KL to the start" in numbers(verdict) and "--learning-rate 2e-3" in verdict.advice[0]


def test_so_it_does_without_held_out_data(tmp_path: Path) -> None:
    run = train(tmp_path / "run", SimPO(), learning_rate=1e-2, max_steps=40)
    assert bad(run) == ["simpo-drift"] and [one.name for one in live_warnings(run)] == ["simpo-drift"]


# --- what it writes ------------------------------------------------------------------------------------------------


def test_dpo_with_too_high_a_rate_goes_too_far(tmp_path: Path) -> None:
    run = train(tmp_path / "run", held_out=plain_pairs(40, 2), learning_rate=3e-2, max_steps=40)
    assert "over-optimization" in bad(run)
    verdict = the(run, "over-optimization")
    assert "KL to the reference" in numbers(verdict) and "--learning-rate 6e-3" in verdict.advice[0]


def test_answers_that_go_round_in_circles(tmp_path: Path) -> None:
    """The preferred answers say one word over and over."""
    run = train(tmp_path / "run", SFT(), loops(160), loops(40, 2), max_steps=40, learning_rate=3e-3)
    assert bad(run) == ["repetition-or-collapse"]
    verdict = the(run, "repetition-or-collapse")
    assert "the same in greedy answers" in numbers(verdict) and "--learning-rate 3e-4" in verdict.advice[0]


def test_one_answer_to_every_prompt(tmp_path: Path) -> None:
    """The preferred answer is always the same one."""
    data, held_out = ([replace(one, chosen=SAME) for one in pairs] for pairs in (plain_pairs(160), plain_pairs(40, 2)))
    run = train(tmp_path / "run", SFT(), data, held_out, learning_rate=3e-3)
    assert bad(run) == ["repetition-or-collapse"]
    assert "distinct answers drawn: " in numbers(the(run, "repetition-or-collapse"))


def test_a_judge_whose_reward_falls(tmp_path: Path) -> None:
    """What the labels ask for is what the judge does not want."""

    def dull(prompts: object, answers: list[str]) -> list[float]:
        return [float(answer.count("bad") + answer.count("wrong")) for answer in answers]

    run = train(tmp_path / "run", held_out=plain_pairs(40, 2), learning_rate=3e-3, judge=dull)
    assert "over-optimization" in bad(run)
    assert "the judge's reward" in numbers(the(run, "over-optimization"))


# --- data ----------------------------------------------------------------------------------------------------------


def test_random_judgements(tmp_path: Path) -> None:
    data, held_out = (turned_round(pairs, 0.5) for pairs in (plain_pairs(200), plain_pairs(60, 2)))
    for name, more in (("held-out", {"held_out": held_out}), ("training", {})):
        run = train(tmp_path / name, data=data, max_steps=25, **more)
        assert bad(run) == ["noisy-data"]
        assert the(run, "noisy-data").title == "Judgements that cannot be told from coin tosses"


def test_contradictory_pairs_are_a_ceiling(tmp_path: Path) -> None:
    pairs = plain_pairs(80)
    both_ways = [*pairs, *pairs, *turned_round(pairs, 1.0)]
    data = [replace(one, source=replace(one.source, number=number)) for number, one in enumerate(both_ways, 1)]
    run = train(tmp_path / "run", data=data, held_out=plain_pairs(40, 2), max_steps=30)
    assert bad(run) == ["noisy-data"]
    assert "ceiling: no model agrees with more labels than: 66.7 %" in numbers(the(run, "noisy-data"))
    assert "--flip-probability" in " ".join(the(run, "noisy-data").advice)


def test_few_pairs_many_times_are_learned_by_heart(tmp_path: Path) -> None:
    data = turned_round(plain_pairs(16), 0.35, 3)
    often = {"max_steps": 60, "learning_rate": 3e-3, "eval_steps": 10, "eval_prompts": 0}
    run = train(tmp_path / "run", data=data, held_out=plain_pairs(60, 2), **often)
    verdict = the(run, "overfitting")
    assert verdict.severity == "warning" and "at its best" in numbers(verdict)
    assert "passes over the data: 30" in numbers(verdict) and "--max-steps" in verdict.advice[0]


def test_held_out_rows_that_were_trained_on(tmp_path: Path) -> None:
    pairs = plain_pairs(160)
    run = train(tmp_path / "run", data=pairs, held_out=pairs[:40])
    assert bad(run) == ["eval-leakage"]
    verdict = the(run, "eval-leakage")
    assert verdict.severity == "error" and "word for word: 40" in numbers(verdict)


def test_longer_answers_that_are_always_preferred(tmp_path: Path) -> None:
    run = train(tmp_path / "run", data=long_pairs(160), held_out=long_pairs(40, 2))
    assert bad(run) == ["length-exploitation"]
    assert "times that at the start" in numbers(the(run, "length-exploitation"))


def test_a_reward_that_is_right_only_where_the_longer_answer_is(tmp_path: Path) -> None:
    """The training data prefer the longer answer; on the held-out pairs length says nothing."""
    rows = plain_pairs(60, 2)
    held_out = [
        replace(one, chosen=long.chosen, rejected=long.rejected)
        for one, long in zip(rows, long_pairs(60, 3), strict=True)
    ]
    run = train(
        tmp_path / "run",
        data=long_pairs(160),
        held_out=[*turned_round(held_out, 0.4)],
        learning_rate=5e-4,
        max_steps=20,
    )
    assert "length-exploitation" in bad(run)
    assert "right where it is the shorter one" in numbers(the(run, "length-exploitation"))


# --- KTO's baseline ------------------------------------------------------------------------------------------------


def test_a_baseline_of_two_rows_is_too_noisy(tmp_path: Path) -> None:
    run = train(tmp_path / "run", KTO(), batch_size=2)
    assert "kto-baseline" in bad(run)
    assert the(run, "kto-baseline").title == "KTO's baseline is too noisy"
    assert "--batch-size 16" in the(run, "kto-baseline").advice[0]


def test_a_baseline_that_runs_away(tmp_path: Path) -> None:
    """Thumbs up only, and a model that writes nothing yet: every answer gets likelier under every prompt."""
    data = [Labelled(one.prompt, one.chosen, True, one.source) for one in plain_pairs(160)]
    policy = tiny_policy(0, torch.float32)
    run = train(tmp_path / "run", KTO(), data, batch_size=16, learning_rate=1e-2, policy=policy)
    assert bad(run) == ["kto-baseline"]
    assert the(run, "kto-baseline").title == "KTO's baseline runs away"
