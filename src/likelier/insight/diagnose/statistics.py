"""What a handful of noisy steps can tell: levels, their errors, changes that are larger than the noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import atanh, inf, isfinite, sqrt
from statistics import fmean, median

from likelier.utils import statistics

SURE = 3.0  # standard errors: one false alarm in 700 looks at noise alone
BELIEVABLE = 2.0  # standard errors: enough where something else speaks for it as well
_ENOUGH = 4  # steps below which noise cannot be told from change


@dataclass(frozen=True)
class Level:
    """A mean with its standard error (infinite where too few values are known); of how many `cases`, and how many of
    these are independent, where that is known.
    """

    value: float
    error: float = 0.0
    cases: int = field(default=0, compare=False)
    independent: int = field(default=0, compare=False)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval; None where no error is known."""
        if self.independent < 2 or not isfinite(self.error):
            return None
        return statistics.around(self.value, self.error, self.independent)

    def scaled(self, factor: float) -> Level:
        """The same in another unit."""
        return replace(self, value=factor * self.value, error=abs(factor) * self.error)

    def surely_below(self, limit: float, errors: float = SURE) -> bool:
        """Whether it lies under the limit by more than its noise."""
        return self.value + errors * self.error < limit

    def surely_above(self, limit: float, errors: float = SURE) -> bool:
        """Whether it lies over the limit by more than its noise."""
        return self.value - errors * self.error > limit

    def __sub__(self, other: Level) -> Level:
        cases = min(self.cases, other.cases)
        independent = min(self.independent, other.independent)
        return Level(self.value - other.value, sqrt(self.error**2 + other.error**2), cases, independent)


@dataclass(frozen=True)
class Trend:
    """A metric over the logged steps.

    Its noise is that of differences between neighbours (sqrt of half their mean square), which a trend does not enter.
    """

    steps: tuple[int, ...]
    values: tuple[float, ...]

    def __bool__(self) -> bool:
        return bool(self.values)

    def __len__(self) -> int:
        return len(self.values)

    def scaled(self, factor: float) -> Trend:
        """The same in another unit."""
        return Trend(self.steps, tuple(factor * value for value in self.values))

    @property
    def third(self) -> int:
        """Values in a third, at least one."""
        return max(1, len(self.values) // 3)

    @property
    def noise(self) -> float:
        """Standard deviation of one value about the trend."""
        if len(self.values) < _ENOUGH:
            return inf
        gaps = [after - before for before, after in zip(self.values, self.values[1:], strict=False)]
        return sqrt(fmean(gap * gap for gap in gaps) / 2)

    @property
    def first(self) -> Level:
        """The first third."""
        return self._level(self.values[: self.third])

    @property
    def last(self) -> Level:
        """The last third."""
        return self._level(self.values[-self.third :])

    @property
    def rise(self) -> Level:
        """Last third minus first third."""
        return self.last - self.first

    def _level(self, values: Sequence[float]) -> Level:
        return Level(fmean(values), self.noise / sqrt(len(values)), len(values), len(values))


def trend_of(column: tuple[list[int], list[float]]) -> Trend:
    """A metric's finite values."""
    known = [(step, value) for step, value in zip(*column, strict=True) if isfinite(value)]
    return Trend(tuple(step for step, _ in known), tuple(value for _, value in known))


def mean_of(values: Sequence[float], clusters: Sequence[int] | None = None) -> Level:
    """The mean of values with its standard error, rows of one cluster (a prompt) taken together."""
    found = statistics.mean_of(values, clusters)
    return Level(found.value, found.error, found.cases, len(set(clusters)) if clusters else found.cases)


def spikes(trend: Trend, times: float, window: int = 5) -> list[int]:
    """Steps whose value is more than `times` the medians of the values before and of those after, up to `window` each.

    Both count: a level that falls once for good is no spike before its fall.
    """
    found = []
    for place, value in enumerate(trend.values):
        sides = trend.values[max(0, place - window) : place], trend.values[place + 1 : place + 1 + window]
        known = max(map(len, sides)) > 1  # one value is no level, though it shows that a high one is no exception
        if known and value > times * max(median(side) for side in sides if side):
            found.append(trend.steps[place])
    return found


def correlation(left: Sequence[float], right: Sequence[float]) -> float:
    """Pearson's correlation; 0 where one side does not vary."""
    one, two = fmean(left), fmean(right)
    shared = sum((a - one) * (b - two) for a, b in zip(left, right, strict=True))
    spread = sqrt(sum((a - one) ** 2 for a in left) * sum((b - two) ** 2 for b in right))
    return shared / spread if spread else 0.0


def is_correlated(value: float, count: int) -> bool:
    """Whether a correlation of `count` pairs is above 0 by more than noise (Fisher's transformation)."""
    return count > 3 and atanh(min(value, 1 - 1e-9)) * sqrt(count - 3) > SURE
