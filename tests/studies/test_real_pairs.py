"""Real pairs are divided by their prompts, and labels are made wrong as is said."""

from __future__ import annotations

from dataclasses import dataclass

from likelier.data.records import Pair, Source
from studies.real_pairs import divided
from studies.s23 import DOUBTFUL, MOST, SURE, with_wrong_labels


@dataclass(frozen=True)
class Draw:
    longest: int
    train: int
    held_out: int


def pairs_of(prompts: str) -> list[Pair]:
    return [Pair(prompt, f"good {n}", f"bad {n}", Source("rows", n)) for n, prompt in enumerate(prompts)]


def test_prompts_are_held_out_whole() -> None:
    held, train = divided(pairs_of("abacbdcea"), Draw(10, 4, 4))
    assert [pair.source.number for pair in held] == [0, 2, 8, 1]  # all of a, then as many of b as are wanted
    assert [pair.source.number for pair in train] == [3, 5, 6, 7]


def test_what_is_not_there_is_not_made_up() -> None:
    held, train = divided(pairs_of("aab"), Draw(10, 4, 2))
    assert (len(held), len(train)) == (2, 1)


def test_labels_are_made_wrong_as_often_as_is_said_and_the_judge_is_honest() -> None:
    pairs = pairs_of("a" * 4000)
    made = with_wrong_labels(MOST, 3, pairs, doubts=True)
    wrong = [new.chosen == old.rejected and new.rejected == old.chosen for new, old in zip(made, pairs, strict=True)]
    assert sum(wrong) == 800
    for chance in (DOUBTFUL, SURE):
        told = [is_wrong for new, is_wrong in zip(made, wrong, strict=True) if new.flip_chance == chance]
        assert abs(len(told) / 4000 - 0.5) < 0.03 and abs(sum(told) / len(told) - chance) < 0.03


def test_a_smaller_share_of_wrong_labels_is_among_a_larger_one() -> None:
    pairs = pairs_of("a" * 40)
    few, many, doubted = (
        {new.source.number for new, old in zip(made, pairs, strict=True) if new.chosen != old.chosen}
        for made in (
            with_wrong_labels(0.1, 3, pairs),
            with_wrong_labels(0.2, 3, pairs),
            with_wrong_labels(0.2, 3, pairs, doubts=True),
        )
    )
    assert len(few) == 4 and few < many == doubted
