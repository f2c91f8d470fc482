"""Which of two is better, on the rows that both were held to: a paired comparison over prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import comb
from statistics import fmean
from typing import Any

from likelier.insight.comparison.subjects import Subject
from likelier.insight.reading import Run

DRAWS = 4000
Key = tuple[str, int, int]


@dataclass(frozen=True)
class Item:
    """A held-out pair under one run: its prompt's number in that run, and whether the run is right, by measure."""

    prompt: int
    right: Mapping[str, bool]


@dataclass(frozen=True)
class Paired:
    """The difference between two subjects on their common rows, with a 95 % bootstrap interval over prompts.

    `better` and `worse` count prompts; `p` is the two-sided sign test on them.
    """

    name: str
    against: str
    measure: str
    items: int
    prompts: int
    difference: float
    low: float
    high: float
    better: int
    worse: int
    p: float

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0

    @property
    def words(self) -> str:
        """What the difference says."""
        if not self.is_clear:
            return "no clear difference"
        return "better" if self.low > 0 else "worse"


_RIGHT: dict[str, Callable[[float, int], float]] = {
    "ranking_accuracy": lambda logp, length: logp,
    "ranking_accuracy_per_token": lambda logp, length: logp / length,
}


def items_of(run: Run) -> dict[Key, Item]:
    """The held-out pairs of a run's last evaluation, by their place in the data and their lengths in tokens.

    Pairs that share both are left out: nobody could tell which is which. Empty without pairs.
    """
    table = (run.detail("end") or {}).get("items") or {}
    if "chosen" not in table:
        return {}
    sides = [table[side] for side in ("chosen", "rejected")]
    found: dict[Key, Item] = {}
    twice: set[Key] = set()
    for at, (source, prompt) in enumerate(zip(table["source"], table["prompt"], strict=True)):
        logps, lengths = ([side[name][at] for side in sides] for name in ("logps", "lengths"))
        key = (source, lengths[0], lengths[1])
        values = {name: [one(*both) for both in zip(logps, lengths, strict=True)] for name, one in _RIGHT.items()}
        if key in found:
            twice.add(key)
        found[key] = Item(prompt, {name: chosen > rejected for name, (chosen, rejected) in values.items()})
    return {key: item for key, item in found.items() if key not in twice}


def compare_pairs(subjects: Sequence[Subject], against: Subject) -> list[Paired]:
    """Each other subject against one, by each measure, where they have rows in common."""
    base = [items_of(run) for run in against.runs]
    found = []
    for subject in subjects:
        if subject is against:
            continue
        own = [items_of(run) for run in subject.runs]
        common = _common([*base, *own])
        found += [_paired(subject.name, against.name, measure, own, base, common) for measure in _RIGHT if common]
    return found


def _common(tables: Sequence[Mapping[Key, Item]]) -> list[Key]:
    return [key for key in tables[0] if all(key in table for table in tables)] if tables else []


def _paired(
    name: str,
    against: str,
    measure: str,
    own: Sequence[Mapping[Key, Item]],
    base: Sequence[Mapping[Key, Item]],
    common: Sequence[Key],
) -> Paired:
    prompts: dict[int, list[float]] = {}
    for key in common:
        difference = fmean(_right(own, key, measure)) - fmean(_right(base, key, measure))
        prompts.setdefault(base[0][key].prompt, []).append(difference)
    low, high = bootstrap(list(prompts.values()))
    sums = [sum(values) for values in prompts.values()]
    better, worse = sum(value > 1e-12 for value in sums), sum(value < -1e-12 for value in sums)
    mean = sum(sums) / len(common)
    return Paired(
        name, against, measure, len(common), len(prompts), mean, low, high, better, worse, sign_test(better, worse)
    )


def _right(tables: Iterable[Mapping[Key, Item]], key: Key, measure: str) -> list[float]:
    return [float(table[key].right[measure]) for table in tables]


def bootstrap(clusters: Sequence[Sequence[float]], seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of the mean of all values, resampling whole clusters."""
    import numpy as np

    sums, sizes = np.array([sum(one) for one in clusters]), np.array([len(one) for one in clusters])
    drawn = np.random.default_rng(seed).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), DRAWS)
    low, high = np.quantile((drawn @ sums) / (drawn @ sizes), [0.025, 0.975]).tolist()
    return low, high


def sign_test(better: int, worse: int) -> float:
    """The chance of so uneven a split or a more uneven one, if neither were better: exact, two-sided."""
    count, least = better + worse, min(better, worse)
    tail = sum(comb(count, number) for number in range(least + 1))
    return min(1.0, 2 * tail / 2**count)


def paired_json(paired: Paired) -> dict[str, Any]:
    """As JSON."""
    return {**vars(paired), "words": paired.words}
