"""The metrics of a policy-gradient step, as sums and counts."""

from __future__ import annotations

from math import sqrt
from typing import Protocol

import torch
from torch import Tensor

from likelier.objectives.divergence import k1, k3
from likelier.objectives.metrics import MetricSums
from likelier.objectives.policy_gradient import RatioLevel, answer_sums
from likelier.objectives.rollout import RolloutItems, only_counted
from likelier.objectives.scored import SequenceScores

_SQUARES = "kl_squares"


class HasRatios(Protocol):
    """A method whose loss has ratios of the policy to the one before the update."""

    @property
    def ratio(self) -> RatioLevel:
        """Whose ratio it is: a token's, or its whole answer's."""
        ...

    @property
    def one_sided(self) -> bool:
        """Whether a bound holds a ratio back only on the side to which its advantage draws it."""
        ...

    def log_ratios(self, scores: SequenceScores, items: RolloutItems) -> Tensor:
        """(tokens,) in nats."""
        ...

    def bounds(self) -> tuple[float, float] | None:
        """The ratios beyond which a token, or an answer, is held back; None for a method without."""
        ...


@torch.no_grad()
def policy_metrics(objective: HasRatios, scores: SequenceScores, items: RolloutItems) -> MetricSums:
    """Of the answers that count, under TRL's names where it has them. Read them with `readable_policy`.

    - `ratio/mean` and `clip_ratio/low_mean`, `high_mean`, `region_mean`: the mean ratio and the share of ratios that
      lose their gradient to the clip (or are clamped, where weights are), below, above, and both. Means over tokens,
      or over answers where a ratio is a whole answer's.
    - `approximate_kl`: nats a token, half the squared log-ratio to the policy before the update (k2), where a rollout
      was scored before it.
    - `kl`: nats an answer, the log-ratio to the reference summed over the answer's tokens (k1), where a reference is
      given.
    - `sampler/kl`: KL(sampler || scorer) in nats a token (k3), where the sampler's log-probabilities are given.
    """
    scores, items = only_counted(scores, items)
    sums, counted = MetricSums(), items.counted()
    _add_ratios(sums, objective, scores, items)
    if items.old_token_logps is not None:
        moved = (scores.token_logps - items.old_token_logps) ** 2 / 2
        sums.add("approximate_kl", moved, counted[scores.answer_of])
    if items.ref_token_logps is not None:
        ratios = k1(scores.token_logps, items.ref_token_logps)
        add_kl(sums, answer_sums(ratios, scores.answer_of, scores.lengths), counted)
    add_drift(sums, scores, items)
    return sums


def add_kl(sums: MetricSums, kl: Tensor, where: Tensor | None = None) -> None:
    """`kl`, and what its standard error is made of: (answers,) each answer's log-ratio to the reference, of all or of
    those that `where` (bool) selects.
    """
    sums.add("kl", kl, where)
    sums.add(_SQUARES, kl * kl, where)


def add_drift(sums: MetricSums, scores: SequenceScores, items: RolloutItems) -> None:
    """`sampler/kl`, where the sampler's log-probabilities are given."""
    if items.sampler_token_logps is not None:
        drift = k3(items.sampler_token_logps, items.old(scores))
        sums.add("sampler/kl", drift, items.counted()[scores.answer_of])


def _add_ratios(sums: MetricSums, objective: HasRatios, scores: SequenceScores, items: RolloutItems) -> None:
    """How far the policy has moved since the step began, and how much of that is held back."""
    ratios, bounds = objective.log_ratios(scores, items).exp(), objective.bounds()
    found = {"ratio/mean": ratios}
    if bounds is not None:
        low, high = ratios < bounds[0], ratios > bounds[1]
        if objective.one_sided:
            better = items.of_tokens(scores)
            low, high = low & (better < 0), high & (better > 0)
        found |= {"clip_ratio/low_mean": low, "clip_ratio/high_mean": high, "clip_ratio/region_mean": low | high}
    counted = items.counted()
    for name, values in found.items():
        if objective.ratio == "token":
            sums.add(name, values, counted[scores.answer_of])
        else:  # the same at each of an answer's tokens
            alike = answer_sums(values.double(), scores.answer_of, scores.lengths) / scores.lengths.clamp(min=1)
            sums.add(name, alike, counted)


def readable_policy(sums: MetricSums) -> dict[str, float]:
    """The means; beside `kl` its standard error over answers, where there are two or more."""
    means = sums.means()
    squares, count = means.pop(_SQUARES, None), float(sums.counts.get("kl", 0))
    if squares is not None and count > 1:
        means["kl_standard_error"] = sqrt(max(squares - means["kl"] ** 2, 0.0) / (count - 1))
    return means
