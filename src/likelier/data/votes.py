"""Rows that judge the same answers to the same prompt, as one row with the votes of all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from statistics import fmean
from typing import TypeVar

from likelier.data.records import Labelled, Pair, Record, Unusable, answers_of, spoken_key

_Judged = TypeVar("_Judged", Pair, Labelled)


@dataclass
class Merged:
    """The records, those that as many judge good as bad, and what was done in words."""

    records: list[Record] = field(default_factory=list)
    left_out: list[Unusable] = field(default_factory=list)
    note: str = ""


def merge_votes(records: Sequence[Record]) -> Merged:
    """One record for each prompt (with its tools) and answers, where the first of them stood; answers without a
    judgement stay as they are.

    A pair gets the votes of all; a single answer the thumb of the majority, and none where there is none. A judge who
    is named and says the same of the same answers once more is not heard twice.
    """
    groups: dict[object, list[Record]] = {}
    for number, record in enumerate(records):
        key = _same(record) if isinstance(record, (Pair, Labelled)) else number
        groups.setdefault(key, []).append(record)
    found = Merged()
    for group in groups.values():
        if len(group) == 1:
            found.records.append(group[0])
        elif pairs := [record for record in group if isinstance(record, Pair)]:
            found.records.append(_one_pair(pairs))
        else:
            _add_label([record for record in group if isinstance(record, Labelled)], found)
    several = [len(group) for group in groups.values() if len(group) > 1]
    found.note = f"merge_votes: {sum(several)} rows that judge the same answers became {len(several)}"
    return found


def _same(record: Pair | Labelled) -> tuple[object, ...]:
    """What rows have in common that judge the same, whichever way round."""
    prompt, *answers = (spoken_key(content) for content in (record.prompt, *answers_of(record)))
    keys = (prompt + "\x00" + record.tools, *sorted(answers))
    digests = (blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest() for key in keys)
    return (type(record), *digests)


def flipped(pair: Pair) -> Pair:
    """The pair with its answers exchanged, and all that belongs to them."""
    return replace(
        pair,
        chosen=pair.rejected,
        rejected=pair.chosen,
        votes=pair.votes and (pair.votes[1], pair.votes[0], pair.votes[2]),
        flip_chance=None if pair.flip_chance is None else 1 - pair.flip_chance,
        scores=pair.scores and pair.scores[::-1],
        ref_logps=pair.ref_logps and pair.ref_logps[::-1],
    )


# --- pairs ---------------------------------------------------------------------------------------------------------


def _one_pair(group: Sequence[Pair]) -> Pair:
    first = spoken_key(group[0].chosen)
    pairs = [_counted(pair) for pair in _heard(group)]
    pairs = [pair if spoken_key(pair.chosen) == first else _turned(pair) for pair in pairs]
    whole = replace(
        pairs[0],
        votes=_summed([pair.votes or (0, 0, 0) for pair in pairs]),
        flip_chance=_mean_chance(pairs),
        weight=fmean(pair.weight for pair in pairs),
        margin=_mean([pair.margin for pair in pairs]),
        scores=_mean_scores(pairs),
    )
    if whole.flip_chance is not None:
        whole = replace(whole, votes=None)
    whole = _turned(whole) if whole.rejected_share > 0.5 else whole
    return replace(whole, judge="", margin=None if whole.margin is None else max(whole.margin, 0.0))


def _heard(group: Sequence[_Judged]) -> list[_Judged]:
    """Without what a named judge says once more."""
    kept: dict[object, _Judged] = {}
    for number, record in enumerate(group):
        said = record.desirable if isinstance(record, Labelled) else spoken_key(record.chosen)
        kept.setdefault((record.judge, said) if record.judge else number, record)
    return list(kept.values())


def _counted(pair: Pair) -> Pair:
    """A verdict without an account is one vote."""
    return pair if pair.votes or pair.flip_chance is not None else replace(pair, votes=(1, 0, 0))


def _turned(pair: Pair) -> Pair:
    return replace(flipped(pair), margin=None if pair.margin is None else -pair.margin)


def _summed(votes: Sequence[tuple[int, int, int]]) -> tuple[int, int, int]:
    chosen, rejected, ties = map(sum, zip(*votes, strict=True))
    return chosen, rejected, ties


def _mean_chance(pairs: Sequence[Pair]) -> float | None:
    """The mean of the rejected answer's shares where any row gives a share, each vote counting as one."""
    if all(pair.flip_chance is None for pair in pairs):
        return None
    counts = [sum(pair.votes) if pair.votes else 1 for pair in pairs]
    return sum(count * pair.rejected_share for count, pair in zip(counts, pairs, strict=True)) / sum(counts)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == len(values) else None


def _mean_scores(pairs: Sequence[Pair]) -> tuple[float, float] | None:
    known = [pair.scores for pair in pairs if pair.scores is not None]
    if len(known) < len(pairs):
        return None
    chosen, rejected = map(fmean, zip(*known, strict=True))
    return chosen, rejected


# --- labels --------------------------------------------------------------------------------------------------------


def _add_label(group: Sequence[Labelled], found: Merged) -> None:
    heard = _heard(group)
    good = sum(record.desirable for record in heard)
    if 2 * good == len(heard):
        detail = f"{good} judge it good and {good} bad"
        found.left_out += [Unusable(record.source, "tied-labels", detail, record) for record in group]
        return
    weight = fmean(record.weight for record in heard)
    found.records.append(replace(heard[0], desirable=2 * good > len(heard), weight=weight, judge=""))
