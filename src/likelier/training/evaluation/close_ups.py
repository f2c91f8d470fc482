"""The few held-out pairs that tell most about a run, to be looked at token by token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from likelier.data.groups import Group
from likelier.data.masks import together
from likelier.models.policy import Policy
from likelier.objectives import Objective
from likelier.scoring.implicit_rewards import implicit_rewards
from likelier.scoring.reference import Reference, ReferenceScoring
from likelier.training.evaluation.heldout import Evaluation

PER_KIND = 2
LONG = 600  # tokens of both answers: longer pairs are shown only where there are no shorter ones


@dataclass(frozen=True)
class Telling:
    """A held-out pair, why it is shown, and its reward margin as the method has it."""

    why: str
    group: Group
    margin: float


def telling_pairs(found: Evaluation, objective: Objective) -> list[Telling]:
    """The pairs that tell most, none twice; empty where no answers stand against each other."""
    if found.pairs is None:
        return []
    groups = _pair_groups(found)
    rewards = objective.rewards(found.scored)
    chosen, rejected = rewards[found.pairs[:, 0]], rewards[found.pairs[:, 1]]
    short = [number for number, group in enumerate(groups) if sum(map(len, group.answers)) <= LONG]
    numbers = short or sorted(range(len(groups)), key=lambda number: groups[number].tokens)[: 2 * PER_KIND]
    margins = (chosen - rejected).tolist()
    lost = None if objective.reward_scale() is None else chosen.tolist()  # else a reward is no change
    return [Telling(why, groups[number], margins[number]) for why, number in _chosen(numbers, margins, lost)]


def _chosen(numbers: Sequence[int], margins: list[float], chosen: list[float] | None) -> list[tuple[str, int]]:
    middle = sorted(margins[number] for number in numbers)[len(numbers) // 2]
    kinds: list[tuple[str, Callable[[int], float], Callable[[int], bool]]] = [
        ("largest margin", lambda number: -margins[number], lambda number: margins[number] > 0),
        ("largest margin the wrong way", lambda number: margins[number], lambda number: margins[number] < 0),
        ("an ordinary pair", lambda number: abs(margins[number] - middle), lambda number: True),
    ]
    if chosen is not None:
        kinds.insert(2, ("chosen answer lost most", chosen.__getitem__, lambda number: chosen[number] < 0))
    taken: dict[int, str] = {}
    for why, order, fits in kinds:
        fitting = [number for number in sorted(numbers, key=order) if fits(number) and number not in taken]
        taken |= dict.fromkeys(fitting[:PER_KIND], why)
    return [(why, number) for number, why in taken.items()]


def _pair_groups(found: Evaluation) -> list[Group]:
    """Each pair as a group of its two answers."""
    if found.scored.items.pairs is not None:
        return found.groups
    assert found.pairs is not None and found.scored.items.rows is not None
    place = {answer: number for number, answer in enumerate(found.scored.items.rows.tolist())}
    sides = [[found.groups[place[answer]] for answer in pair] for pair in found.pairs.tolist()]
    return [
        replace(
            first,
            answers=(first.answers[0], second.answers[0]),
            masks=together((first.own_masks[0], second.own_masks[0])),
            desirable=None,
            ref_logps=None,
        )
        for first, second in sides
    ]


def token_by_token(
    chosen: Sequence[Telling],
    words: Callable[[Group], str],
    policy: Policy,
    reference: Reference,
    how: ReferenceScoring,
    scale: float,
) -> list[dict[str, Any]]:
    """The pairs with every token's log-probability under policy and reference, as `likelier score` writes them; margin
    and verdict are the method's own.
    """
    rows = implicit_rewards(policy, reference, [one.group for one in chosen], how, beta=scale, per_token=True)
    return [
        {"why": one.why, "prompt": words(one.group), **row, "margin": one.margin, "correct": one.margin > 0}
        for one, row in zip(chosen, rows, strict=True)
    ]
