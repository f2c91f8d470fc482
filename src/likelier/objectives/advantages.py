"""From rewards to advantages: what an answer earned beyond what its group, or its step, earned.

A reward that is NaN is no verdict: it leaves the mean and the spread of its group, and its answer does not count.
Groups are told by number: answers with the same number in `group_of` were written under the same prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

AdvantageKind = Literal["mean", "std", "leave-one-out", "step"]
Combination = Literal["sum", "normalised"]

SPREAD_FLOOR = 1e-4  # added to a standard deviation before it divides, as in TRL


@dataclass(frozen=True)
class Advantages:
    """`values` (n,), 0 where there was no verdict; `counts` (n,) bool: whether there was one. An answer that does not
    count leaves the loss, above and below the fraction bar.
    """

    values: Tensor
    counts: Tensor


@dataclass(frozen=True)
class _Groups:
    """Of each group with verdicts (groups,): how many, their mean, their standard deviation; and whose is which (n,).

    Where all verdicts of a group are equal, the mean is that verdict to the last bit and the deviation 0: a mean that
    was summed and divided may be off by a rounding, which a division by the spread would blow up.
    """

    whose: Tensor
    sizes: Tensor
    mean: Tensor
    std: Tensor
    equal: Tensor

    @staticmethod
    def of(rewards: Tensor, group_of: Tensor) -> _Groups:
        if bool(rewards.isinf().any()):
            raise ValueError("a reward is infinite; rewards are finite numbers, or NaN for no verdict")
        numbers, whose = group_of.unique(return_inverse=True)
        said, nothing = ~rewards.isnan(), rewards.new_zeros(len(numbers))

        def total(values: Tensor) -> Tensor:
            return nothing.index_add(0, whose, values.where(said, 0.0))

        sizes = total(torch.ones_like(rewards))
        lowest = (nothing + torch.inf).scatter_reduce(0, whose, rewards.where(said, torch.inf), "amin")
        highest = (nothing - torch.inf).scatter_reduce(0, whose, rewards.where(said, -torch.inf), "amax")
        mean = torch.where(lowest == highest, lowest, total(rewards) / sizes.clamp(min=1))
        squares = total((rewards - mean[whose]) ** 2)
        return _Groups(whose, sizes, mean, (squares / (sizes - 1).clamp(min=1)).sqrt(), lowest >= highest)


def group_advantages(rewards: Tensor, group_of: Tensor, *, kind: AdvantageKind) -> Advantages:
    """How much better each answer did than its group. (n,) rewards, (n,) group numbers -> (n,) twice.

    - `mean`: `r - mean` (Dr. GRPO, arXiv 2503.20783: no division, so a question counts the same however hard it is).
    - `std`: `(r - mean) / (std + 1e-4)` (GRPO, arXiv 2402.03300) with the sample's deviation (ddof 1), as in TRL. verl
      and OpenRLHF divide by the same with a smaller floor; the population's (ddof 0) is larger by sqrt(G / (G - 1)),
      NeMo-RL takes the mean and the deviation of the others.
    - `leave-one-out`: `r - mean of the others` (RLOO, arXiv 2402.14740), which is `G / (G - 1)` times `mean`.
    - `step`: `r - mean` over the whole step, whatever the groups (REINFORCE with a baseline).

    A group whose verdicts are all equal has advantage exactly 0. Raises `ValueError` for a group of one answer where
    the group is the baseline (its advantage would be 0 whatever it was given), and for rewards that are infinite.
    """
    if kind not in get_args(AdvantageKind):
        raise ValueError(f"advantage={kind!r} is none of {', '.join(get_args(AdvantageKind))}")
    compared = torch.zeros_like(group_of) if kind == "step" else group_of
    _refuse_groups_of_one(compared, "step" if kind == "step" else "group")
    groups = _Groups.of(rewards, compared)
    found = rewards - groups.mean[groups.whose]
    if kind == "std":
        found = found / (groups.std + SPREAD_FLOOR)[groups.whose]
    elif kind == "leave-one-out":
        found = found * (groups.sizes / (groups.sizes - 1).clamp(min=1))[groups.whose]
    counts = ~rewards.isnan()
    return Advantages(found.where(counts, 0.0), counts)


def _refuse_groups_of_one(group_of: Tensor, what: str) -> None:
    """Raises `ValueError` naming the first group that nothing can be compared within."""
    numbers, sizes = group_of.unique(return_counts=True)
    alone = numbers[sizes == 1]
    if len(alone):
        place = "the step" if what == "step" else f"group {int(alone[0])}"
        raise ValueError(
            f"{place} has one answer: an advantage over the {what} is then 0 whatever the reward; write at least two "
            f"answers a {'step' if what == 'step' else 'prompt'}"
        )


def equal_groups(rewards: Tensor, group_of: Tensor) -> Tensor:
    """Which groups teach nothing, (groups,) bool in the order of their numbers: all verdicts equal, or none at all."""
    return _Groups.of(rewards, group_of).equal


def combine_rewards(parts: Tensor, weights: Tensor, group_of: Tensor, *, how: Combination) -> Tensor:
    """Several rewards of each answer as one. (n, k) parts, (k,) weights, (n,) group numbers -> (n,), NaN for no
    verdict.

    - `sum`: the weighted sum.
    - `normalised`: each part is standardised over its group first, `(r - mean) / (std + 1e-4)`, so that a part with a
      small range is not drowned (GDPO, arXiv 2601.05242; TRL's `normalize_then_sum` scales over the step after that).

    A part that is NaN has no verdict on that answer. It then stands at the mean of the group's other verdicts (at 0
    where the group has none), so that it neither lifts nor lowers the answer among its group; TRL's `sum` puts 0 in
    its place, which is a punishment where rewards are positive and a prize where they are negative. An answer on which
    no part that weighs has a verdict has none.

    Raises `ValueError` where `weights` are not one finite number a part, and as `group_advantages` does.
    """
    if how not in get_args(Combination):
        raise ValueError(f"combine={how!r} is none of {', '.join(get_args(Combination))}")
    if weights.shape != parts.shape[1:] or not bool(weights.isfinite().all()):
        raise ValueError(f"reward weights {weights.tolist()} for {parts.shape[1]} rewards: give one finite number each")
    if how == "normalised":
        _refuse_groups_of_one(group_of, "group")
    total = parts.new_zeros(len(parts))
    for part, weight in zip(parts.unbind(1), weights, strict=True):  # element by element: equal rows stay equal
        groups = _Groups.of(part, group_of)
        mean = groups.mean[groups.whose]
        filled = torch.where(part.isnan(), mean, part)
        if how == "normalised":
            filled = (filled - mean) / (groups.std + SPREAD_FLOOR)[groups.whose]
        total = total + weight * filled
    return total.masked_fill(parts[:, weights != 0].isnan().all(1), torch.nan)


def overlong_penalty(lengths: Tensor, *, limit: int, cache: int) -> Tensor:
    """What is added to the reward of a long answer: 0 up to `limit - cache` tokens, from there in a line down to -1 at
    `limit`, -1 beyond (DAPO, arXiv 2503.14476, equation 13). (n,) tokens -> (n,), in double precision.

    Raises `ValueError` unless `0 < cache <= limit`.
    """
    if not 0 < cache <= limit:
        raise ValueError(f"overlong cache of {cache} tokens: it must be at least 1 and at most the limit, {limit}")
    return ((limit - cache - lengths.double()) / cache).clamp(-1, 0)
