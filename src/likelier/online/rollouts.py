"""How a rollout comes about: the policy writes, rewards judge, groups are compared."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from likelier.data.groups import Group
from likelier.models.policy import Policy
from likelier.objectives.advantages import combine_rewards, equal_groups
from likelier.objectives.metrics import MetricSums
from likelier.objectives.online_base import OnlineObjective
from likelier.online.estimates import Estimator
from likelier.online.options import OnlineOptions
from likelier.online.rewards.load import RewardSet
from likelier.online.rewards.reward import Answered
from likelier.online.rollout import Asked, Rollout
from likelier.online.sampling import Sampled, Sampler, StopReason
from likelier.online.sampling.protocol import uniforms
from likelier.online.walker import RolloutWalker
from likelier.scoring.reference import Reference
from likelier.utils.console import warn
from likelier.utils.distributed import ALONE, Ranks
from likelier.utils.errors import TrainingError
from likelier.utils.terminal import busy, counting

_REFILLS = 3  # rounds in which groups are replaced


def answered(policy: Policy, asked: Asked, answer: Sampled, number: int) -> Answered:
    """An answer as rewards see it; `number` counts from 1. Token ids are given as the text that they spell."""
    prompt, decode = asked.prompt.prompt, policy.tokenizer.decode
    return Answered(
        prompt=prompt if isinstance(prompt, (str, tuple)) else decode(asked.ids),
        text=decode(answer.ids, skip_special_tokens=True),
        ids=tuple(answer.ids.tolist()),
        source=asked.prompt.source,
        number=number,
        stop_reason=answer.stop,
        columns=asked.prompt.columns,
    )


def sampled(sampler: Sampler, asked: Sequence[Asked], each: int, key: str, what: str, ranks: Ranks = ALONE) -> Rollout:
    """`each` answers to every prompt, told of in tokens while they are written; each rank has those to some prompts
    written, and all get all of them.
    """
    own = ranks.share(asked)
    answers, most = len(own) * each, sampler.sampling.max_new_tokens
    words = f"writing {len(asked) * each} {what}, in tokens at most"
    with counting(f"{words} (here {answers})" if ranks.several else words, answers * most) as report:
        found = sampler.sample(
            [one.ids for one in own],
            each,
            [f"{key}, prompt {one.number}" for one in own],
            lambda whole, tokens: report(tokens),
        )
    if ranks.several:
        told = [[[one.ids.tolist(), one.logps.tolist(), one.stop] for one in answers] for answers in found]
        found = [[_answer(*one) for one in answers] for answers in ranks.joined(told)]
    return Rollout.of(asked, found)


def _answer(ids: list[int], logps: list[float], stop: StopReason) -> Sampled:
    return Sampled(np.array(ids, dtype=np.int32), np.array(logps), stop)


def judged(policy: Policy, rewards: RewardSet, rollout: Rollout, what: str, ranks: Ranks = ALONE) -> Tensor:
    """(answers, rewards) what each answer earned; each rank has the answers to some prompts judged, and all get all."""
    groups, seen = rollout.group_of.tolist(), dict[int, int]()
    own: list[list[Answered]] = [[] for _ in rollout.asked]
    for answer, group in zip(rollout.answers, groups, strict=True):
        seen[group] = seen.get(group, 0) + 1
        own[group].append(answered(policy, rollout.asked[group], answer, seen[group]))
    told = ranks.share(own)
    flat = [one for answers in told for one in answers]
    with busy(f"the rewards judge {len(rollout.answers)} {what}"):
        parts = rewards(flat) if flat else torch.empty(0, len(rewards.names), dtype=torch.float64)
    of_prompts = parts.split([len(answers) for answers in told]) if told else ()
    every = ranks.joined([own.tolist() for own in of_prompts])
    order = torch.tensor(groups).argsort(stable=True)  # answers prompt by prompt
    found = torch.tensor([part for own in every for part in own], dtype=parts.dtype).reshape(len(groups), -1)
    return torch.empty_like(found).index_copy(0, order, found)


@dataclass
class RolloutMaker:
    """Makes the rollouts of a run. `estimator` is there where the objective has a critic, `reference` is asked where it
    needs one; prompts out of `all_prompts` take the place of groups that teach nothing where it refills.
    """

    policy: Policy
    objective: OnlineObjective
    options: OnlineOptions
    sampler: Sampler
    rewards: RewardSet
    walker: RolloutWalker
    estimator: Estimator | None = None
    reference: Reference | None = None
    all_prompts: Sequence[Asked] = ()
    _has_warned: bool = field(default=False, init=False)

    @property
    def ranks(self) -> Ranks:
        """Who makes it together."""
        return self.walker.ranks

    def make(self, asked: Sequence[Asked], step: int) -> tuple[Rollout, MetricSums]:
        """The rollout of a step that begins with these prompts, with its metrics. Its random numbers depend on seed,
        step and prompt alone. Raises `TrainingError` where no answer can be learnt from.
        """
        began = time.monotonic()
        rollout = self._written(asked, step)
        written = time.monotonic()
        rollout = self._rewarded(rollout)
        judged = time.monotonic()
        asked_more = 0
        if self.objective.refills:
            rollout, asked_more = self._refilled(rollout, step)
        rollout, compared = self._compared(rollout)
        metrics = rollout.metrics().merge([compared])
        if self.estimator is not None:
            rollout, estimated = self.estimator.estimated(rollout)
            metrics.merge([estimated])
        spread = self.rewards.spread(rollout.parts)
        if spread is not None:
            metrics.add("rewards/spread", spread, ~spread.isnan())
        if self.objective.refills:
            metrics.add_sum("refill/prompts", asked_more, 1)
        for name, seconds in (("sampling", written - began), ("rewards", judged - written)):
            metrics.add_sum(f"seconds/{name}", seconds, 1)
        metrics.add_sum("sampling/tokens_per_second", rollout.tokens, written - began)
        return rollout, metrics

    def _refilled(self, rollout: Rollout, step: int) -> tuple[Rollout, int]:
        """With other prompts' groups in place of those whose answers all earned the same (dynamic sampling, DAPO), and
        how many prompts were asked for that. After some rounds what is left of them stays, and is counted.
        """
        asked_more = 0
        for number in range(_REFILLS):
            dead = equal_groups(rollout.rewards, rollout.group_of)
            others = self._others(rollout, int(dead.sum()), f"step {step}, refill {number}")
            if not others:
                break
            found = self._rewarded(self._written(others, step))
            asked_more += len(others)
            alive = ~equal_groups(found.rewards, found.group_of)
            stays = ~dead
            stays[dead.nonzero()[int(alive.sum()) :, 0]] = True
            rollout = rollout.only(stays).beside(found.only(alive))
        return rollout, asked_more

    def _others(self, rollout: Rollout, count: int, key: str) -> list[Asked]:
        """So many prompts that are not in the rollout, by chance, the same for the same key."""
        taken = {one.number for one in rollout.asked}
        rest = [one for one in self.all_prompts if one.number not in taken]
        order = uniforms(self.sampler.sampling.seed, key, 0, len(rest)).argsort(kind="stable")
        return [rest[place] for place in order[:count].tolist()]

    def _written(self, asked: Sequence[Asked], step: int) -> Rollout:
        each = self.objective.answers_per_prompt
        return sampled(self.sampler, asked, each, f"step {step}", "answers", self.ranks)

    def _rewarded(self, rollout: Rollout) -> Rollout:
        """With what the answers earned: every reward, and their sum."""
        parts = judged(self.policy, self.rewards, rollout, "answers", self.ranks)
        weights = torch.tensor(self.rewards.weights, dtype=parts.dtype)
        rewards = combine_rewards(parts, weights, rollout.group_of, how=self.options.combine)
        if self.options.missing_eos_penalty is not None:
            rewards = rewards - self.options.missing_eos_penalty * _cut(rollout).to(rewards)
        if self.options.truncated == "replace":
            self._warn_where_no_end_pays(rewards[~_cut(rollout)])
            rewards = rewards.masked_fill(_cut(rollout), self.options.score_of_cut)
        return replace(rollout, names=self.rewards.names, parts=parts, rewards=rewards)

    def _warn_where_no_end_pays(self, whole: Tensor) -> None:
        """Once, where answers that end earn less in the mean than what one without an end is given."""
        mean, given = float(whole.nanmean()), self.options.score_of_cut
        if self._has_warned or not mean < given:
            return
        self._has_warned = True
        warn(
            f"an answer that reaches max_new_tokens={self.options.max_new_tokens} is given {given:g}, and those that "
            f"end earn {mean:.3g} in the mean: the policy will learn not to end. Give --missing-eos-reward a number "
            "below what bad answers earn, or take --truncated penalty with --missing-eos-penalty 1"
        )

    def _compared(self, rollout: Rollout) -> tuple[Rollout, MetricSums]:
        """With advantages, and what the loss needs of policy and reference beforehand; and metrics of that."""
        objective, walker = self.objective, self.walker
        if objective.needs_old_logps(self.options.updates_per_rollout):
            rollout = replace(rollout, old=walker.token_logps(self.policy.model, rollout))
        if objective.needs_reference:
            assert self.reference is not None
            with self.reference.use() as model:
                rollout = replace(rollout, ref=walker.token_logps(model, rollout))
        masked = _cut(rollout) & (self.options.truncated == "mask")
        rewards, kl = rollout.rewards, _summed_difference(rollout)
        if objective.compares_pairs:  # an answer that is left out is no part of a pair
            rewards = rewards.masked_fill(masked, torch.nan)
        limits = {"lengths": rollout.lengths, "max_length": self.options.max_new_tokens}
        found = objective.advantages(rewards, rollout.group_of, **limits, kl=kl)
        counts = found.counts & ~masked
        if not bool(counts.any()):
            raise TrainingError(self._nothing_left(rollout))
        metrics = objective.rollout_metrics(found, rollout.group_of, rewards, kl)
        return replace(rollout, advantages=found.values, counts=counts), metrics

    def _nothing_left(self, rollout: Rollout) -> str:
        """Why no answer of a step counts, and what mends it."""
        total, cut, silent = len(rollout.answers), int(_cut(rollout).sum()), int(rollout.rewards.isnan().sum())
        causes, mends = [], []
        if silent:
            causes.append(f"{silent} have no verdict of {' or '.join(self.rewards.names)}")
            mends.append("let a reward give numbers, not None, for them")
        if self.options.truncated == "mask" and cut:
            causes.append(
                f"{cut} reached max_new_tokens={self.options.max_new_tokens}, which truncated=mask leaves out"
            )
            mends.append("raise max_new_tokens, or keep them (truncated=keep)")
        return (
            f"no answer of the step can be learnt from: of {total} answers {' and '.join(causes)}; {'; '.join(mends)}"
        )


def _cut(rollout: Rollout) -> Tensor:
    """(answers,) bool: which reached the limit."""
    return torch.tensor([not answer.is_whole for answer in rollout.answers])


def _summed_difference(rollout: Rollout) -> Tensor | None:
    """(answers,) each answer's log-ratio to the reference, in nats, where there is one: by the scorer's own
    log-probabilities, or else by those that the sampler told.
    """
    if rollout.ref is None:
        return None
    own = rollout.old or [answer.logps for answer in rollout.answers]
    pairs = zip(own, rollout.ref, strict=True)
    return torch.from_numpy(np.array([float((old - ref).sum()) for old, ref in pairs]))


def longest_rows(asked: Sequence[Asked], objective: OnlineObjective, max_new_tokens: int, prompts: int) -> list[Group]:
    """Rows as large as those of a step of so many prompts can be, for a trial of memory: the longest prompts with
    answers up to the limit.
    """
    longest = sorted(asked, key=lambda one: -len(one.ids))[:prompts]
    rows = np.random.default_rng(0).integers(0, 2, (objective.answers_learnt, max_new_tokens)).astype(np.int32)
    if objective.compares_pairs:
        return [Group(one.ids, (rows[0], rows[1]), one.prompt.source) for one in longest]
    return [Group(one.ids, (row,), one.prompt.source, desirable=True) for one in longest for row in rows]
