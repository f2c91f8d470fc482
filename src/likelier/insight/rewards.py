"""What answers earned, as readers of a run compare it: parts of a reward, gains on the same prompts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from likelier.runs.reader import Row
from likelier.utils.statistics import difference_of, mean_of

_FEW = 3  # different changes: with rewards of 0 and 1 there are no more


@dataclass(frozen=True)
class Gain:
    """How much more answers earn than others to the same prompts, with its 95 % interval over `prompts`."""

    value: float
    low: float
    high: float
    prompts: int

    @property
    def is_above(self) -> bool:
        """Whether the whole interval lies above 0."""
        return self.low > 0

    @property
    def is_below(self) -> bool:
        """Whether the whole interval lies below 0."""
        return self.high < 0

    def __str__(self) -> str:
        if self.prompts < 2:
            return f"{self.value:+.3g} of 1 prompt"
        return f"{self.value:+.3g} ({self.low:+.3g} to {self.high:+.3g}) of {self.prompts:,} prompts"


def gain_of(before: Sequence[float | None], now: Sequence[float | None]) -> Gain | None:
    """How much more `now` earns than `before`, prompt by prompt; None where no prompt has both, or they are not the
    same.

    Student's interval. Where changes take few values, as those of a reward of 0 or 1 do, it is that of a difference of
    shares (`difference_of`): a handful of equal changes would make Student's too sure.
    """
    if len(before) != len(now):
        return None
    both = [(one, other) for one, other in zip(before, now, strict=True) if one is not None and other is not None]
    if not both:
        return None
    pairs = np.array(both)
    changes = pairs[:, 1] - pairs[:, 0]
    spread = float(pairs.max() - pairs.min())
    if spread and len(np.unique(changes)) <= _FEW:
        earlier, later = ((pairs - pairs.min()) / spread).T
        found = difference_of([later], [earlier], range(len(both)))
        return Gain(spread * found.value, spread * found.low, spread * found.high, len(both))
    mean = mean_of(changes)
    return Gain(mean.value, mean.low, mean.high, len(both))


def reward_parts(rows: Iterable[Row]) -> list[str]:
    """The names of the rewards that make up the whole one, as they are logged: `rewards/NAME/mean`."""
    names = (name for row in rows for name in row if name.startswith("rewards/") and name.endswith("/mean"))
    return [name.split("/", 1)[1].rsplit("/", 1)[0] for name in dict.fromkeys(names)]
