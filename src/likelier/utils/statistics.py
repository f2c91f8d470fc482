"""Every interval of the product, and the few statistics that the checks need: on numpy alone, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from math import atanh, hypot, inf, sqrt, tanh
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

Numbers = np.ndarray
Z = 1.959964  # standard errors on each side of a 95 % interval
DRAWS = 2000  # of a bootstrap
_AT_ONCE = 2**18  # clusters that are drawn at once: 2 MiB
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
_NAMES = ("p5", "p25", "median", "p75", "p95", "p99")


@dataclass(frozen=True)
class Share:
    """A share of some cases with its 95 % interval."""

    value: float
    low: float
    high: float
    cases: int

    def beyond_half(self, margin: float = 0.02) -> bool:
        """Whether the whole interval lies more than `margin` away from one half."""
        return self.low > 0.5 + margin or self.high < 0.5 - margin

    @property
    def other_side(self) -> Share:
        """The share of the cases that it is not."""
        return Share(1 - self.value, 1 - self.high, 1 - self.low, self.cases)

    def as_json(self) -> dict[str, float | int]:
        """The four figures by name."""
        return {"value": self.value, "low": self.low, "high": self.high, "cases": self.cases}

    def __str__(self) -> str:
        return f"{self.value:.1%} [{self.low:.1%}, {self.high:.1%}]"


@dataclass(frozen=True)
class Correlation:
    """A correlation of some cases with its 95 % interval, within -1 and 1."""

    value: float
    low: float
    high: float
    cases: int

    def __str__(self) -> str:
        return f"{self.value:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


def wilson(successes: float, count: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a proportion; (0, 1) without observations."""
    if count == 0:
        return 0.0, 1.0
    share = successes / count
    centre = share + Z * Z / (2 * count)
    half = Z * sqrt(share * (1 - share) / count + Z * Z / (4 * count * count))
    scale = 1 + Z * Z / count
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


@dataclass(frozen=True)
class Mean:
    """A mean of some rows with its standard error and 95 % interval, both infinite where one row (or prompt) is all."""

    value: float
    error: float
    low: float
    high: float
    cases: int


def mean_of(values: ArrayLike, clusters: ArrayLike | None = None) -> Mean:
    """The mean of `values` (n,), n >= 1, where rows of one of the `clusters` (n,), those of one prompt, may be alike;
    without clusters every row is its own. The interval is Student's, with one degree of freedom fewer than clusters.
    """
    rows = np.asarray(values, dtype=float)
    value, count = float(rows.mean()), len(rows)
    _, (sums,) = _by_cluster(np.arange(count) if clusters is None else clusters, rows - value)
    few = len(sums)
    error = sqrt(few / (few - 1) * float(sums @ sums)) / count if few > 1 else inf
    low, high = around(value, error, few)
    return Mean(value, error, low, high, count)


def around(value: float, error: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a mean of `count` independent values with this standard error."""
    half = _student(count - 1) * error if count > 1 else inf
    return value - half, value + half


def _student(freedom: int) -> float:
    """The 97.5 % quantile of Student's distribution: the exact ones up to 3, else Cornish's and Fisher's series."""
    if freedom <= 3:
        return (12.7062, 4.3027, 3.1824)[freedom - 1]
    terms = (1.0, (Z**2 + 1) / 4, (5 * Z**4 + 16 * Z**2 + 3) / 96, (3 * Z**6 + 19 * Z**4 + 17 * Z**2 - 15) / 384)
    return Z * sum(term / freedom**power for power, term in enumerate(terms))


def bootstrap(sizes: ArrayLike, own: ArrayLike, base: ArrayLike | None = None, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of a mean over rows, or of how far it is above another, where whole clusters of rows (those of
    one prompt) are drawn again, and on each side the runs.

    `sizes` (clusters,) are the rows of each cluster; `own` and `base` (runs, clusters) each run's sum over them. Where
    clusters are alike, as a handful easily is, all draws are: `share_of` and `difference_of` are never that sure.
    """
    rows, generator = np.asarray(sizes), np.random.default_rng(seed)
    sides = [np.asarray(side, dtype=float) for side in (own, base) if side is not None]
    weighted = [(side, _drawn_runs(generator, len(side))) for side in sides]
    few, found = max(1, _AT_ONCE // len(rows)), []
    for start in range(0, DRAWS, few):
        now = slice(start, min(start + few, DRAWS))
        drawn = generator.integers(len(rows), size=(now.stop - start, len(rows)))
        mine, *theirs = ((side.take(drawn, 1).sum(2) * weights[:, now]).sum(0) for side, weights in weighted)
        found.append((mine - sum(theirs)) / rows.take(drawn).sum(1))
    low, high = np.quantile(np.concatenate(found), [0.025, 0.975]).tolist()
    return low, high


def _drawn_runs(generator: np.random.Generator, count: int) -> Numbers:
    """(runs, draws): each run's weight. One run fewer is drawn than there are: of few, as many vary too little."""
    if count == 1:
        return np.ones((1, DRAWS))
    return generator.multinomial(count - 1, [1 / count] * count, DRAWS).T / (count - 1)


def _by_cluster(clusters: ArrayLike, *rows: Numbers) -> tuple[Numbers, list[Numbers]]:
    """The rows in each cluster, and the sums over clusters of each of `rows` (n,)."""
    _, number, sizes = np.unique(np.asarray(clusters), return_inverse=True, return_counts=True)
    return sizes, [np.bincount(number, weights=one) for one in rows]


def share_of(right: ArrayLike, clusters: ArrayLike) -> Share:
    """The mean of `right` (n,), 0 to 1 each, with an interval: Wilson's, or a bootstrap over `clusters` (n,) (rows of
    one prompt) where these repeat, which is never made narrower than Wilson's (it would be, with a handful of prompts).
    """
    values = np.asarray(right, dtype=float)
    count = len(values)
    value = float(values.mean()) if count else 0.5
    low, high = wilson(float(values.sum()), count)
    sizes, sums = _by_cluster(clusters, values)
    if len(sizes) < count:
        below, above = bootstrap(sizes, sums)
        low, high = min(low, below), max(high, above)
    return Share(value, low, high, count)


def difference_of(own: ArrayLike, base: ArrayLike, clusters: ArrayLike) -> Share:
    """How far the mean of `own` (runs, n) is above that of `base` (runs, n), on the same n >= 1 rows, 0 to 1 each.

    The interval is that of a bootstrap over `clusters` (n,) and runs. It is never narrower than what Wilson's intervals
    of the two shares of rows, better ones and worse ones, leave for their difference (squares of distances to the
    limits added, as Newcombe 1998 does): with few rows that differ, or none, a bootstrap is too sure.
    """
    ours, theirs = (np.asarray(side, dtype=float) for side in (own, base))
    by_row = ours.mean(0) - theirs.mean(0)
    count, value = len(by_row), float(by_row.mean())
    better, worse = (share_of(np.maximum(sign * by_row, 0), np.arange(count)) for sign in (1, -1))
    sizes, _ = _by_cluster(clusters)
    low, high = bootstrap(sizes, _by_cluster(clusters, *ours)[1], _by_cluster(clusters, *theirs)[1])
    low = min(low, value - hypot(better.value - better.low, worse.high - worse.value))
    high = max(high, value + hypot(better.high - better.value, worse.value - worse.low))
    return Share(value, max(-1.0, low), min(1.0, high), count)


def ranks(values: Numbers) -> Numbers:
    """Ranks from 1, ties sharing their mean rank."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return ((ends - counts + 1 + ends) / 2)[place]


def rank_correlation(left: Numbers, right: Numbers) -> float:
    """Spearman's rank correlation; 0 where one side does not vary."""
    one, two = ranks(left), ranks(right)
    one, two = one - one.mean(), two - two.mean()
    scale = sqrt(float(one @ one) * float(two @ two))
    return float(one @ two) / scale if scale else 0.0


def rank_correlation_of(left: ArrayLike, right: ArrayLike, clusters: ArrayLike, seed: int = 0) -> Correlation:
    """Spearman's rank correlation of two columns (n,) with an interval: by Fisher's transformation, whose variance for
    ranks is (1 + r^2 / 2) / (n - 3) (Bonett and Wright 2000); where `clusters` (n,) (rows of one prompt) repeat also by
    a bootstrap over these, and the wider of the two. Up to 3 rows tell nothing: -1 to 1.
    """
    one, two = (np.asarray(side, dtype=float) for side in (left, right))
    count, value = len(one), rank_correlation(one, two)
    if count <= 3:
        return Correlation(value, -1.0, 1.0, count)
    half = Z * sqrt((1 + value * value / 2) / (count - 3))
    centre = atanh(min(max(value, -1 + 1e-12), 1 - 1e-12))
    low, high = tanh(centre - half), tanh(centre + half)
    _, number, sizes = np.unique(np.asarray(clusters), return_inverse=True, return_counts=True)
    if len(sizes) < count:
        members = np.split(np.argsort(number, kind="stable"), np.cumsum(sizes)[:-1])
        below, above = _drawn_correlations(one, two, members, seed)
        low, high = min(low, below), max(high, above)
    return Correlation(value, low, high, count)


def _drawn_correlations(one: Numbers, two: Numbers, members: list[Numbers], seed: int) -> tuple[float, float]:
    """The 95 % interval over draws of clusters, each with all its rows."""
    generator, found = np.random.default_rng(seed), np.empty(DRAWS)
    for draw in range(DRAWS):
        rows = np.concatenate([members[place] for place in generator.integers(len(members), size=len(members))])
        found[draw] = rank_correlation(one[rows], two[rows])
    low, high = np.quantile(found, [0.025, 0.975]).tolist()
    return low, high


def chance_above(values: Numbers, up: Numbers) -> Share:
    """How often a value of the rows marked `up` (n,) bool is above one of the others, both drawn at random (ties half).

    This is the area under the ROC curve; its interval is Hanley's and McNeil's (1982).
    """
    many, few = int(up.sum()), int((~up).sum())
    if not many or not few:
        return Share(0.5, 0.0, 1.0, len(values))
    area = (float(ranks(values)[up].sum()) - many * (many + 1) / 2) / (many * few)
    over, under = area / (2 - area), 2 * area * area / (1 + area)
    spread = area * (1 - area) + (many - 1) * (over - area**2) + (few - 1) * (under - area**2)
    half = Z * sqrt(max(spread, 0.0) / (many * few))
    return Share(area, max(0.0, area - half), min(1.0, area + half), len(values))


def summary(values: Numbers) -> dict[str, Any]:
    """Count, mean, extremes and quantiles of some numbers."""
    if not len(values):
        return {"count": 0}
    quantiles = dict(zip(_NAMES, (round(float(q), 2) for q in np.quantile(values, _QUANTILES)), strict=True))
    extremes = {"min": int(values.min()), "max": int(values.max())}
    return {"count": len(values), "mean": round(float(values.mean()), 2), **extremes, **quantiles}


def histogram(*series: Numbers, bins: int = 24) -> dict[str, Any]:
    """Counts of each series over the same bins; the last bin also holds what lies above it (the 99.5th percentile)."""
    every = np.concatenate(series)
    if not len(every):
        return {"edges": [], "counts": [[] for _ in series]}
    top = max(float(np.quantile(every, 0.995)), 1.0)
    width = max(1, int(np.ceil(top / bins)))
    edges = np.arange(0, int(np.ceil(top / width)) + 1) * width
    counts = [np.histogram(np.minimum(one, edges[-1]), edges)[0].tolist() for one in series]
    return {"edges": edges.tolist(), "counts": counts}


def flip_rate(disagreement: float) -> float:
    """The chance e that one judgement is wrong, from how often two judgements of one case disagree, d = 2 e (1 - e):
    e = (1 - sqrt(1 - 2 d)) / 2. At d of one half and above, judgements are coin tosses: e = 1/2.
    """
    return (1 - sqrt(max(0.0, 1 - 2 * disagreement))) / 2
