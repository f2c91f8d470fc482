"""Plan optimizer steps and cut each into micro-batches.

What a step contains is decided by order and batch size alone. How it is cut into micro-batches is a matter of memory
(a token budget) and changes no number.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from typing import Literal

from likelier.data.tokenize import Group

Order = Literal["shuffled", "file"]


class StepSampler:
    """Yields the group numbers of each optimizer step of an epoch; the last step may be smaller.

    Args:
        prompts: a key per group; equal keys are the same prompt.
        batch_size: groups (pairs or labelled rows) of one step, over all ranks and micro-batches.
        order: `shuffled` by seed and epoch, or `file`.
        group_by: None, or `prompt` for steps of whole prompts (sizes then vary about `batch_size`). The number of steps
            is the same in every epoch, since the trainer asks for it once.
        seed: of the shuffle.
    """

    def __init__(
        self, prompts: Sequence[bytes], *, batch_size: int, order: Order, group_by: str | None, seed: int
    ) -> None:
        self.batch_size, self.order, self.seed, self.epoch = batch_size, order, seed, 0
        self.units = _units(prompts, group_by)
        self._length = min(len(self.units), math.ceil(len(prompts) / batch_size))

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, hence the shuffle."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[list[int]]:
        units = list(self.units)
        if self.order == "shuffled":
            random.Random(f"{self.seed}:{self.epoch}").shuffle(units)
        yield from self._steps(units)

    def _steps(self, units: Sequence[list[int]]) -> Iterator[list[int]]:
        """Close a step at each multiple of the batch size, but leave a unit for every step to come."""
        step: list[int] = []
        taken = made = 0
        for left, unit in zip(reversed(range(len(units))), units, strict=True):
            step.extend(unit)
            taken += len(unit)
            to_come = len(self) - made - 1
            if left == to_come or (to_come and taken >= (made + 1) * self.batch_size):
                yield step
                step, made = [], made + 1


def _units(prompts: Sequence[bytes], group_by: str | None) -> list[list[int]]:
    if group_by is None:
        return [[number] for number in range(len(prompts))]
    units: dict[bytes, list[int]] = {}
    for number, prompt in enumerate(prompts):
        units.setdefault(prompt, []).append(number)
    return list(units.values())


def padded_tokens(groups: Sequence[Group]) -> int:
    """What the plain scorer holds for these groups at once: answers times the longest prompt + answer."""
    return sum(len(group.answers) for group in groups) * max(group.longest for group in groups)


def micro_batches(groups: Sequence[Group], token_budget: int) -> list[list[Group]]:
    """Cut a step into the fewest micro-batches that the budget allows, of like length and balanced.

    Groups are sorted by length and cut into runs, so that padding stays small. A group over the budget runs alone.
    """
    ordered = sorted(groups, key=lambda group: -group.longest)
    count = len(_runs(ordered, token_budget))
    low, high = max(1, math.ceil(sum(padded_tokens([group]) for group in ordered) / count / 2)), token_budget
    while low < high:
        middle = (low + high) // 2
        if len(_runs(ordered, middle)) <= count:
            high = middle
        else:
            low = middle + 1
    return _runs(ordered, high)


def _runs(ordered: Sequence[Group], limit: int) -> list[list[Group]]:
    """Fill runs of groups (longest first) up to the limit."""
    runs: list[list[Group]] = []
    answers = longest = 0
    for group in ordered:
        answers += len(group.answers)
        if runs and answers * longest <= limit:
            runs[-1].append(group)
        else:
            runs.append([group])
            answers, longest = len(group.answers), group.longest
    return runs
