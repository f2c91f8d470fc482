"""The few statistics that the checks need, on numpy alone: an audit without a model does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np

Numbers = np.ndarray
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


def wilson(successes: float, count: float, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's 95 % interval of a proportion, as `metrics.wilson_interval` has it; (0, 1) without observations."""
    if count == 0:
        return 0.0, 1.0
    share = successes / count
    centre = share + z * z / (2 * count)
    half = z * sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def share_of(right: Numbers, clusters: Numbers, *, draws: int = 1000, seed: int = 0) -> Share:
    """The mean of `right` (n,), 0 to 1 each, with an interval: Wilson's, or a bootstrap over `clusters` (n,) (rows of
    one prompt) where these repeat, which is never made narrower than Wilson's (it would be, with a handful of prompts).
    """
    count = len(right)
    value = float(right.mean()) if count else 0.5
    _, number = np.unique(clusters, return_inverse=True)
    groups = int(number.max()) + 1 if count else 0
    low, high = wilson(float(right.sum()), count)
    if groups == count:
        return Share(value, low, high, count)
    sums, sizes = np.bincount(number, weights=right, minlength=groups), np.bincount(number, minlength=groups)
    generator = np.random.default_rng(seed)
    means = []
    for _ in range(draws):
        drawn = generator.integers(groups, size=groups)
        means.append(sums[drawn].sum() / sizes[drawn].sum())
    below, above = np.quantile(means, [0.025, 0.975])
    return Share(value, min(low, float(below)), max(high, float(above)), count)


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
    half = 1.959964 * sqrt(max(spread, 0.0) / (many * few))
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
