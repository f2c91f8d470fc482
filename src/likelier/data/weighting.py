"""What the data say beyond which answer is better (votes, weights, margins, scores), where a run asks for it.

Records carry these as the file has them. `applied` leaves in the records only what the run uses, so that nothing else
ever reaches a loss: `weight` and `margin` are then the ones that count, `flip_chance` is the soft label.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from likelier.data.records import Pair, Record, Unusable
from likelier.data.split import prompt_key
from likelier.utils.console import say
from likelier.utils.errors import ConfigError, DataError

if TYPE_CHECKING:
    from likelier.data.groups import Group

One = TypeVar("One", bound="Record")


@dataclass(frozen=True)
class Signals:
    """Which of them a run uses; see the options of the same names."""

    votes: Literal["majority", "soft", "weight"] = "majority"
    weights: Literal["column", "scores", "prompt"] | None = None
    margins: Literal["column", "scores"] | None = None
    min_score_gap: float | None = None

    @property
    def weighs(self) -> bool:
        """Whether rows have weights of their own."""
        return self.weights is not None or self.votes == "weight"

    def words(self) -> dict[str, object]:
        """What is asked for, by the options' names."""
        named = {
            "use_votes": None if self.votes == "majority" else self.votes,
            "use_weights": self.weights,
            "use_margins": self.margins,
            "min_score_gap": self.min_score_gap,
        }
        return {name: value for name, value in named.items() if value is not None}


def applied(
    records: Sequence[Record], signals: Signals, *, held_out: bool = False
) -> tuple[Sequence[Record], list[Unusable]]:
    """The records with the weight, margin and soft label that count, and those that are left out and why.

    An undecided pair (as many votes for as against) is left out unless labels are soft; among `held_out` ones always,
    since neither answer is the right one. Raises `DataError` for a weight, margin or score that is no number where one
    is needed, `ConfigError` where what is asked for would have no effect.
    """
    from likelier.data.views import Changed, as_view, by_numbers  # with numpy, which help does without

    if not held_out:
        _refuse_inert(records, signals)
    numbers = array("q")
    left_out: list[Unusable] = []
    for number, record in enumerate(records):
        reason = _left_out(record, signals, held_out)
        if reason:
            left_out.append(Unusable(record.source, reason))
        else:
            numbers.append(number)
    kept = by_numbers(records, numbers) if left_out else records
    per_prompt = Counter(map(prompt_key, kept)) if signals.weights == "prompt" else Counter()
    found = Changed(as_view(kept), lambda record: _with(record, signals, per_prompt))
    if signals.weights or signals.margins:
        for _ in found:  # what is wrong in a row is told now
            pass
    return found, left_out


def _left_out(record: Record, signals: Signals, held_out: bool) -> str:
    if not isinstance(record, Pair):
        return ""
    if not record.is_decided and (held_out or signals.votes != "soft"):
        return "undecided-pair"
    if signals.min_score_gap is not None and _difference(record) < signals.min_score_gap:
        return "scores-too-close"
    return ""


def _with(record: One, signals: Signals, per_prompt: Counter[bytes]) -> One:
    weight = _weight(record, signals, per_prompt)
    if not isinstance(record, Pair):
        return record if record.weight == weight else replace(record, weight=weight)
    margin = _margin(record, signals)
    soft = record.rejected_share if signals.votes == "soft" else None
    if (record.weight, record.margin, record.flip_chance) == (weight, margin, soft):
        return record
    return replace(record, weight=weight, margin=margin, flip_chance=soft)


def _weight(record: Record, signals: Signals, per_prompt: Counter[bytes]) -> float:
    weight = 1.0
    if signals.weights == "column":
        weight = _checked(record, record.weight, "weight")
    elif signals.weights == "prompt":
        weight = 1 / per_prompt[prompt_key(record)]
    elif signals.weights == "scores":
        weight = _gap(record)
    if signals.votes == "weight" and isinstance(record, Pair):
        weight *= 1 - 2 * record.rejected_share
    return weight


def _margin(pair: Pair, signals: Signals) -> float | None:
    if signals.margins is None:
        return None
    if signals.margins == "scores":
        return _gap(pair)
    if pair.margin is None:
        raise DataError(f"{pair.source}: no margin, which use_margins=column needs; add it, or drop use_margins")
    return _checked(pair, pair.margin, "margin")


def _checked(record: Record, value: float, name: str) -> float:
    if not (isfinite(value) and value >= 0):
        raise DataError(f"{record.source}: the {name} must be a number from 0 on; mend it, or drop use_{name}s")
    return value


def _difference(record: Record) -> float:
    """The chosen answer's score less the rejected one's."""
    scores = record.scores if isinstance(record, Pair) else None
    if scores is None:
        raise DataError(f"{record.source}: no scores of both answers, which the run asks for; add them")
    difference = scores[0] - scores[1]
    if not isfinite(difference):
        raise DataError(
            f"{record.source}: the scores {scores[0]:g} and {scores[1]:g} are not two numbers; mend the row"
        )
    return difference


def _gap(record: Record) -> float:
    """The same where it serves as weight or margin."""
    difference = _difference(record)
    if difference < 0:
        raise DataError(
            f"{record.source}: the chosen answer's score is the smaller one (by {-difference:g}); mend the row, or "
            "leave such rows out with min_score_gap=0"
        )
    return difference


def _refuse_inert(records: Sequence[Record], signals: Signals) -> None:
    """What is asked for must be there."""

    def any_pair(said: Callable[[Pair], Any]) -> bool:
        return any(isinstance(record, Pair) and said(record) for record in records)

    asked = {
        f"use_votes={signals.votes}": (
            signals.votes == "majority" or any_pair(lambda pair: pair.rejected_share),
            "no pair has votes for both answers, or a share",
        ),
        "use_weights=column": (
            signals.weights != "column" or any(record.weight != 1 for record in records),
            "no row has a weight other than 1 (name the column with columns: weight)",
        ),
        "use_weights=prompt": (
            signals.weights != "prompt" or len(set(map(prompt_key, records))) < len(records),
            "every row has a prompt of its own",
        ),
        "use_margins=column": (
            signals.margins != "column" or any_pair(lambda pair: pair.margin is not None),
            "no pair has a margin (name the column with columns: margin)",
        ),
    }
    for option, (has_effect, why) in asked.items():
        if not has_effect:
            raise ConfigError(f"{option} has no effect: {why}; drop it")


def with_even_prompts(
    groups: Sequence[Group], records: Sequence[Record], before: Sequence[Record], signals: Signals
) -> Sequence[Group]:
    """Where every prompt is to count alike: its weight is shared by the groups that are left of it, not also by rows
    that were left out since (too long, for example). `records` are the groups' own, one each; `before` are those among
    which `applied` has shared the weight.
    """
    if signals.weights != "prompt":
        return groups
    shared, left = (Counter(map(prompt_key, some)) for some in (before, records))
    factors = (shared[key] / left[key] for key in map(prompt_key, records))
    return _reweighed(groups, (group.weight * factor for group, factor in zip(groups, factors, strict=True)))


def with_mean_weight_1(groups: Sequence[Group], signals: Signals) -> Sequence[Group]:
    """Weights scaled to mean 1 over the data set, so that they do not change the learning rate's meaning."""
    if not signals.weighs or not groups:
        return groups
    mean = sum(group.weight for group in groups) / len(groups)
    if not mean > 0:
        raise DataError(f"{groups[0].source}: the weight of this row and of every other one is 0; give some above 0")
    return _reweighed(groups, (group.weight / mean for group in groups))


def _reweighed(groups: Sequence[Group], weights: Iterable[float]) -> Sequence[Group]:
    import numpy as np  # which help does without

    from likelier.data.views import changed

    own = np.fromiter(weights, dtype=np.float64, count=len(groups))
    return changed(groups, lambda group, weight: replace(group, weight=weight), own)


def say_signals(groups: Sequence[Group], signals: Signals) -> None:
    """Say what the run makes of the signals."""
    if signals.weighs:
        weights = [group.weight for group in groups]
        say(f"weights: scaled to mean 1, from {min(weights):.3g} to {max(weights):.3g}")
    margins = [group.margin for group in groups if group.margin is not None]
    if margins:
        say(f"margins: from {min(margins):.3g} to {max(margins):.3g}, mean {sum(margins) / len(margins):.3g}")
    soft = [group.flip_chance for group in groups if group.flip_chance is not None]
    if soft:
        say(f"soft labels: {sum(map(bool, soft))} of {len(soft)} pairs are not unanimous, {soft.count(0.5)} are ties")
