"""The GRPO family: one objective with options, and its presets.

A preset is `PolicyGradient` with its paper's values. Everything here is a pure function of scores, rewards and what
was known when the answers were written; sampling, rewards and the loop are elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from likelier.objectives.advantages import AdvantageKind, Advantages, group_advantages, overlong_penalty
from likelier.objectives.base import hyperparameter
from likelier.objectives.divergence import k3
from likelier.objectives.metrics import MetricSums
from likelier.objectives.online_base import OnlineObjective
from likelier.objectives.online_metrics import policy_metrics
from likelier.objectives.policy_gradient import (
    Aggregation,
    RatioLevel,
    aggregate,
    clamped_weight_losses,
    clipped_losses,
    log_ratios_at,
    reinforce_losses,
    truncated_weights,
)
from likelier.objectives.rollout import RolloutItems, StepCounts, only_counted
from likelier.objectives.scored import SequenceScores

Surrogate = Literal["clipped", "clamped-weight", "none"]
KLPlace = Literal["loss", "reward"]

WIDEST_GEOMETRIC_CLIP = 0.05  # a geometric mean over an answer's tokens moves by thousandths in a step
DEFAULT_CAP = 2.0  # of truncated importance weights

_CHOICES = {
    "advantage": AdvantageKind,
    "aggregation": Aggregation,
    "surrogate": Surrogate,
    "ratio": RatioLevel,
    "kl_place": KLPlace,
}


@dataclass(frozen=True)
class PolicyGradient(OnlineObjective):
    """A policy-gradient method: how rewards become advantages, ratios a loss, and answers a step.

    `surrogate` is what the ratio rho of the policy to the one that the step began with does to a token's loss:
    `clipped` (`policy_gradient.clipped_losses`), `clamped-weight` (`clamped_weight_losses`) or `none`
    (`reinforce_losses`). The other fields of a preset are options. Raises `ValueError` for values that cannot work and
    for options without effect.
    """

    surrogate: Surrogate = "clipped"
    advantage: AdvantageKind = hyperparameter(
        "mean", "what a reward is compared with, and whether the spread divides it"
    )
    aggregation: Aggregation = hyperparameter("token", "what the tokens' losses are summed over and divided by")
    ratio: RatioLevel = hyperparameter("token", "whose ratio is clipped: a token's, or its whole answer's")
    clip_low: float | None = hyperparameter(None, "how far below 1 a ratio still has a gradient")
    clip_high: float | None = hyperparameter(None, "how far above 1 a ratio still has a gradient")
    clip_dual: float | None = hyperparameter(None, "the most that a bad answer's ratio counts (dual clip)")
    weight_low: float | None = hyperparameter(None, "the least weight of a token (clamped weights)")
    weight_high: float | None = hyperparameter(None, "the largest weight of a token (clamped weights)")
    kl_coefficient: float = hyperparameter(0.0, "weight of the divergence from the reference; 0 loads no reference")
    kl_place: KLPlace = hyperparameter(
        "loss", "where the divergence is charged: ratio x k3 in the loss, or k1 in the reward"
    )
    tis: RatioLevel | None = hyperparameter(None, "corrects for a sampler that differs: truncated importance sampling")
    tis_cap: float | None = hyperparameter(None, f"the largest weight of that correction (default {DEFAULT_CAP:g})")
    refill: bool = hyperparameter(False, "replaces groups whose rewards are all equal by other prompts'")
    overlong_cache: float = hyperparameter(
        0.0, "share of the longest answer over which a growing penalty is taken off its reward; 0 takes none"
    )

    def __post_init__(self) -> None:
        for name, kinds in _CHOICES.items():
            self._require(getattr(self, name) in get_args(kinds), name, f"one of {', '.join(get_args(kinds))}")
        for surrogate, names in _OWN.items():
            for name in names:
                self._require(
                    self.surrogate == surrogate or getattr(self, name) is None,
                    name,
                    f"left out: this method's ratios are not {surrogate}, so that it would have no effect",
                )
        for name, fits, wanted in _RULES:
            self._require(fits(self), name, wanted)

    @property
    def needs_reference(self) -> bool:
        return self.kl_coefficient > 0

    @property
    def refills(self) -> bool:
        return self.refill

    @property
    def compares_answers(self) -> bool:
        return self.advantage != "step"

    def needs_old_logps(self, updates_per_rollout: int) -> bool:
        return self._kl_in("reward") or super().needs_old_logps(updates_per_rollout)

    def per_token(self) -> bool:
        return self.aggregation == "sequence-mean"

    def inert(self, given: Collection[str]) -> str | None:
        if "kl_place" in given and not self.needs_reference:
            return "kl_place has no effect with kl_coefficient=0; drop it, or give a coefficient"
        return None

    def warnings(self) -> list[str]:
        if self.ratio == "token" or not self._kl_in("loss"):
            return []
        return [
            f"{self.method}: the divergence in the loss is weighted by the answers' ratios, as in TRL, and then "
            "follows the gradient of the KL only roughly; --kl-place reward charges it exactly"
        ]

    def _kl_in(self, place: KLPlace) -> bool:
        return self.kl_coefficient > 0 and self.kl_place == place

    def advantages(
        self,
        rewards: Tensor,
        group_of: Tensor,
        *,
        lengths: Tensor,
        max_length: int,
        kl: Tensor | None = None,
    ) -> Advantages:
        """As every online method's: long answers are charged, then the divergence where the reward is charged for it,
        then groups are compared. Raises `ValueError` as `group_advantages` does.
        """
        if cache := round(self.overlong_cache * max_length):
            rewards = rewards + overlong_penalty(lengths, limit=max_length, cache=cache).to(rewards)
        if self._kl_in("reward"):
            if kl is None:
                raise ValueError(f"{self.method} charges the divergence in the reward and got none")
            rewards = rewards - self.kl_coefficient * kl
        return group_advantages(rewards, group_of, kind=self.advantage)

    def losses(self, scores: SequenceScores, items: RolloutItems, step: StepCounts) -> Tensor:
        scores, items = only_counted(scores, items)
        token_losses = self.token_losses(scores, items)
        return aggregate(token_losses, scores.answer_of, scores.lengths, how=self.aggregation, step=step)

    def metrics(self, scores: SequenceScores, items: RolloutItems) -> MetricSums:
        return policy_metrics(self, scores, items)

    def token_losses(self, scores: SequenceScores, items: RolloutItems) -> Tensor:
        """One loss a token, (tokens,), not reduced. A whole answer's loss stands at each of its tokens where its ratio
        is a mean of theirs, and in equal parts where it is their product: at ratio 1 all three have the same gradient.
        """
        ratios = self.log_ratios(scores, items)
        found = self._surrogate_losses(ratios, scores, items.of_tokens(scores))
        if self.ratio == "sequence":
            found = found / scores.lengths[scores.answer_of]
        if self.tis is not None:
            found = found * self._sampler_weights(self.tis, scores, items)
        if self._kl_in("loss"):
            if items.ref_token_logps is None:
                raise ValueError(f"{self.method} charges the divergence in the loss and got no reference")
            found = found + self.kl_coefficient * ratios.exp() * k3(scores.token_logps, items.ref_token_logps)
        return found

    def log_ratios(self, scores: SequenceScores, items: RolloutItems) -> Tensor:
        """(tokens,) of the policy to the one before the update, at this method's level."""
        return log_ratios_at(self.ratio, scores.token_logps - items.old(scores), scores.answer_of, scores.lengths)

    def _surrogate_losses(self, ratios: Tensor, scores: SequenceScores, advantages: Tensor) -> Tensor:
        if self.surrogate == "clipped":
            assert self.clip_low is not None and self.clip_high is not None
            return clipped_losses(ratios, advantages, low=self.clip_low, high=self.clip_high, dual=self.clip_dual)
        if self.surrogate == "clamped-weight":
            assert self.weight_low is not None and self.weight_high is not None
            bounds = {"low": self.weight_low, "high": self.weight_high}
            return clamped_weight_losses(ratios, scores.token_logps, advantages, **bounds)
        return reinforce_losses(scores.token_logps, advantages)

    def _sampler_weights(self, level: RatioLevel, scores: SequenceScores, items: RolloutItems) -> Tensor:
        """(tokens,) truncated importance weights."""
        if items.sampler_token_logps is None:
            raise ValueError(f"{self.method} corrects for the sampler and got none of its log-probabilities")
        difference = items.old(scores) - items.sampler_token_logps
        levelled = log_ratios_at(level, difference, scores.answer_of, scores.lengths)
        return truncated_weights(levelled, cap=DEFAULT_CAP if self.tis_cap is None else self.tis_cap)

    @property
    def one_sided(self) -> bool:
        """Whether a bound holds a ratio back only on the side to which its advantage draws it."""
        return self.surrogate == "clipped"

    def bounds(self) -> tuple[float, float] | None:
        """The ratios beyond which a token, or an answer, is held back; None for a method without."""
        if self.surrogate == "clipped":
            assert self.clip_low is not None and self.clip_high is not None
            return 1 - self.clip_low, 1 + self.clip_high
        return None if self.weight_low is None or self.weight_high is None else (self.weight_low, self.weight_high)


# The options that one surrogate alone has.
_OWN: dict[Surrogate, tuple[str, ...]] = {
    "clipped": ("clip_low", "clip_high", "clip_dual"),
    "clamped-weight": ("weight_low", "weight_high"),
}


def _within(value: float | None, low: float, high: float) -> bool:
    return value is not None and low <= value <= high


# Option, whether it fits the others, and what it must be.
_RULES: tuple[tuple[str, Callable[[PolicyGradient], bool], str], ...] = (
    (
        "answers_per_prompt",
        lambda own: own.answers_per_prompt >= (1 if own.advantage == "step" else 2),
        "at least 2, because an answer is compared with the others of its prompt (1 with advantage=step)",
    ),
    (
        "clip_low",
        lambda own: own.surrogate != "clipped" or (_within(own.clip_low, 0, 1) and own.clip_low != 0),
        "above 0 and at most 1",
    ),
    ("clip_high", lambda own: own.surrogate != "clipped" or (own.clip_high or 0) > 0, "above 0"),
    *(
        (
            name,
            lambda own, name=name: own.ratio != "geometric" or getattr(own, name) <= WIDEST_GEOMETRIC_CLIP,
            f"at most {WIDEST_GEOMETRIC_CLIP:g} where the ratio is an answer's geometric mean: that moves by "
            "thousandths, and a wider clip never holds; GSPO's paper has 0.0003 below and 0.0004 above",
        )
        for name in ("clip_low", "clip_high")
    ),
    (
        "clip_dual",
        lambda own: own.clip_dual is None or own.clip_dual > 1 + (own.clip_high or 0),
        "above 1 + clip_high; 3 is usual",
    ),
    ("weight_low", lambda own: own.surrogate != "clamped-weight" or _within(own.weight_low, 0, 1), "from 0 to 1"),
    (
        "weight_high",
        lambda own: own.surrogate != "clamped-weight" or _within(own.weight_high, 1, torch.inf),
        "at least 1: it bounds the ratio itself, which is 1 before the first update, so that less scales every "
        "gradient down (0.2, the default of TRL's epsilon_high, to a fifth); 5 is usual",
    ),
    (
        "ratio",
        lambda own: own.surrogate == "clipped" or own.ratio == "token",
        "token: only a method that clips has ratios of whole answers",
    ),
    ("kl_coefficient", lambda own: 0 <= own.kl_coefficient < torch.inf, "at least 0"),
    (
        "tis",
        lambda own: own.tis is None or own.tis in get_args(RatioLevel),
        f"one of {', '.join(get_args(RatioLevel))}",
    ),
    (
        "tis_cap",
        lambda own: own.tis_cap is None or own.tis is not None,
        "left out without tis: it would have no effect",
    ),
    ("tis_cap", lambda own: own.tis_cap is None or own.tis_cap >= 1, "at least 1"),
    (
        "refill",
        lambda own: not own.refill or own.advantage != "step",
        "left out with advantage=step: there a group of equal rewards is not lost",
    ),
    ("overlong_cache", lambda own: 0 <= own.overlong_cache < 1, "in [0, 1)"),
)

_GRPO = PolicyGradient("grpo", "arXiv 2402.03300", clip_low=0.2, clip_high=0.28)
GRPO_FAMILY = (
    _GRPO,
    PolicyGradient("dr_grpo", "arXiv 2503.20783", aggregation="constant", clip_low=0.2, clip_high=0.2),
    PolicyGradient(
        "dapo",
        "arXiv 2503.14476",
        answers_per_prompt=16,
        advantage="std",
        clip_low=0.2,
        clip_high=0.28,
        refill=True,
        overlong_cache=0.2,
    ),
    PolicyGradient(
        "rloo",
        "arXiv 2402.14740",
        answers_per_prompt=4,
        advantage="leave-one-out",
        aggregation="sequence-sum",
        ratio="sequence",
        clip_low=0.2,
        clip_high=0.2,
        kl_coefficient=0.05,
        kl_place="reward",
    ),
    PolicyGradient(
        "gspo",
        "arXiv 2507.18071",
        advantage="std",
        aggregation="sequence-mean",
        ratio="geometric",
        clip_low=3e-4,
        clip_high=4e-4,
    ),
    PolicyGradient(
        "cispo",
        "arXiv 2506.13585",
        surrogate="clamped-weight",
        answers_per_prompt=16,
        advantage="std",
        weight_low=0.0,
        weight_high=5.0,
    ),
    PolicyGradient("reinforce", "Williams, 1992", surrogate="none", answers_per_prompt=1, advantage="step"),
)
# Where the preset is not what its paper has.
GRPO_OF_ITS_PAPER = replace(
    _GRPO, answers_per_prompt=64, advantage="std", aggregation="sequence-mean", clip_high=0.2, kl_coefficient=0.04
)
