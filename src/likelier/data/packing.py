"""Plan optimizer steps and cut each into micro-batches.

What a step contains is decided by order and batch size alone. How it is cut into micro-batches is a matter of memory
(a token budget) and changes no number.
"""

from __future__ import annotations

import math
import random
from array import array
from bisect import bisect_left, insort
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heapreplace
from itertools import islice
from typing import Literal, TypeVar

from likelier.data.groups import Group

Order = Literal["shuffled", "file"]
Units = TypeVar("Units", "list[list[int]]", "array[int]")


class StepSampler:
    """Yields the group numbers of each optimizer step of an epoch; the last step may be smaller.

    Args:
        prompts: a key per group; equal keys are the same prompt. Only their number counts without `group_by`.
        batch_size: groups (pairs or labelled rows) of one step, over all ranks and micro-batches.
        order: `shuffled` by seed and epoch, or `file`.
        group_by: None, or `prompt` for steps of whole prompts (sizes then vary about `batch_size`). The number of steps
            is the same in every epoch, since the trainer asks for it once.
        seed: of the shuffle.
    """

    def __init__(
        self, prompts: Sequence[Hashable], *, batch_size: int, order: Order, group_by: str | None, seed: int
    ) -> None:
        self.batch_size, self.order, self.seed, self.epoch = batch_size, order, seed, 0
        self._groups = len(prompts)
        self._prompts = None if group_by is None else _whole_prompts(prompts)
        units = self._groups if self._prompts is None else len(self._prompts)
        self._length = min(units, math.ceil(self._groups / batch_size))

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, hence the shuffle."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self._length

    def seen(self, steps: int | None) -> Sequence[int]:
        """Numbers of the groups that so many steps from the start take up: all of them unless an epoch is cut short."""
        if steps is None or steps >= len(self):
            return range(self._groups)
        return sorted(number for step in islice(iter(self), steps) for number in step)

    def __iter__(self) -> Iterator[list[int]]:
        if self._prompts is not None:
            yield from self._steps(self._ordered(list(self._prompts)))
            return
        numbers = self._ordered(array("q", range(self._groups)))  # 8 bytes a group: there may be ten million
        for start in range(0, self._groups, self.batch_size):
            yield list(numbers[start : start + self.batch_size])

    def _ordered(self, units: Units) -> Units:
        """The units in the epoch's order; in place."""
        if self.order == "shuffled":
            random.Random(f"{self.seed}:{self.epoch}").shuffle(units)
        return units

    def _steps(self, units: Sequence[list[int]]) -> Iterator[list[int]]:
        """Close a step at each multiple of the batch size, but leave a unit for every step to come.

        Prompts of 3, 3 and 2 groups with a batch size of 4 are two steps, of 6 and of 2 groups. Sizes are counted from
        the epoch's start, so that a step over the size is followed by one under it.
        """
        step: list[int] = []
        taken = made = 0
        for left, unit in zip(reversed(range(len(units))), units, strict=True):
            step.extend(unit)
            taken += len(unit)
            to_come = len(self) - made - 1
            if left == to_come or (to_come and taken >= (made + 1) * self.batch_size):
                yield step
                step, made = [], made + 1


def _whole_prompts(prompts: Sequence[Hashable]) -> list[list[int]]:
    units: dict[Hashable, list[int]] = {}
    for number, prompt in enumerate(prompts):
        units.setdefault(prompt, []).append(number)
    return list(units.values())


def padded_tokens(groups: Sequence[Group]) -> int:
    """What the plain scorer holds for these groups at once: answers times the longest prompt + answer."""
    return sum(len(group.answers) for group in groups) * max(group.longest for group in groups)


def padded_micro_batches(groups: Sequence[Group], token_budget: int, *, ranks: int = 1) -> list[list[Group]]:
    """Cut a step for the plain scorer: the fewest micro-batches of like length that the budget allows, balanced.

    Groups are sorted by length and cut into runs, so that padding stays small. A group over the budget runs alone. With
    several `ranks` their number is a multiple of that (see `packed_micro_batches`).
    """
    # Filled to the budget, the runs tell how few will do. Then the smallest limit that needs no more of them is
    # searched: like runs in place of full ones and a small rest.
    ordered = sorted(groups, key=lambda group: -group.longest)
    fewest = len(_runs(ordered, token_budget))
    count = math.ceil(fewest / ranks) * ranks
    low, high = max(1, math.ceil(sum(padded_tokens([group]) for group in ordered) / count / 2)), token_budget
    while low < high:
        middle = (low + high) // 2
        if len(_runs(ordered, middle)) <= count:
            high = middle
        else:
            low = middle + 1
    runs = _runs(ordered, high)
    return [*runs, *([] for _ in range(count - len(runs)))]


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


@dataclass(frozen=True)
class _Unit:
    """What must stay together: the groups of one prompt, and how many tokens they hold at once."""

    tokens: int
    groups: list[Group]


def packed_micro_batches(groups: Sequence[Group], token_budget: int, *, ranks: int = 1) -> list[list[Group]]:
    """Cut a step for the shared-prefix scorer: as few micro-batches of whole prompts as an even spread or best-fit
    decreasing finds within the budget.

    They are balanced in tokens, the fullest first (memory is at its peak at once). A group over the budget runs alone,
    and a prompt whose groups are over it (and over twice the prompt) is cut. With several `ranks` their number is a
    multiple of that, so that rank r takes every `ranks`-th from r; some may then be empty.
    """
    # Counts are tried from the provable minimum up to what best-fit decreasing needs. At each the units are dealt out
    # evenly; the first count at which the fullest bin keeps to the budget wins. Only where no even deal fits are bins
    # filled one by one.
    units = sorted(_prompt_units(groups, token_budget), key=lambda unit: -unit.tokens)
    tightest = _best_fit(units, token_budget)
    most, fewest = len(tightest), _least_bins([unit.tokens for unit in units], token_budget)
    for count in range(math.ceil(fewest / ranks) * ranks, math.ceil(most / ranks) * ranks + 1, ranks):
        bins = _balanced(units, count, token_budget)
        if bins is not None:
            return bins
    return [*tightest, *([] for _ in range(-most % ranks))]


def _least_bins(sizes: Sequence[int], token_budget: int) -> int:
    """A number of bins below which no way of packing gets (sizes: largest first).

    By the sum, and by number: of sizes above the budget / (k + 1), no bin takes more than k. Five sizes of 40 under a
    budget of 100 hold 200, two bins by the sum; but a bin takes two of them, so that it must be three.
    """
    least = max(1, math.ceil(sum(min(size, token_budget) for size in sizes) / token_budget))
    for taken, size in enumerate(sizes, 1):
        least = max(least, math.ceil(taken / max(1, token_budget // max(1, size))))
    return least


def _prompt_units(groups: Sequence[Group], token_budget: int) -> Iterator[_Unit]:
    by_prompt: dict[bytes, list[Group]] = {}
    for group in groups:
        by_prompt.setdefault(group.prompt.tobytes(), []).append(group)
    for own in by_prompt.values():
        yield from _cut_prompt(own, token_budget)


def _cut_prompt(groups: Sequence[Group], token_budget: int) -> Iterator[_Unit]:
    """Groups of one prompt as few units; an answer that several of them hold counts once.

    Every cut computes the prompt again, so a long prompt may take its own length beside it, also beyond the budget.
    """
    start = len(groups[0].prompt)
    limit = max(token_budget, 2 * start)
    known: set[bytes] = set()
    tokens, kept = start, list[Group]()
    for group in groups:
        new = {key: size for key, size in _fed(group) if key not in known}
        if kept and tokens + sum(new.values()) > limit:
            yield _Unit(tokens, kept)
            new = dict(_fed(group))
            tokens, kept, known = start, [], set()
        tokens += sum(new.values())
        known |= set(new)
        kept.append(group)
    yield _Unit(tokens, kept)


def _fed(group: Group) -> Iterator[tuple[bytes, int]]:
    """What tells each answer from others, and how many of its tokens enter the model."""
    return ((key, len(answer) - 1) for key, answer in zip(group.answer_keys, group.answers, strict=True))


def _best_fit(units: Sequence[_Unit], token_budget: int) -> list[list[Group]]:
    """Best-fit decreasing: each unit (largest first) into the fullest bin that still takes it. Fullest bins first."""
    bins: list[list[Group]] = []
    room: list[tuple[int, int]] = []  # (tokens left, bin), sorted: the first with enough left is the fullest that fits
    for unit in units:
        place = bisect_left(room, (unit.tokens, 0))
        if place < len(room):
            left, number = room.pop(place)
        else:
            left, number = token_budget, len(bins)
            bins.append([])
        bins[number].extend(unit.groups)
        insort(room, (left - unit.tokens, number))
    return [bins[number] for _, number in room]


def _balanced(units: Sequence[_Unit], count: int, token_budget: int) -> list[list[Group]] | None:
    """Each unit (largest first) into the emptiest of `count` bins, the fullest bins first; None over the budget."""
    bins: list[list[Group]] = [[] for _ in range(count)]
    loads = [(0, number) for number in range(count)]
    for unit in units:
        load, number = loads[0]
        if load and load + unit.tokens > token_budget:  # a unit over the budget may lie alone
            return None
        heapreplace(loads, (load + unit.tokens, number))
        bins[number].extend(unit.groups)
    fullest_first = [number for _, number in sorted(loads, key=lambda item: (-item[0], item[1]))]
    return [bins[number] for number in fullest_first]
