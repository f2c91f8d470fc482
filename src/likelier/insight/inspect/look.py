"""Load the run's models, score one row under both, and follow it to its loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from likelier.data.groups import Group
from likelier.data.masks import trained_count
from likelier.insight.inspect.chain import Chain, chain_of
from likelier.insight.inspect.subject import Subject, group_of
from likelier.models.loading import DEMO_MODEL
from likelier.models.policy import Dtype, Policy
from likelier.objectives import Objective
from likelier.runs.card import RunCard
from likelier.runs.reader import read_run
from likelier.scoring.implicit_rewards import implicit_rewards, score_answers, token_rows
from likelier.scoring.reference import Reference, ReferenceScoring
from likelier.scoring.restore import (
    card_of,
    final_model,
    objective_at,
    policy_at,
    reference_at_start,
    reference_for,
)
from likelier.utils.errors import RunFolderError


@dataclass(frozen=True)
class Baseline:
    """KTO's z0 for a single row, and where it is taken from."""

    value: float
    words: str


@dataclass(frozen=True)
class Inspection:
    """All that is known of one row under a run.

    `answers` by side (chosen and rejected, or completion) are the entries of `likelier score --per-token` with the
    objective's own reward, and each token's share of it; without a reference they lack what needs one. Of a reward
    model they have a score, and each token the score of the answer up to it, and by how much it changed it.
    """

    run: str
    at: str
    objective: Objective
    explained: str
    policy: str
    reference: str | None
    source: str
    part: str
    prompt: str
    answers: dict[str, dict[str, Any]]
    chain: Chain
    baseline: Baseline | None

    @property
    def margin(self) -> float | None:
        """The chosen answer's reward less the rejected one's; None without a pair."""
        pair = [self.answers[side]["reward"] for side in ("chosen", "rejected") if side in self.answers]
        return pair[0] - pair[1] if len(pair) == 2 else None


@dataclass(frozen=True)
class Place:
    """A run, the time at which its policy is taken, and with what its models are loaded."""

    run: str
    at: str
    reference: str | None
    dtype: Dtype


def look(place: Place, subject_of: Callable[[RunCard, Policy], Subject]) -> Inspection:
    """Inspect the row that `subject_of` (run card, policy) names.

    Raises `LikelierError` where the run holds no such model, its reference cannot be had, or the row cannot be used.
    """
    name = final_model(place.run)
    if name == DEMO_MODEL:  # a run folder of that name, not the model
        name = str(Path(name).absolute())
    card = card_of(name)
    if not card.method:
        raise RunFolderError(f"{place.run} holds no run; give the folder that --output named")
    objective = objective_at(name, card, place.at)
    policy, source = policy_at(name, card, place.at, place.dtype)
    subject = subject_of(card, policy)
    group = group_of(subject, policy, objective, card)
    known, answers = _scored(place, policy, source, card, objective, group)
    baseline = _baseline(name, place.at) if objective.needs_partner else None
    chain = chain_of(objective, subject.record, group, answers, 0.0 if baseline is None else baseline.value)
    for side, answer in answers.items():
        reward = chain.rewards[side]
        if objective.reads_values:
            offset = card.reward_offset or 0.0 if place.at == "end" else 0.0  # it is measured at the end
            answers[side] = {"score": reward, "reward": reward - offset, **_without(answer, "logp")}
        else:
            answers[side] = _with_reward(answer, reward, objective.reward_scale())
    return Inspection(
        run=place.run,
        at=place.at,
        objective=objective,
        explained=card.explained or "",
        policy=policy.words,
        reference=None if known is None else known.words,
        source=str(group.source),
        part=subject.part,
        prompt=policy.tokenizer.decode(group.prompt.tolist()),
        answers=answers,
        chain=chain,
        baseline=baseline,
    )


def _scored(
    place: Place, policy: Policy, source: str, card: RunCard, objective: Objective, group: Group
) -> tuple[Reference | None, dict[str, dict[str, Any]]]:
    """The reference, and each answer's scores token by token (beta 1)."""
    how = ReferenceScoring.here(policy, [group])
    if objective.reads_values:
        return None, _values(policy, group, how)
    if not objective.needs_reference:
        return None, _without_reference(policy, group, how)
    find = reference_at_start if place.at == "start" else reference_for
    known = find(source, place.reference, card, policy, place.dtype, [group])
    row = implicit_rewards(policy, known, [group], how, beta=1.0, per_token=True)[0]
    return known, {side: row[side] for side in _sides(group)}


def _sides(group: Group) -> tuple[str, ...]:
    return ("chosen", "rejected") if group.is_pair else ("completion",)


def _without(answer: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in answer.items() if key != name}


def _values(policy: Policy, group: Group, how: ReferenceScoring) -> dict[str, dict[str, Any]]:
    """What a reward model says at each token of the answers; its first one has nothing to be compared with."""
    found = {}
    scores = score_answers(policy.model, [group], how, per_token=True)[0]
    for side, ids, score in zip(_sides(group), group.own_answers, scores, strict=True):
        values = score.token_logps
        changes = [0.0, *(now - before for before, now in pairwise(values))]
        figures = [{"score": value, "change": change} for value, change in zip(values, changes, strict=True)]
        tokens = token_rows(policy.tokenizer, ids, None, figures)
        found[side] = {"logp": score.logp, "length": len(ids), "tokens": tokens}
    return found


def _without_reference(policy: Policy, group: Group, how: ReferenceScoring) -> dict[str, dict[str, Any]]:
    found = {}
    scores = score_answers(policy.model, [group], how, per_token=True)[0]
    for side, ids, mask, score in zip(_sides(group), group.own_answers, group.own_masks, scores, strict=True):
        length, figures = trained_count(ids, mask), [{"logp": logp} for logp in score.token_logps]
        found[side] = {
            "logp": score.logp,
            "length": length,
            "logp_per_token": score.logp / length,
            "tokens": token_rows(policy.tokenizer, ids, mask, figures),
        }
    return found


def _with_reward(answer: dict[str, Any], reward: float, scale: float | None) -> dict[str, Any]:
    """The answer with the objective's reward, and each token's share of it.

    `scale` multiplies log-ratios; without one the reward is a multiple of the summed log-probability.
    """
    of, factor = ("logp", reward / (answer["logp"] or 1.0)) if scale is None else ("logratio", scale)
    tokens = [token | {"reward": factor * token[of]} if of in token else token for token in answer["tokens"]]
    return answer | {"reward": reward, "tokens": tokens}


def _baseline(name: str, at: str) -> Baseline:
    """The last z0 that training logged by then; 0 where there is none."""
    if at == "start":
        return Baseline(0.0, "0, as at the start: no step has measured it yet")
    last = None if at == "end" else int(at.removeprefix("step-"))
    steps, values = read_run(name).column("kl")
    known = [(step, value) for step, value in zip(steps, values, strict=True) if last is None or step <= last]
    if not known:
        return Baseline(0.0, "taken as 0: the run logged none")
    return Baseline(known[-1][1], f"as the run logged it at step {known[-1][0]}; it belongs to a whole step")
