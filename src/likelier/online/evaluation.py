"""Held-out prompts, answered again and again with the same random numbers: what the answers earn."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from likelier.data.records import last_turn
from likelier.data.split import prompt_key
from likelier.models.generation import Written
from likelier.objectives.advantages import combine_rewards
from likelier.online.rewards.load import RewardSet
from likelier.online.rollout import Asked, Rollout
from likelier.online.rollouts import RolloutMaker, judged, sampled
from likelier.online.sampling import Sampled, Sampler
from likelier.scoring.reference import Reference
from likelier.training.evaluation import When
from likelier.training.evaluation.answers import Answer, answer_metrics
from likelier.utils.statistics import Mean, Share, difference_of, mean_of, share_of

MOST_SHOWN = 16  # prompts whose answers an evaluation's file holds


@dataclass
class OnlineEvaluator:
    """Lets the policy answer held-out prompts once each, and the start policy as often as a group has answers: the best
    of these is the bar that training has to beat.
    """

    maker: RolloutMaker
    judge: RewardSet
    asked: Sequence[Asked]
    reference: Reference | None = None
    at_start: Mapping[str, Any] | None = None
    seconds: dict[When, float] = field(default_factory=dict)

    def evaluate(self, when: When, step: int) -> tuple[dict[str, float], dict[str, Any]]:
        """Metrics, and what evaluations/step-N.json holds."""
        began = time.monotonic()
        drawn = self._written(self.maker.sampler, 1)
        parts, rewards = self._judged(drawn)
        metrics = self._reward_metrics(parts, rewards) | self._of_answers(drawn) | self._divergence(drawn)
        detail = {"step": step, "when": when, "rewards": list(map(_given, rewards)), "items_of": len(self.asked)}
        if when == "start" and self.maker.objective.answers_per_prompt > 1:
            best = self._best_of_n()
            metrics |= {"best_of_n": float(best[~best.isnan()].mean())} if not bool(best.isnan().all()) else {}
            detail["best_of_n"] = list(map(_given, best))
        if when != "interval":
            detail["samples"] = self._samples(drawn, rewards)
            detail["prompts"] = [prompt_key(one.prompt).hex() for one in self.asked]
        if when == "start":
            self.at_start = detail | {"lengths": drawn.lengths.tolist()}
            detail["lengths"] = drawn.lengths.tolist()
        elif self.at_start is not None:
            metrics |= self._against_start(rewards)
        took = time.monotonic() - began
        self.seconds[when] = self.seconds.get(when, 0.0) + took
        return metrics | {"items": float(len(self.asked)), "seconds": round(took, 3)}, detail

    def _written(self, sampler: Sampler, each: int) -> Rollout:
        return sampled(sampler, self.asked, each, "held out", "held-out answers", self.maker.ranks)

    def _judged(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        parts = judged(self.maker.policy, self.judge, rollout, "held-out answers", self.maker.ranks)
        weights = torch.tensor(self.judge.weights, dtype=parts.dtype)
        return parts, combine_rewards(parts, weights, rollout.group_of, how="sum")

    def _reward_metrics(self, parts: Tensor, rewards: Tensor) -> dict[str, float]:
        """The mean reward with its interval, each part's mean, how far reward models are apart, and the share of
        answers without a verdict.
        """
        said = rewards[~rewards.isnan()]
        found = {"no_verdict": 1 - len(said) / len(rewards)} if len(said) < len(rewards) else {}
        if len(said):
            found |= earned(said)
        for name, part in zip(self.judge.names, parts.unbind(1), strict=True):
            if len(own := part[~part.isnan()]):
                found[f"rewards/{name}/mean"] = float(own.mean())
        spread = self.judge.spread(parts)
        if spread is not None and len(known := spread[~spread.isnan()]):
            found["rewards/spread"] = float(known.mean())
        return found

    def _best_of_n(self) -> Tensor:
        """(prompts,) the best reward of the start policy's answers to each, NaN where none has one."""
        many = self._written(self.maker.sampler, self.maker.objective.answers_per_prompt)
        rewards = self._judged(many)[1]
        best = torch.full((len(self.asked),), -torch.inf, dtype=rewards.dtype)
        best = best.scatter_reduce(0, many.group_of, rewards.nan_to_num(-torch.inf), "amax")
        return best.where(best.isfinite(), torch.nan)

    def _of_answers(self, drawn: Rollout) -> dict[str, float]:
        lengths = (self.at_start or {}).get("lengths", [])
        return answer_metrics([Answer(self._as_written(answer)) for answer in drawn.answers], lengths)

    def _divergence(self, drawn: Rollout) -> dict[str, float]:
        """KL(policy || reference) in nats an answer, where a reference is at hand."""
        if self.reference is None:
            return {}
        with self.reference.use() as model:
            theirs = self.maker.walker.token_logps(model, drawn)
        pairs = zip(drawn.answers, theirs, strict=True)
        ratios = [float((answer.logps - other).sum()) for answer, other in pairs]
        error = {"kl_standard_error": mean_of(ratios).error} if len(ratios) > 1 else {}
        return {"kl": fmean(ratios), "kl_per_token": sum(ratios) / drawn.tokens} | error

    def _against_start(self, rewards: Tensor) -> dict[str, float]:
        """How much more the answers earn than the start policy's to the same prompts, with its interval."""
        assert self.at_start is not None
        before = torch.tensor([torch.nan if one is None else one for one in self.at_start["rewards"]])
        both = ~(rewards.isnan() | before.isnan())
        return gained(rewards[both], before[both]) if bool(both.any()) else {}

    def _as_written(self, answer: Sampled) -> Written:
        decode = self.maker.policy.tokenizer.decode
        return Written(answer.ids.tolist(), decode(answer.ids, skip_special_tokens=True), answer.is_whole)

    def _samples(self, drawn: Rollout, rewards: Tensor) -> list[dict[str, Any]]:
        """Some prompts with the likeliest answer and the drawn one."""
        shown = list(self.asked[:MOST_SHOWN])
        likeliest = replace(self, asked=shown)._written(self._greedy(), 1)
        best = replace(self, asked=shown)._judged(likeliest)[1]
        rows = []
        for number, one in enumerate(shown):
            greedy = Answer(self._as_written(likeliest.answers[number]), reward=_given(best[number]))
            sampled = Answer(self._as_written(drawn.answers[number]), reward=_given(rewards[number]))
            words = last_turn(one.prompt.prompt) or self.maker.policy.tokenizer.decode(one.ids)
            rows.append(
                {
                    "source": str(one.prompt.source),
                    "prompt": words,
                    "prompt_ids": one.ids.tolist(),
                    "greedy": greedy.as_json() | {"ids": list(greedy.written.ids)},
                    "sampled": sampled.as_json() | {"ids": list(sampled.written.ids)},
                }
            )
        return rows

    def _greedy(self) -> Sampler:
        sampler = self.maker.sampler
        return sampler.at(replace(sampler.sampling, temperature=0.0))


def earned(rewards: Tensor) -> dict[str, float]:
    """The mean of some rewards, with its 95 % interval: that of a share where all are verdicts, 1 or 0, else Student's,
    where there are rewards enough for one.
    """
    if _are_verdicts(rewards):
        return _told("reward", share_of(rewards.numpy(), np.arange(len(rewards))))
    return _told("reward", mean_of(rewards.numpy()))


def gained(now: Tensor, before: Tensor) -> dict[str, float]:
    """How much more is earned than before for the same prompts, with an interval of the same kind as `earned` has."""
    if not (_are_verdicts(now) and _are_verdicts(before)):
        return _told("reward_gain", mean_of((now - before).numpy()))
    ours, theirs = now.numpy()[None], before.numpy()[None]
    return _told("reward_gain", difference_of(ours, theirs, np.arange(len(now))))


def _are_verdicts(values: Tensor) -> bool:
    return bool(((values == 0) | (values == 1)).all())


def _told(name: str, found: Mean | Share) -> dict[str, float]:
    limits = {f"{name}_low": found.low, f"{name}_high": found.high} if isfinite(found.low) else {}
    return {name: found.value} | limits


def _given(reward: Tensor) -> float | None:
    value = float(reward)
    return value if value == value else None
