"""A run's rows, as it would train on them: what is kept, what is left out and why, and how long they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from likelier.data.groups import Group
from likelier.data.lengths import Row, row_of
from likelier.data.lists import pairs_by_row
from likelier.data.load import PreferenceData
from likelier.data.options import ChatOptions
from likelier.data.past_template import past_template, past_template_words
from likelier.data.prepare import prepare_groups
from likelier.data.tokenize import Truncation
from likelier.data.views import by_numbers, joined
from likelier.data.weighting import Signals
from likelier.objectives import Objective

_MOST_TOKENIZED = 20_000  # rows; of larger files so many, evenly spaced
_LADDER = (128, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 32768, 65536, 131072)
KEPT = 0.99  # of the rows: what a length that is chosen from the data keeps at least
_TOO_LONG = "over-max-length"


@dataclass(frozen=True)
class RowPlan:
    """The rows of a run.

    `read` are all that the files hold; `train` and `held_out` those that are trained on and held out; `over` those over
    `max_length`; `left_out` counts every row that is in none of them by its reason. `lengths` are tokens of prompt and
    longest answer, of every row that the model's context takes. Where only a `share` of the rows was tokenized, the
    counts are drawn on to all. `past_template` are rows of text for a model with a chat template.
    """

    read: int
    train: tuple[Group, ...]
    held_out: tuple[Group, ...]
    over: int
    left_out: Mapping[str, int]
    lengths: tuple[int, ...]
    max_length: int
    context: int
    share: float = 1.0
    past_template: int = 0

    @property
    def kept(self) -> int:
        """Rows that are trained on or held out."""
        return round((len(self.train) + len(self.held_out)) / self.share)

    @property
    def train_count(self) -> int:
        """Rows that are trained on."""
        return round(len(self.train) / self.share)

    @property
    def held_count(self) -> int:
        """Rows that are held out."""
        return round(len(self.held_out) / self.share)

    @property
    def rows(self) -> list[Row]:
        """The training rows' token lengths."""
        return [row_of(group) for group in self.train]

    def kept_at(self, max_length: int) -> float:
        """The share of the rows that this length keeps."""
        return sum(length <= max_length for length in self.lengths) / max(1, len(self.lengths))

    def tokens_at(self, max_length: int) -> int:
        """The tokens of the rows that this length keeps: what time goes with."""
        return sum(length for length in self.lengths if length <= max_length)

    def words(self) -> list[str]:
        """The account in words: every row is in it once."""
        sample = "" if self.share == 1 else f" (from {self.share:.0%} of them, evenly spaced)"
        held = f", {self.held_count:,} of them held out" if self.held_out else ""
        found = [
            f"{self.read:,} rows: {self.kept:,} kept{held}; {self.over:,} are over max_length {self.max_length:,}"
            f"{sample}"
        ]
        others = {reason: count for reason, count in self.left_out.items() if reason != _TOO_LONG}
        if others:
            found.append("left out besides: " + ", ".join(f"{count:,} x {reason}" for reason, count in others.items()))
        if self.past_template:
            found.append(past_template_words(self.past_template, self.read))
        return [*found, *length_words(self)]

    def as_json(self) -> dict[str, Any]:
        """With stable names."""
        return {
            "read": self.read,
            "kept": self.kept,
            "train": self.train_count,
            "held_out": self.held_count,
            "over_max_length": self.over,
            "left_out": dict(self.left_out),
            "past_chat_template": self.past_template,
            "max_length": self.max_length,
            "context": self.context,
            "proposed_max_length": proposed_length(self),
            "lengths": [
                {"max_length": one, "keeps": round(self.kept_at(one), 4), "tokens": self.tokens_at(one)}
                for one in rungs(self)
            ],
            "tokenized_share": self.share,
        }


def rungs(plan: RowPlan) -> list[int]:
    """The lengths worth comparing: from one that loses rows up to the first that keeps all, or the model's context."""
    longest = max(plan.lengths, default=1)
    below = [one for one in _LADDER if one < min(longest, plan.context)]
    above = next((one for one in _LADDER if one >= longest), plan.context)
    return [*below[-3:], min(above, plan.context)]


def proposed_length(plan: RowPlan) -> int:
    """The shortest length of a ladder that keeps 99 % of the rows; the model's context where none does."""
    enough = (one for one in _LADDER if one <= plan.context and plan.kept_at(one) >= KEPT)
    return next(enough, plan.context)


def length_words(plan: RowPlan) -> list[str]:
    """What each length keeps, and what it costs beside the one that is proposed."""
    if not plan.lengths:
        return []
    best, base = proposed_length(plan), max(1, plan.tokens_at(proposed_length(plan)))
    found = []
    for one in sorted({*rungs(plan), best}):
        cost = plan.tokens_at(one) / base - 1
        beside = "" if one == best else f", {abs(cost):.0%} {'more' if cost >= 0 else 'less'} to compute"
        found.append(f"max_length {one:,}: keeps {plan.kept_at(one):.1%} of the rows{beside}")
    return found


def row_plan(
    data: PreferenceData,
    tokenizer: Any,
    objective: type[Objective],
    *,
    max_length: int,
    context: int,
    truncation: Truncation = "drop",
    chat: ChatOptions | None = None,
    signals: Signals | None = None,
) -> RowPlan:
    """Tokenize a run's rows as it would; of more than 20,000 so many, evenly spaced.

    Args:
        data: of `load_preferences`.
        tokenizer: the model's.
        objective: the method: pairs become labels where it wants them.
        max_length: of the run; `context`: the longest that the model takes.
        truncation, chat, signals: as in a run.
    """
    settings: dict[str, Any] = {
        "method": objective.method,
        "wants": objective.data,
        "partners": objective.needs_partner,
        "chat": chat,
        "signals": signals,
    }
    if objective.data == "scores":
        rows, held_rows = pairs_by_row(data.train), pairs_by_row(data.test)
        some, share = some_of(rows)
        train, held = (list(chain.from_iterable(part)) for part in (some, some_of(held_rows, share)[0]))
    else:
        rows, held_rows = data.train, data.test
        train, share = some_of(rows)
        held, _ = some_of(held_rows, share)
    longest = max(context, max_length)
    whole: dict[str, Any] = settings | {"max_length": longest, "truncation": "drop"}
    found = prepare_groups(train, tokenizer, **whole)
    beside = prepare_groups(held, tokenizer, **whole, held_out=True) if held else None
    others = beside.groups if beside else []
    lengths = tuple(group.longest for group in [*found.groups, *others])
    kept = [group for group in found.groups if group.longest <= max_length]
    if truncation != "drop" or objective.data == "scores":  # of scored answers only those go that are too long
        kept = prepare_groups(train, tokenizer, **settings, max_length=max_length, truncation=truncation).groups
    left_out = Counter(found.unusable.counts()) + Counter(beside.unusable.counts() if beside else {})
    beyond = left_out.pop(_TOO_LONG, 0) + sum(length > max_length for length in lengths)
    drawn_on = Counter({reason: round(count / share) for reason, count in left_out.items()})
    return RowPlan(
        read=len(rows) + len(held_rows) + len(data.unusable),
        train=tuple(kept),
        held_out=tuple(group for group in others if truncation != "drop" or group.longest <= max_length),
        over=round(beyond / share),
        left_out=drawn_on + Counter(data.unusable.counts()),
        lengths=lengths,
        max_length=max_length,
        context=longest,
        share=share,
        past_template=round(len(past_template(joined(train, held), tokenizer)) / share),
    )


def some_of(records: Sequence[Any], share: float | None = None) -> tuple[Sequence[Any], float]:
    """So many records, evenly spaced, and the share that they are."""
    most = _MOST_TOKENIZED if share is None else max(1, round(share * len(records)))
    if len(records) <= most:
        return records, 1.0 if share is None else share
    step = len(records) / most
    return by_numbers(records, (int(number * step) for number in range(most))), most / len(records)
