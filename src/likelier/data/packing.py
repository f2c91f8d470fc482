"""Plan optimizer steps and cut each into micro-batches.

What a step contains is decided by order and batch size alone. How it is cut into micro-batches is a matter of memory
(a token budget) and changes no number.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import heapreplace
from itertools import islice
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

    def seen(self, steps: int | None) -> list[int]:
        """Numbers of the groups that so many steps from the start take up: all of them unless an epoch is cut short."""
        if steps is None or steps >= len(self):
            steps = len(self)
        return sorted({number for step in islice(iter(self), steps) for number in step})

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


def padded_micro_batches(groups: Sequence[Group], token_budget: int) -> list[list[Group]]:
    """Cut a step for the plain scorer: the fewest micro-batches of like length that the budget allows, balanced.

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


@dataclass(frozen=True)
class _Unit:
    """What must stay together: the groups of one prompt, and how many tokens they hold at once."""

    tokens: int
    groups: list[Group]


def shared_tokens(groups: Sequence[Group]) -> int:
    """What the shared-prefix scorer holds for these groups at once: each distinct prompt and answer once."""
    prompts = {group.prompt.tobytes(): len(group.prompt) for group in groups}
    answers = {
        (group.prompt.tobytes(), answer.tobytes()): len(answer) - 1 for group in groups for answer in group.answers
    }
    return sum(prompts.values()) + sum(answers.values())


def packed_micro_batches(groups: Sequence[Group], token_budget: int, *, ranks: int = 1) -> list[list[Group]]:
    """Cut a step for the shared-prefix scorer: as few micro-batches of whole prompts as an even spread or best-fit
    decreasing finds within the budget.

    They are balanced in tokens, the fullest first (memory is at its peak at once). A group over the budget runs alone,
    and a prompt whose groups are over it (and over twice the prompt) is cut. With several `ranks` their number is a
    multiple of that, so that rank r takes every `ranks`-th from r; some may then be empty.
    """
    units = sorted(_prompt_units(groups, token_budget), key=lambda unit: -unit.tokens)
    tightest = _best_fit(units, token_budget)
    most = len(tightest)
    fewest = min(most, max(1, math.ceil(sum(min(unit.tokens, token_budget) for unit in units) / token_budget)))
    for count in range(math.ceil(fewest / ranks) * ranks, math.ceil(most / ranks) * ranks + 1, ranks):
        bins, fits = _balanced(units, count, token_budget)
        if fits:
            return bins
    return [*tightest, *([] for _ in range(-most % ranks))]


def _prompt_units(groups: Sequence[Group], token_budget: int) -> Iterator[_Unit]:
    by_prompt: dict[bytes, list[Group]] = {}
    for group in groups:
        by_prompt.setdefault(group.prompt.tobytes(), []).append(group)
    for own in by_prompt.values():
        if len(own) == 1:
            yield _Unit(len(own[0].prompt) + sum(len(answer) - 1 for answer in own[0].answers), own)
        else:
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
        new = {answer.tobytes(): len(answer) - 1 for answer in group.answers if answer.tobytes() not in known}
        if kept and tokens + sum(new.values()) > limit:
            yield _Unit(tokens, kept)
            new = {answer.tobytes(): len(answer) - 1 for answer in group.answers}
            tokens, kept, known = start, [], set()
        tokens += sum(new.values())
        known |= set(new)
        kept.append(group)
    yield _Unit(tokens, kept)


def _best_fit(units: Sequence[_Unit], token_budget: int) -> list[list[Group]]:
    """Best-fit decreasing: each unit (largest first) into the fullest bin that still takes it. Fullest bins first."""
    bins: list[list[Group]] = []
    room: list[tuple[int, int]] = []  # (tokens left, bin), sorted
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


def _balanced(units: Sequence[_Unit], count: int, token_budget: int) -> tuple[list[list[Group]], bool]:
    """Each unit (largest first) into the emptiest of `count` bins, and whether all of these keep to the budget."""
    bins: list[list[Group]] = [[] for _ in range(count)]
    loads = [(0, number) for number in range(count)]
    fits = True
    for unit in units:
        load, number = loads[0]
        fits = fits and (load == 0 or load + unit.tokens <= token_budget)
        heapreplace(loads, (load + unit.tokens, number))
        bins[number].extend(unit.groups)
    fullest_first = [number for _, number in sorted(loads, key=lambda item: (-item[0], item[1]))]
    return [bins[number] for number in fullest_first], fits
