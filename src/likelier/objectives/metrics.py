"""Metrics as sums and counts, so that they merge exactly over micro-batches, ranks and logging windows.

A mean of means is never taken: `MetricSums` adds, and divides once, when it is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from likelier.objectives import Scored


@dataclass
class MetricSums:
    """Named (sum, count) pairs. They stay tensors on their device until they are read: adding waits for nothing."""

    sums: dict[str, Tensor | float] = field(default_factory=dict)
    counts: dict[str, Tensor | float] = field(default_factory=dict)

    def add(self, name: str, values: Tensor, where: Tensor | None = None) -> None:
        """Add the elements of `values`, or those that `where` (bool, same shape) selects, to the metric `name`."""
        values = values.detach().double()
        if where is None:
            self.add_sum(name, values.sum(), values.numel())
        else:
            self.add_sum(name, values.where(where, 0.0).sum(), where.sum())

    def add_sum(self, name: str, total: Tensor | float, count: Tensor | float) -> None:
        """Add a sum over `count` values."""
        self.sums[name] = self.sums.get(name, 0.0) + total
        self.counts[name] = self.counts.get(name, 0) + count

    def merge(self, others: Iterable[MetricSums]) -> MetricSums:
        """Add the others' sums and counts to these."""
        for other in others:
            for name, total in other.sums.items():
                self.add_sum(name, total, other.counts[name])
        return self

    def without(self, prefix: str) -> MetricSums:
        """Those whose name begins otherwise."""
        kept = [name for name in self.sums if not name.startswith(prefix)]
        return MetricSums({name: self.sums[name] for name in kept}, {name: self.counts[name] for name in kept})

    def zeros(self) -> MetricSums:
        """The same names with nothing added to them."""
        return MetricSums(dict.fromkeys(self.sums, 0.0), dict.fromkeys(self.counts, 0.0))

    def over_ranks(self, total: Callable[[Tensor], Tensor]) -> MetricSums:
        """These and the sums of all other ranks, which hold the same names; `total` adds up a tensor over ranks."""
        names = sorted(self.sums)
        own = [[float(kind[name]) for name in names] for kind in (self.sums, self.counts)]
        sums, counts = total(torch.tensor(own, dtype=torch.double)).tolist()
        return MetricSums(dict(zip(names, sums, strict=True)), dict(zip(names, counts, strict=True)))

    def means(self) -> dict[str, float]:
        """Each metric's mean, of those that anything was added to; here the device is waited for."""
        counts = {name: float(count) for name, count in self.counts.items()}
        return {name: float(total) / counts[name] for name, total in self.sums.items() if counts[name]}


def label_is_right(rewards: Tensor, desirable: Tensor, baseline: Tensor | float) -> Tensor:
    """(n,) bool: whether each reward lies on its label's side of the baseline; on it is wrong for both."""
    return torch.where(desirable, rewards > baseline, rewards < baseline)


def item_metrics(scored: Scored, losses: Tensor, rewards: Tensor, baseline: Tensor | None = None) -> MetricSums:
    """The metrics of a set of items under TRL's names, as sums and counts.

    `losses` (n,) per item, `rewards` (answers,). Accuracy is strict: a tie is wrong. For labelled rows an item is right
    when its reward lies on its label's side of `baseline` (KTO's beta * z0), and the margin is left to `readable`.
    """
    sums = MetricSums()
    sums.add("loss", losses)
    items = scored.items
    if items.pairs is not None:
        chosen, rejected = items.pairs[:, 0], items.pairs[:, 1]
        sums.add("rewards/margins", rewards[chosen] - rewards[rejected])
        sums.add("rewards/accuracies", (rewards[chosen] > rewards[rejected]).double())
        sides = (("chosen", chosen, None), ("rejected", rejected, None))
    else:
        assert items.rows is not None and items.desirable is not None
        if baseline is not None:
            right = label_is_right(rewards[items.rows], items.desirable, baseline)
            sums.add("rewards/accuracies", right.double())
        sides = (
            ("chosen", items.rows, items.desirable),
            ("rejected", items.rows, ~items.desirable),
        )
    for side, answers, where in sides:
        sums.add(f"rewards/{side}", rewards[answers], where)
        sums.add(f"logps/{side}", scored.logps[answers], where)
        sums.add(f"lengths/{side}", scored.lengths[answers], where)
    return sums


def readable(sums: MetricSums) -> dict[str, float]:
    """The means, with the margin of labelled rows (difference of the two sides' means) where pairs gave none."""
    means = sums.means()
    if "rewards/margins" not in means and "rewards/chosen" in means and "rewards/rejected" in means:
        means["rewards/margins"] = means["rewards/chosen"] - means["rewards/rejected"]
    return means
