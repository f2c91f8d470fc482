"""Answers that an online run wrote to one prompt, token by token: what they earned, and what the policy gives them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from likelier.data.groups import Group
from likelier.data.records import Source
from likelier.insight.inspect.look import Place
from likelier.insight.inspect.subject import RowName
from likelier.runs.card import RunCard
from likelier.runs.evaluations import Sample
from likelier.runs.reader import Run, read_run
from likelier.scoring.implicit_rewards import implicit_rewards
from likelier.scoring.reference import ReferenceScoring
from likelier.scoring.restore import final_model, policy_at, reference_at_start, reference_for
from likelier.utils.errors import ConfigError

_NUMBER = re.compile(r"(\d+)$")
_SHOWN = 12  # numbers of rows that a message names


@dataclass(frozen=True)
class OwnAnswer:
    """An answer of the run: when and how it was written, what it earned, and in `scored` its tokens with their
    log-probabilities under policy and reference, at temperature 1, as `likelier score --per-token` has them.
    """

    which: str
    reward: float | None
    rewards: Mapping[str, float | None]
    advantage: float | None
    scored: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Everything."""
        told = {"which": self.which, "reward": self.reward, "rewards": dict(self.rewards), "advantage": self.advantage}
        return told | dict(self.scored)


@dataclass(frozen=True)
class OwnAnswers:
    """All that is known of one prompt under a run."""

    run: str
    at: str
    method: str
    policy: str
    reference: str
    source: str
    prompt: str
    answers: tuple[OwnAnswer, ...]

    def as_json(self) -> dict[str, Any]:
        """Everything."""
        return vars(self) | {"answers": [one.as_json() for one in self.answers]}


@dataclass(frozen=True)
class _Kept:
    """An answer as the run's files hold it."""

    source: str
    prompt: str
    prompt_ids: Sequence[int]
    ids: Sequence[int]
    which: str
    reward: float | None = None
    rewards: Mapping[str, float | None] | None = None
    advantage: float | None = None


def look_at_own(place: Place, card: RunCard, name: RowName) -> OwnAnswers:
    """The answers to the prompt of this row that the run kept: those of the last step that learnt from them, and those
    to it as a held-out prompt. Raises `ConfigError` where there are none, and as `policy_at` and `reference_for`.
    """
    model = final_model(place.run)
    kept = _of_row(list(_kept(read_run(place.run))), name)
    policy, source = policy_at(model, card, place.at, place.dtype)
    groups = [_group(one) for one in kept]
    how = ReferenceScoring.here(policy, groups)
    find = reference_at_start if place.at == "start" else reference_for
    known = find(source, place.reference, card, policy, place.dtype, groups)
    rows = implicit_rewards(policy, known, groups, how, beta=1.0, per_token=True)
    answers = [
        OwnAnswer(one.which, one.reward, one.rewards or {}, one.advantage, _without_reward(row["completion"]))
        for one, row in zip(kept, rows, strict=True)
    ]
    first = kept[0]
    method = str(card.method)
    return OwnAnswers(
        place.run, place.at, method, policy.words, known.words, first.source, first.prompt, tuple(answers)
    )


def _without_reward(scored: Mapping[str, Any]) -> dict[str, Any]:
    """Without the implicit reward, which is not what the answer earned."""
    tokens = [{name: value for name, value in token.items() if name != "reward"} for token in scored["tokens"]]
    return {name: value for name, value in scored.items() if name != "reward"} | {"tokens": tokens}


def _group(one: _Kept) -> Group:
    ids = (np.array(one.prompt_ids, dtype=np.int32), (np.array(one.ids, dtype=np.int32),))
    return Group(*ids, Source(one.source, 1, "answer"), desirable=True)


def _kept(run: Run) -> Iterator[_Kept]:
    """Every answer whose tokens were kept, the newest first."""
    for step in reversed(run.rollouts()):
        for group in step.groups:
            for number, one in enumerate(group.answers, 1):
                place = one.side or ("" if one.counts else "left out of the loss")
                which = f"step {step.step}, answer {number}" + (f", {place}" if place else "")
                told = (group.source, group.prompt, group.prompt_ids, one.ids, which)
                yield _Kept(*told, one.reward, one.rewards, one.advantage)
    for when, words in (("end", "held out, after training"), ("start", "held out, before training")):
        for sample in run.detail(when).samples:
            yield from _of_sample(sample, words)


def _of_sample(sample: Sample, words: str) -> Iterator[_Kept]:
    for how, one in (("greedy", sample.greedy), ("drawn", sample.sampled)):
        if one is not None:
            told = (sample.source, sample.prompt, sample.prompt_ids, one.ids, f"{words}, {how}")
            yield _Kept(*told, one.reward)


def _of_row(kept: Sequence[_Kept], name: RowName) -> list[_Kept]:
    """Those of one prompt, of the newest step alone. Raises `ConfigError` where there are none, or their tokens were
    not kept.
    """
    if not kept:
        raise ConfigError("the run kept no answers: --rollout-steps 10 does, and held-out prompts are always kept")
    if name.data_set:
        raise ConfigError(
            f"--row {name.data_set}:{name.number}: rows of prompts have no data set; name the number alone"
        )
    own = [one for one in kept if _number(one.source) == name.number]
    if not own:
        numbers = sorted({_number(one.source) for one in kept} - {0})
        more = "" if len(numbers) <= _SHOWN else f" and {len(numbers) - _SHOWN} more"
        raise ConfigError(
            f"row {name.number} is none whose answers the run kept; it has those of rows "
            f"{', '.join(map(str, numbers[:_SHOWN]))}{more} (--rollout-steps 1 keeps those of every step)"
        )
    sources = sorted({one.source for one in own})
    if len(sources) > 1:
        raise ConfigError(f"row {name.number} stands in several files ({', '.join(sources)}), whose answers are apart")
    step = own[0].which.partition(",")[0]
    own = [one for one in own if one.which.startswith((f"{step},", "held out"))]
    if any(not one.ids or not one.prompt_ids for one in own):
        raise ConfigError("the run kept no token ids of its answers (an older version wrote it): train it again")
    return own


def _number(source: str) -> int:
    found = _NUMBER.search(source)
    return int(found.group(1)) if found else 0
