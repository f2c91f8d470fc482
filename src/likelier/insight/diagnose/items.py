"""The held-out answers one by one, as `evaluations/step-N.json` lists them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean
from typing import Any

from likelier.insight.diagnose.statistics import Level, mean_of
from likelier.runs.evaluations import Detail
from likelier.utils.statistics import Share, share_of

Columns = Mapping[str, Any]  # of `Detail.items`


@dataclass(frozen=True)
class Side:
    """The answers of one side: how their log-probabilities stand to the reference or the start (nats), and lengths.

    Of a reward model `scores` are what it gives them, and `moved` how that has changed, where the start is known.
    """

    moved: tuple[float, ...]
    lengths: tuple[int, ...]
    scores: tuple[float, ...] = ()

    @property
    def standing(self) -> tuple[float, ...]:
        """By what answers are compared: their scores, where there are any. (The head of a reward model is drawn, so
        that its changes say nothing of what it prefers.)
        """
        return self.scores or self.moved


@dataclass(frozen=True)
class Items:
    """Held-out answers by side, `chosen` and `rejected`; paired where both stand in the same order, with the numbers of
    the pairs' prompts as far as they are known.
    """

    sides: Mapping[str, Side]
    is_paired: bool
    prompts: Sequence[int] = ()

    def level(self, side: str) -> Level:
        """Where a side stands, in the mean."""
        return mean_of(self.sides[side].standing, self._prompts(len(self.sides[side].standing)))

    def typical(self, side: str) -> float:
        """The root mean square of a side's movements: what they are whatever their direction; 0 of none known."""
        moved = self.sides[side].moved
        return sqrt(fmean(value * value for value in moved)) if moved else 0.0

    @property
    def margins(self) -> list[float]:
        """By how much the chosen answer of each pair stands above the rejected one."""
        chosen, rejected = self.sides["chosen"].standing, self.sides["rejected"].standing
        return [one - other for one, other in zip(chosen, rejected, strict=True)]

    @property
    def margin(self) -> Level:
        """The mean of `margins`."""
        return mean_of(self.margins, self._prompts(len(self.margins)))

    def _prompts(self, count: int) -> Sequence[int] | None:
        """The prompts of that many rows; None where they are not known."""
        return self.prompts if len(self.prompts) == count else None

    @property
    def longer_by(self) -> list[int]:
        """Tokens by which each chosen answer is longer than its rejected one."""
        chosen, rejected = self.sides["chosen"].lengths, self.sides["rejected"].lengths
        return [one - other for one, other in zip(chosen, rejected, strict=True)]

    def share(self, right: Sequence[bool], of: Sequence[bool]) -> Share:
        """The share of pairs that are `right` (pairs,), of those that `of` (pairs,) is true of."""
        prompts = self._prompts(len(of)) or range(len(of))
        kept = [number for number, is_kept in enumerate(of) if is_kept]
        return share_of([right[number] for number in kept], [prompts[number] for number in kept])

    @property
    def both_fell(self) -> Share:
        """The share of pairs of which both answers lost."""
        both = zip(self.sides["chosen"].moved, self.sides["rejected"].moved, strict=True)
        fell = [one < 0 and other < 0 for one, other in both]
        return self.share(fell, [True] * len(fell))


def items_of(start: Detail, now: Detail, *, scores: bool = False) -> Items | None:
    """The items of the evaluation `now`; without a reference they are compared with the same rows at the `start`.
    With `scores` they are what a reward model gives its answers, which can be compared without either.

    None where there is no such file, nothing to compare with, or no preference in it.
    """
    if not now.items or now is start or now.step == 0:
        return None
    table, before = now.items, start.items
    if "chosen" in table and "rejected" in table:
        chosen, rejected = (_side(table, before, side, scores) for side in ("chosen", "rejected"))
        if chosen is None or rejected is None:
            return None
        return Items({"chosen": chosen, "rejected": rejected}, True, table.get("prompt") or ())
    whole = _side(table, before, "completion", scores)
    if whole is None or "label" not in table:
        return None
    return Items(_by_label(whole, table["label"]), False)


def _side(table: Columns, before: Columns, name: str, scores: bool) -> Side | None:
    own = table.get(name) or {}
    logps, others = own.get("logps"), own.get("ref_logps") or _at_start(table, before, name)
    if not logps or (others is None and not scores):
        return None
    moved = tuple(logp - other for logp, other in zip(logps, others, strict=True)) if others is not None else ()
    return Side(moved, tuple(own.get("lengths") or [0] * len(logps)), tuple(logps) if scores else ())


def _at_start(table: Columns, before: Columns, name: str) -> list[float] | None:
    """The same rows' log-probabilities at the start; None where a row was not scored then."""
    known: dict[tuple[str, int], float] = {}
    for key, logp in zip(_keys(before, name), (before.get(name) or {}).get("logps") or (), strict=False):
        known[key] = logp
    keys = _keys(table, name)
    return [known[key] for key in keys] if keys and all(key in known for key in keys) else None


def _keys(table: Columns, name: str) -> list[tuple[str, int]]:
    """Each row's source, numbered where a source has several rows."""
    seen: dict[str, int] = {}
    keys = []
    for source in table.get("source") or ():
        seen[source] = seen.get(source, -1) + 1
        keys.append((source, seen[source]))
    return keys if len(keys) == len((table.get(name) or {}).get("logps") or ()) else []


def _by_label(whole: Side, labels: Sequence[bool]) -> dict[str, Side]:
    found = {}
    for side, wanted in (("chosen", True), ("rejected", False)):
        own = [place for place, label in enumerate(labels) if bool(label) == wanted]
        if own:
            found[side] = Side(tuple(whole.moved[i] for i in own), tuple(whole.lengths[i] for i in own))
    return found
