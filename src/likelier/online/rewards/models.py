"""Rewards that models give: a sequence classifier, and a preference run by its implicit reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar

import numpy as np

from likelier.data.ends import Ends
from likelier.data.groups import Group
from likelier.data.records import Demonstration, Message
from likelier.data.tokenize import tokenize_records
from likelier.models.classifier import Classifier, load_classifier
from likelier.models.loading import check_name
from likelier.models.policy import Policy, load_policy
from likelier.online.rewards.reward import Answered, Reward, checked
from likelier.scoring.implicit_rewards import score_answers
from likelier.scoring.reference import Reference, ReferenceScoring
from likelier.scoring.restore import card_of, final_model, has_no_reference, recorded_chat, reference_for, reward_offset
from likelier.utils.console import warn
from likelier.utils.errors import ConfigError


@dataclass
class ModelReward(Reward):
    """The score of a sequence classifier."""

    is_model: ClassVar[bool] = True
    classifier: Classifier

    def _verdicts(self, answers: Sequence[Answered]) -> Sequence[float | None]:
        places = [answer.place for answer in answers]
        rows = [
            self.classifier.row_of(answer.prompt, answer.text, answer.place, ended=answer.stop_reason == "eos")
            for answer in answers
        ]
        return checked(self, self.classifier.scores(rows, places), answers)


@dataclass
class ImplicitReward(Reward):
    """beta (log pi(answer) - log pi_ref(answer)) of a run that learnt from preferences, and of its reference."""

    policy: Policy
    beta: float
    _asked: tuple[Reference, ReferenceScoring] | None = field(default=None, init=False)
    _told: bool = field(default=False, init=False)

    def _verdicts(self, answers: Sequence[Answered]) -> Sequence[float | None]:
        read = self._read(answers)
        groups = list(read.values())
        if not groups:
            return [None] * len(answers)
        reference, how = self._with_reference(groups)
        scored = partial(score_answers, groups=groups, how=how, per_token=False)
        own = scored(self.policy.model)
        with reference.use() as model:
            refs = scored(model)
        pairs = zip(read, range(len(groups)), strict=True)
        found = {number: self.beta * (own[place][0].logp - refs[place][0].logp) for number, place in pairs}
        return checked(self, [found.get(number) for number in range(len(answers))], answers)

    def _with_reference(self, groups: Sequence[Group]) -> tuple[Reference, ReferenceScoring]:
        if self._asked is None:
            how = ReferenceScoring.here(self.policy, groups)
            name = self.policy.name
            self._asked = reference_for(name, None, card_of(name), self.policy, "auto", groups), how
        return self._asked

    def _read(self, answers: Sequence[Answered]) -> dict[int, Group]:
        """The answers as the run's own tokenizer and template have them, by their numbers. One that these cannot write,
        or that is beyond the run's context, is left out: it has no verdict.
        """
        records = [Demonstration(one.prompt, _as_content(one), one.source) for one in answers]
        most, tokenizer = self.policy.context or 2**31, self.policy.tokenizer
        found = tokenize_records(records, tokenizer, max_length=most, chat=self.policy.chat, losses="collect")
        if found.unusable and not self._told:
            self._told = True
            number = next(number for number in range(len(answers)) if number not in found.kept)
            warn(
                f"{self.where}: {answers[number].place} has no verdict, nor will others like it: "
                f"{found.unusable[0].reason} ({found.unusable[0].detail})"
            )
        ends = Ends(tokenizer)
        pairs = zip(found.kept, found.groups, strict=True)
        return {
            number: group if answers[number].stop_reason == "eos" else _without_end(group, ends)
            for number, group in pairs
        }


def _as_content(answer: Answered) -> str | tuple[Message, ...]:
    return answer.text if isinstance(answer.prompt, str) else (Message("assistant", answer.text),)


def _without_end(group: Group, ends: Ends) -> Group:
    """An answer that was cut has no end: what the tokenizer or the template puts behind it goes."""
    (ids,) = group.answers
    last = np.flatnonzero(np.isin(ids, ends.ids))
    return replace(group, answers=(ids[: last[-1]],)) if len(last) and last[-1] else group


def model_reward(name: str, spec: str, folder: str) -> ModelReward:
    """The classifier in a folder or of a hub id. Raises `ModelError`."""
    classifier = load_classifier(folder, f"reward={spec!r}")
    return ModelReward(name, spec, replace(classifier, offset=reward_offset(folder)))


def implicit_reward(name: str, spec: str, run: str) -> ImplicitReward:
    """The implicit reward of a run folder. Raises `ConfigError` for a run without a reference."""
    model = final_model(run)
    check_name(model)
    card = card_of(model)
    if has_no_reference(card):
        raise ConfigError(
            f"reward={spec!r}: the run has no reference (method {card.method}), and so no implicit reward"
        )
    policy = load_policy(model, chat=recorded_chat(card))
    policy.model.requires_grad_(False)
    return ImplicitReward(name, spec, policy, card.reward_scale or 0.1)
