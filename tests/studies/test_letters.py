"""The small language of S18B: what it counts, what its model writes, and what is computed from a pool of answers."""

from __future__ import annotations

from copy import deepcopy
from math import log

import pytest
import torch

from studies import learners, letters
from studies.learners import Sizes, Station, World
from studies.letters import ALPHABET, ASKED, END, LENGTH, Answers


def told(prompt: str, answer: str) -> Answers:
    """A line as its columns; behind the full stop stands something that must not count."""
    ids = [[ALPHABET.index(letter) for letter in text] for text in (prompt.rjust(ASKED), answer.ljust(LENGTH, "a"))]
    return Answers(torch.tensor([ids[0]]), torch.tensor([ids[1]]))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("bada.", [2, 4, 3, 0, 5, 1, 1, 0]),  # vowels, of the prompt, different, words, length, whole, again, late
        ("to ri.", [2, 0, 4, 1, 6, 1, 0, 2]),
        ("nananananananana", [8, 8, 2, 0, 16, 0, 14, 8]),
    ],
)
def test_the_features_count_what_they_say(answer: str, expected: list[int]) -> None:
    assert letters.features(told("bad", answer)).tolist() == [expected]


def test_lines_have_an_end_only_in_their_answers() -> None:
    lines = letters.lines(300, torch.Generator().manual_seed(0))
    assert not bool((lines.prompts == END).any()) and 0.5 < float(lines.ended.float().mean()) < 0.8
    first = (lines.prompts != 0).int().argmax(1)
    assert set(first.tolist()) == set(range(ASKED - 1))  # 2 to 8 characters, on the right


def test_a_gain_is_read_between_two_strengths() -> None:
    line = [Station(4.0, 0.0, 3.0, 0.0), Station(1.0, 0.0, 1.0, 0.0)]
    assert learners.gain_at(line, 2.25) == pytest.approx(2.0)
    assert learners.gain_at(line, 0.25) == pytest.approx(0.5) and learners.gain_at(line, 4.0) is None


@pytest.fixture(scope="module")
def world() -> World:
    return World.made(3, Sizes(steps=4, rollouts=2, reading=30, pool=256, judged=8))


@pytest.mark.slow
def test_answers_are_drawn_from_the_model_that_scores_them(world: World) -> None:
    policy = deepcopy(world.reference)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    answers = letters.written(policy, world.pool.prompts[:6000], torch.Generator().manual_seed(2))
    own, ref = letters.scored(policy, answers).logps, letters.scored(world.reference, answers).logps
    exact = letters.divergences(policy, world.reference, answers)
    apart = (own - ref) - exact
    assert float(apart.mean().abs()) < 4 * float(apart.std()) / len(apart) ** 0.5
    assert float(exact.mean()) > 0.05 and float(exact.std()) < float((own - ref).std())
    every = letters.token_logps(policy, answers)
    surprise = (own + (-(every.exp() * every).sum(2) * answers.counts).sum(1)).detach()
    assert float(surprise.mean().abs()) < 4 * float(surprise.std()) / len(surprise) ** 0.5


@pytest.mark.slow
def test_the_best_of_n_and_the_optimum_are_those_of_the_pool(world: World) -> None:
    best = learners.best_of_n(world)[3]
    drawn = torch.randint(256, (letters.HELD_OUT, 4000, 4), generator=torch.Generator().manual_seed(3))
    rewards = world.pool_gold.gather(1, drawn.flatten(1)).reshape(drawn.shape).max(2).values
    assert best.gain == pytest.approx(float(rewards.mean() - world.pool_gold.mean()), abs=0.02)
    assert best.kl == pytest.approx(log(4) - 3 / 4, abs=0.02)
    optimum = learners.tilted(world, world.pool_gold)
    beta = learners.beta_for(world.pool_gold, 1.0)
    kls = [one.kl for one in optimum]
    assert kls == sorted(kls) and (learners.gain_at(optimum, best.kl) or 0) > best.gain
    log_z = (torch.logsumexp(world.pool_gold / beta, 1) - log(256)).mean()  # KL = E r / beta - log Z
    earned = (torch.softmax(world.pool_gold / beta, 1) * world.pool_gold).sum(1).mean()
    assert float(earned / beta - log_z) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.slow
def test_people_choose_by_the_gold_reward(world: World) -> None:
    pairs = learners.labelled(world, world.reference, 3000, torch.Generator().manual_seed(4))
    assert bool((pairs.chosen.prompts == pairs.rejected.prompts).all())
    gaps = world.gold(pairs.chosen) - world.gold(pairs.rejected)
    sure = gaps.abs() > 1
    assert float((gaps[sure] > 0).float().mean()) == pytest.approx(float(gaps[sure].abs().sigmoid().mean()), abs=0.04)
