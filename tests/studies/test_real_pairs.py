"""Real pairs are divided by their prompts, and labels are made wrong as is said."""

from __future__ import annotations

from dataclasses import dataclass

from likelier.data.records import Pair, Source
from studies.real_pairs import divided


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
