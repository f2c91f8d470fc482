"""A rollout: the answers of one step, what they earned, and what was known of their tokens when they were written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from likelier.data.groups import Group
from likelier.data.prompts import Prompt
from likelier.objectives.advantages import equal_groups
from likelier.objectives.metrics import MetricSums
from likelier.objectives.rollout import RolloutItems, StepCounts, TokenEstimates
from likelier.online.sampling import Sampled

TokenLogps = Sequence[np.ndarray]


@dataclass(frozen=True, eq=False)
class Asked:
    """A prompt as it is sampled from: its token ids and where it comes from. `number` is its place in the data."""

    number: int
    ids: np.ndarray
    prompt: Prompt


@dataclass(frozen=True, eq=False)
class Rollout:
    """The answers of a step, one after the other, prompt by prompt.

    `asked` are the prompts, `group_of` (answers,) says whose each answer is. `parts` (answers, rewards) and `rewards`
    (answers,) are what they earned, NaN for no verdict; `advantages` and `counts` (answers,) what follows from it (see
    `RolloutItems`). `old` and `ref` hold each answer's token log-probabilities before the first update and under the
    reference, where they are needed, `estimates` (tokens,) of all answers one after the other what a critic made of it.
    """

    asked: tuple[Asked, ...]
    answers: tuple[Sampled, ...]
    group_of: Tensor
    names: tuple[str, ...] = ()
    parts: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    rewards: Tensor = field(default_factory=lambda: torch.empty(0))
    advantages: Tensor = field(default_factory=lambda: torch.empty(0))
    counts: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.bool))
    old: TokenLogps | None = None
    ref: TokenLogps | None = None
    estimates: TokenEstimates | None = None

    @staticmethod
    def of(asked: Sequence[Asked], answers: Sequence[Sequence[Sampled]]) -> Rollout:
        """Of the answers to each prompt."""
        sizes = torch.tensor([len(own) for own in answers])
        whose = torch.arange(len(asked)).repeat_interleave(sizes)
        return Rollout(tuple(asked), tuple(answer for own in answers for answer in own), whose)

    def only(self, kept: Tensor) -> Rollout:
        """The groups that `kept` (prompts,) bool selects, before anything was compared."""
        answers = kept[self.group_of]
        return replace(
            self,
            asked=tuple(one for one, stays in zip(self.asked, kept.tolist(), strict=True) if stays),
            answers=tuple(one for one, stays in zip(self.answers, answers.tolist(), strict=True) if stays),
            group_of=(kept.cumsum(0) - 1)[self.group_of[answers]],
            parts=self.parts[answers],
            rewards=self.rewards[answers],
        )

    def beside(self, other: Rollout) -> Rollout:
        """These groups and those of another rollout, before anything was compared."""
        return replace(
            self,
            asked=(*self.asked, *other.asked),
            answers=(*self.answers, *other.answers),
            group_of=torch.cat([self.group_of, other.group_of + len(self.asked)]),
            parts=torch.cat([self.parts, other.parts]),
            rewards=torch.cat([self.rewards, other.rewards]),
        )

    @property
    def lengths(self) -> Tensor:
        """(answers,) tokens."""
        return torch.tensor([len(answer.ids) for answer in self.answers])

    @property
    def answer_of(self) -> Tensor:
        """(tokens,) whose each token is."""
        return torch.arange(len(self.answers)).repeat_interleave(self.lengths)

    @property
    def tokens(self) -> int:
        """Tokens that were written."""
        return int(self.lengths.sum())

    def group(self, *numbers: int) -> Group:
        """An answer with its prompt as a row that the engine scores; or two to one prompt, as a pair."""
        asked = self.asked[int(self.group_of[numbers[0]])]
        answers = tuple(self.answers[number].ids for number in numbers)
        return Group(asked.ids, answers, asked.prompt.source, desirable=True if len(answers) == 1 else None)

    def counted(self) -> list[int]:
        """The numbers of the answers that belong to the loss."""
        return self.counts.nonzero()[:, 0].tolist()

    def pairs(self) -> list[tuple[int, int]]:
        """The numbers of the two answers that count of a prompt, the better one first."""
        of_prompts: dict[int, list[int]] = {}
        for number in self.counted():
            of_prompts.setdefault(int(self.group_of[number]), []).append(number)
        ordered = (sorted(own, key=lambda one: -float(self.advantages[one])) for own in of_prompts.values())
        return [(chosen, rejected) for chosen, rejected in ordered]

    def step_counts(self, max_length: int) -> StepCounts:
        """What the step's loss divides by."""
        return StepCounts.of(self.lengths, self.counts, max_length)

    def items(self, numbers: Sequence[int], like: Tensor) -> RolloutItems:
        """What a loss needs to know of some answers, in their order, with the precision and device of `like`."""

        def tokens(values: TokenLogps | None) -> Tensor | None:
            if values is None:
                return None
            return torch.from_numpy(np.concatenate([values[number] for number in numbers])).to(like)

        return RolloutItems(
            self.advantages[list(numbers)].to(like),
            old_token_logps=tokens(self.old),
            ref_token_logps=tokens(self.ref),
            sampler_token_logps=tokens([answer.logps for answer in self.answers]),
            estimates=self._estimates_of(numbers, like),
        )

    def _estimates_of(self, numbers: Sequence[int], like: Tensor) -> TokenEstimates | None:
        if self.estimates is None:
            return None
        places = torch.arange(self.tokens).split(self.lengths.tolist())
        chosen = torch.cat([places[number] for number in numbers])
        return TokenEstimates(**{name: values[chosen].to(like) for name, values in vars(self.estimates).items()})

    def metrics(self) -> MetricSums:
        """Rewards and lengths, under TRL's names where it has them. `entropy` is the mean of -log pi over the tokens
        that were drawn, an unbiased estimate, in nats a token. The least and the greatest length and `rewards/NAME/std`
        are of this rollout; over several their mean is taken, as TRL does.
        """
        sums, said, lengths = MetricSums(), ~self.rewards.isnan(), self.lengths
        sums.add("reward", self.rewards, said)
        for number, name in enumerate(self.names):
            part = self.parts[:, number]
            sums.add(f"rewards/{name}/mean", part, ~part.isnan())
            if len(verdicts := part[~part.isnan()]) > 1:
                sums.add_sum(f"rewards/{name}/std", float(verdicts.std()), 1)
        sums.add("rewards/no_verdict", (~said).double())
        for own in self._by_group(self.rewards):
            if len(verdicts := own[~own.isnan()]) > 1:
                sums.add_sum("reward_std", verdicts.std(), 1)
        if len(self.answers) > len(self.asked):  # one answer alone is always equal
            sums.add("frac_reward_zero_std", equal_groups(self.rewards, self.group_of).double())
        whole = torch.tensor([answer.is_whole for answer in self.answers])
        sums.add("completions/mean_length", lengths)
        sums.add("completions/mean_terminated_length", lengths, whole)
        for kind, own in (("", lengths), ("terminated_", lengths[whole])):
            if len(own):
                sums.add_sum(f"completions/min_{kind}length", float(own.min()), 1)
                sums.add_sum(f"completions/max_{kind}length", float(own.max()), 1)
        sums.add("completions/clipped_ratio", (~whole).double())
        sums.add_sum("entropy", -sum(float(answer.logps.sum()) for answer in self.answers), self.tokens)
        return sums

    def _by_group(self, values: Tensor) -> list[Tensor]:
        return [values[self.group_of == number] for number in range(len(self.asked))]

    def as_rows(self, decode: Callable[[Any], str], most: int, *, paired: bool = False) -> list[dict[str, Any]]:
        """The rollout in words, one object a prompt, at most so many prompts of it; where answers were `paired`, it
        says which is the chosen and which the rejected one of two that earned differently.
        """
        sides: dict[int, dict[str, str]] = {}
        for chosen, rejected in self.pairs() if paired else ():
            if self.advantages[chosen] > self.advantages[rejected]:
                sides |= {chosen: {"side": "chosen"}, rejected: {"side": "rejected"}}
        return [self._row(number, decode, sides) for number in range(min(most, len(self.asked)))]

    def _row(self, group: int, decode: Callable[[Any], str], sides: Mapping[int, dict[str, str]]) -> dict[str, Any]:
        asked, own = self.asked[group], (self.group_of == group).nonzero()[:, 0].tolist()
        return {
            "source": str(asked.prompt.source),
            "prompt": decode(asked.ids),
            "prompt_ids": asked.ids.tolist(),
            "answers": [
                {
                    "text": decode(self.answers[number].ids),
                    "ids": self.answers[number].ids.tolist(),
                    "tokens": len(self.answers[number].ids),
                    "stop_reason": self.answers[number].stop,
                    "reward": _number(self.rewards[number]),
                    "rewards": dict(zip(self.names, map(_number, self.parts[number]), strict=True)),
                    "advantage": _number(self.advantages[number]),
                    "counts": bool(self.counts[number]),
                    **self._tokens_of_row(number, decode),
                    **sides.get(number, {}),
                }
                for number in own
            ],
        }

    def _tokens_of_row(self, number: int, decode: Callable[[Any], str]) -> dict[str, Any]:
        """What a critic made of an answer's tokens; its advantage is then their mean."""
        if self.estimates is None:
            return {}
        values, advantages, _ = (own.split(self.lengths.tolist())[number] for own in vars(self.estimates).values())
        told = {"values": values, "token_advantages": advantages}
        texts = [decode([token]) for token in self.answers[number].ids.tolist()]
        numbers = {name: [round(one, 5) for one in own.tolist()] for name, own in told.items()}
        return {"advantage": float(advantages.mean()), "token_texts": texts, **numbers}

    # --- for a checkpoint between two updates on the same answers ---------------------------------------------------

    def state(self) -> dict[str, Any]:
        """All that sampling and rewarding made, as JSON holds it, bit for bit."""
        return {
            "asked": [asked.number for asked in self.asked],
            "group_of": self.group_of.tolist(),
            "ids": [answer.ids.tolist() for answer in self.answers],
            "logps": [answer.logps.tolist() for answer in self.answers],
            "stops": [answer.stop for answer in self.answers],
            "names": list(self.names),
            "parts": [[_number(value) for value in row] for row in self.parts],
            "rewards": [_number(value) for value in self.rewards],
            "advantages": self.advantages.tolist(),
            "counts": self.counts.tolist(),
            "old": None if self.old is None else [values.tolist() for values in self.old],
            "ref": None if self.ref is None else [values.tolist() for values in self.ref],
            "estimates": None
            if self.estimates is None
            else {name: values.tolist() for name, values in vars(self.estimates).items()},
        }

    @staticmethod
    def from_state(state: Mapping[str, Any], asked: Mapping[int, Asked]) -> Rollout:
        """What `state` gave; `asked` are the prompts by their numbers."""
        answers = [
            Sampled(np.array(ids, dtype=np.int32), np.array(logps), stop)
            for ids, logps, stop in zip(state["ids"], state["logps"], state["stops"], strict=True)
        ]
        known = tuple(asked[number] for number in state["asked"])
        made = Rollout(known, tuple(answers), torch.tensor(state["group_of"]))
        return replace(
            made,
            names=tuple(state["names"]),
            parts=_real(state["parts"]).reshape(len(answers), -1),
            rewards=_real(state["rewards"]),
            advantages=_real(state["advantages"]),
            counts=torch.tensor(state["counts"], dtype=torch.bool),
            old=_arrays(state["old"]),
            ref=_arrays(state["ref"]),
            estimates=_estimates(state["estimates"]),
        )


def _number(value: Any) -> float | None:
    number = float(value)
    return number if number == number else None


def _real(values: Sequence[Any]) -> Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float64))  # None becomes NaN


def _estimates(values: Mapping[str, Sequence[float]] | None) -> TokenEstimates | None:
    return None if values is None else TokenEstimates(**{name: _real(own) for name, own in values.items()})


def _arrays(values: Sequence[Sequence[float]] | None) -> TokenLogps | None:
    return None if values is None else [np.array(own) for own in values]
