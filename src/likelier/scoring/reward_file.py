"""What a reward model says of the answers in a file, written to another: what `likelier score --reward-model` does."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

import numpy as np

from likelier.data.groups import Group
from likelier.data.load import PreferenceData, load_preferences
from likelier.models.architectures import require_trained_head
from likelier.models.loading import check_name
from likelier.models.options import Dtype
from likelier.models.policy import load_policy
from likelier.scoring import scorer_of
from likelier.scoring.agreement import agreement_words, require_comparable, with_implicit
from likelier.scoring.engine import prompt_numbers
from likelier.scoring.implicit_rewards import AnswerScore, score_answers, token_rows
from likelier.scoring.reference import ReferenceScoring
from likelier.scoring.restore import card_of, final_model, reward_offset
from likelier.scoring.score_file import Scoring, groups_to_score
from likelier.utils.console import say
from likelier.utils.errors import ConfigError
from likelier.utils.files import write_output
from likelier.utils.outputs import check_output, check_writable
from likelier.utils.statistics import Share, rank_correlation, share_of
from likelier.utils.strict_json import encodable
from likelier.utils.terminal import counting

_OTHER = "name another --output"


def score_rewards(
    models: Sequence[str],
    data: str,
    output: str,
    *,
    per_token: bool = False,
    max_length: int | None = None,
    dtype: Dtype = "auto",
    token_budget: int | None = None,
    columns: Any = None,
    overwrite: bool = False,
    chat: Mapping[str, Any] | None = None,
    agree_with: str | None = None,
    reference: str | None = None,
) -> str:
    """Write the reward of every answer in `data` to `output`, a reward model's score less its mean over the answers
    that it learnt from, where that is known; of several models each one's, their mean and how far they are apart;
    returns a summary. `agree_with` is a run whose implicit rewards of the same pairs stand beside them, `reference` its
    reference where that lies elsewhere now. Raises `ModelError` for a model without a trained head, `ConfigError` for
    what cannot be compared.
    """
    check_output(output, inputs=[data], overwrite=overwrite)
    check_writable(output, mend=_OTHER)
    names = [final_model(model) for model in models]
    if per_token and len(names) > 1:
        raise ConfigError("per_token shows one model's values; give one --reward-model, or drop it")
    twice = next((name for number, name in enumerate(names) if name in names[:number]), None)
    if twice is not None:
        raise ConfigError(f"reward_model={twice!r} stands twice, and does not differ from itself; drop one")
    for name in names:
        check_name(name)
    loaded = load_preferences(data, columns=columns)
    if agree_with is not None:
        require_comparable(agree_with, data, loaded)
    how = Scoring(per_token, max_length, dtype, token_budget, chat or {})
    scored = [_scored(name, loaded, how) for name in names]  # one model in memory after the other
    rows, groups = scored[0]
    if len(names) > 1:
        rows = side_by_side(names, [own for own, _ in scored])
    told = summarize(rows, groups)
    if agree_with is not None:
        rows = with_implicit(rows, agree_with, reference, loaded, replace(how, per_token=False))
        told += f"\n{agreement_words(rows, groups, agree_with)}"
    lines = (encodable(json.dumps(row, ensure_ascii=False)) + "\n" for row in rows)
    write_output(output, "".join(lines), mend=_OTHER)
    return f"{told}\n{len(rows)} rows written to {output}"


def _scored(model: str, loaded: PreferenceData, how: Scoring) -> tuple[list[dict[str, Any]], Sequence[Group]]:
    """What a reward model gives the answers, a JSON-ready object a row, and the rows as its tokens."""
    policy = load_policy(model, dtype=how.dtype, chat=how.chat_of(card_of(model), loaded), values=True)
    require_trained_head(policy.model, model)
    groups = groups_to_score(loaded, policy, how.max_length)
    scoring, chosen = ReferenceScoring.here(policy, groups, how.token_budget), scorer_of(policy.model)
    say(f"reward model: {policy.words}\nscorer: {chosen.name} ({chosen.reason})")
    with counting("scoring", len(groups)) as report:
        scores = score_answers(policy.model, groups, replace(scoring, report=report), per_token=how.per_token)
    offset, tokenizer = reward_offset(model), policy.tokenizer if how.per_token else None
    return [_row(group, scores[number], offset, tokenizer) for number, group in enumerate(groups)], groups


def side_by_side(names: Sequence[str], scored: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The rows of several reward models as one: of every answer each model's reward, their mean, and their standard
    deviation (ddof 1) as its `spread`. Raises `ConfigError` where one of them has left rows out that another has not.
    """
    for name, own in zip(names, scored, strict=True):
        if [row["source"] for row in own] != [row["source"] for row in scored[0]]:
            raise ConfigError(
                f"{names[0]} and {name} read different rows of the data: one of them leaves out what is too long for "
                "it; give a --max-length that fits all, or cut the rows"
            )
    return [_joined(names, same) for same in zip(*scored, strict=True)]


def _joined(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    row = dict(rows[0])
    for side in ("chosen", "rejected", "completion"):
        if side in row:
            rewards = [own[side]["reward"] for own in rows]
            of_models = dict(zip(names, rewards, strict=True))
            spread = float(np.std(rewards, ddof=1))
            row[side] = {
                "reward": fmean(rewards),
                "rewards": of_models,
                "spread": spread,
                "length": row[side]["length"],
            }
    if "margin" in row:
        row["margin"] = row["chosen"]["reward"] - row["rejected"]["reward"]
        row |= {"correct": row["margin"] > 0, "margins": {n: own["margin"] for n, own in zip(names, rows, strict=True)}}
    return row


def _row(group: Group, scores: Sequence[AnswerScore], offset: float, tokenizer: Any) -> dict[str, Any]:
    """One JSON-ready object; with a tokenizer also the value of each token, at which an answer so far stands."""
    answers: list[dict[str, Any]] = []
    for ids, score in zip(group.own_answers, scores, strict=False):
        answer: dict[str, Any] = {"reward": score.logp - offset, "score": score.logp, "length": len(ids)}
        if tokenizer is not None:
            answer["tokens"] = token_rows(tokenizer, ids, None, [{"value": value} for value in score.token_logps])
        answers.append(answer)
    row: dict[str, Any] = {"source": str(group.source)}
    if not group.is_pair:
        return row | {"label": group.desirable, "completion": answers[0]}
    margin = answers[0]["reward"] - answers[1]["reward"]
    return row | {"chosen": answers[0], "rejected": answers[1], "margin": margin, "correct": margin > 0}


def _compared(sure: float, right: Share) -> str:
    if right.low <= sure <= right.high:
        return "no other than it is, within the interval"
    return "more often than it is" if sure > right.high else "less often than it is"


def summarize(rows: Sequence[Mapping[str, Any]], groups: Sequence[Group]) -> str:
    """A few lines: accuracy with its interval and calibration where pairs are given, means, what length has to do with
    it.
    """
    lines = []
    pairs = [row for row in rows if "margin" in row]
    if pairs:
        right = share_of([row["correct"] for row in pairs], prompt_numbers(groups))
        sure = float(np.mean([1 / (1 + np.exp(-abs(row["margin"]))) for row in pairs]))
        lines.append(f"reward accuracy   {right}   (the chosen answer has the higher reward)")
        for name in pairs[0].get("margins", ()):
            own = share_of([row["margins"][name] > 0 for row in pairs], prompt_numbers(groups))
            lines.append(f"  by itself       {own}   {name}")
        lines.append(f"its own guess     {sure:.1%}   is how often it expects to be right: {_compared(sure, right)}")
    sides: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        for side in ("chosen", "rejected"):
            if side in row:
                sides.setdefault(side, []).append(row[side])
        if "label" in row:
            sides.setdefault("desirable" if row["label"] else "undesirable", []).append(row["completion"])
    for side, answers in sides.items():
        mean = sum(answer["reward"] for answer in answers) / len(answers)
        lines.append(f"mean reward       {mean:+.4f}   {side}, {len(answers)} answers")
    every = [answer for answers in sides.values() for answer in answers]
    if "spread" in every[0]:
        apart = fmean(answer["spread"] for answer in every)
        lines.append(f"models apart      {apart:.4f}   standard deviation between their rewards, mean over answers")
    lengths, rewards = (np.array([answer[name] for answer in every]) for name in ("length", "reward"))
    if len(set(lengths.tolist())) > 1:
        correlation = rank_correlation(lengths.astype(float), rewards.astype(float))
        lines.append(f"length            {correlation:+.2f}   rank correlation of an answer's tokens with its reward")
    return "\n".join(lines)
