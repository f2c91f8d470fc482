"""Which of two is better, on the rows that both were held to: a paired comparison over prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import comb
from statistics import fmean

from likelier.insight.compare.subjects import Subject
from likelier.runs.reader import Run
from likelier.utils.statistics import difference_of

Key = tuple[str, int, int]


@dataclass(frozen=True)
class Item:
    """A held-out pair under one run: its prompt's number in that run, and whether the run is right, by measure."""

    prompt: int
    right: Mapping[str, bool]


@dataclass(frozen=True)
class Paired:
    """The difference between two subjects on their common rows, with a 95 % interval over prompts and runs.

    `runs` counts those of the subject that has fewer: with one, nothing is known of other seeds. `better` and `worse`
    count prompts; `p` is the two-sided sign test on them.
    """

    name: str
    against: str
    measure: str
    runs: int
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
_BY_SCORE: dict[str, Callable[[float, int], float]] = {"pair_accuracy": lambda score, length: score}


def items_of(run: Run) -> dict[Key, Item]:
    """The held-out pairs of a run's last evaluation, by their place in the data and their lengths in tokens.

    Pairs that share both are left out: nobody could tell which is which. Empty without pairs.
    """
    table = run.detail("end").items
    if "chosen" not in table:
        return {}
    sides = [table[side] for side in ("chosen", "rejected")]
    measures = _BY_SCORE if run.card.facts.reads_values else _RIGHT
    found: dict[Key, Item] = {}
    twice: set[Key] = set()
    for at, (source, prompt) in enumerate(zip(table["source"], table["prompt"], strict=True)):
        logps, lengths = ([side[name][at] for side in sides] for name in ("logps", "lengths"))
        key = (source, lengths[0], lengths[1])
        values = {name: [one(*both) for both in zip(logps, lengths, strict=True)] for name, one in measures.items()}
        if key in found:
            twice.add(key)
        found[key] = Item(prompt, {name: chosen > rejected for name, (chosen, rejected) in values.items()})
    return {key: item for key, item in found.items() if key not in twice}


def compare_pairs(subjects: Sequence[Subject], against: Subject) -> list[Paired]:
    """Each other subject against one, by each measure, where they have rows in common and none that only seem so."""
    base = [items_of(run) for run in against.runs]
    found = []
    for subject in subjects:
        if subject is against or any(differ_in_rows(one, run) for one in against.runs for run in subject.runs):
            continue
        own = [items_of(run) for run in subject.runs]
        common = [key for key in base[0] if all(key in table for table in (*base, *own))]
        for measure in _shared([*base, *own], common):
            found.append(_paired(subject.name, against.name, measure, own, base, common))
    return found


def _shared(tables: Sequence[Mapping[Key, Item]], common: Sequence[Key]) -> list[str]:
    """The measures that all tables have: a reward model and a policy share none."""
    measures = [*_RIGHT, *_BY_SCORE] if common else []
    return [name for name in measures if all(name in table[common[0]].right for table in tables)]


def differ_in_rows(one: Run, other: Run) -> bool:
    """Whether two runs of one kind of data were surely not held to the same rows, by the hashes of these.

    Of runs of sweeps the rows' own text is known; of others their tokens, with the weights and margins in use.
    """
    if _kind(one) != _kind(other) or (one.detail("end").prompts and other.detail("end").prompts):
        return False  # prompts without answers tell by themselves which they are
    for name, part in (("sweep", "held_out"), ("fingerprint", "eval_hash")):
        found = [run.card.block(name).get(part) for run in (one, other)]
        hashes = [entry.get("hash") if isinstance(entry, dict) else entry for entry in found]
        if all(hashes):
            return hashes[0] != hashes[1]
    return False


def _kind(run: Run) -> frozenset[str]:
    """What the held-out items are: pairs, answers with a label, answers."""
    table = run.detail("end").items or run.detail("start").items
    return frozenset(table) & {"chosen", "completion", "label"}


def _paired(
    name: str,
    against: str,
    measure: str,
    own: Sequence[Mapping[Key, Item]],
    base: Sequence[Mapping[Key, Item]],
    common: Sequence[Key],
) -> Paired:
    prompts = [base[0][key].prompt for key in common]
    right, against_right = (
        [[float(table[key].right[measure]) for key in common] for table in tables] for tables in (own, base)
    )
    found = difference_of(right, against_right, prompts)
    by_prompt = dict.fromkeys(prompts, 0.0)
    for prompt, ours, theirs in zip(prompts, zip(*right, strict=True), zip(*against_right, strict=True), strict=True):
        by_prompt[prompt] += fmean(ours) - fmean(theirs)
    differences = by_prompt.values()
    better, worse = sum(value > 1e-12 for value in differences), sum(value < -1e-12 for value in differences)
    return Paired(
        name,
        against,
        measure,
        runs=min(len(own), len(base)),
        items=len(common),
        prompts=len(by_prompt),
        difference=found.value,
        low=found.low,
        high=found.high,
        better=better,
        worse=worse,
        p=sign_test(better, worse),
    )


def sign_test(better: int, worse: int) -> float:
    """The chance of so uneven a split or a more uneven one, if neither were better: exact, two-sided."""
    count, least = better + worse, min(better, worse)
    tail = sum(comb(count, number) for number in range(least + 1))
    return min(1.0, 2 * tail / 2**count)
