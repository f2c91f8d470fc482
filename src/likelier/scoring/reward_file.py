"""What a reward model says of the answers in a file, written to another: what `likelier score --reward-model` does."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from likelier.data.load import load_preferences
from likelier.data.tokenize import Group
from likelier.models.architectures import require_trained_head
from likelier.models.loading import check_name
from likelier.models.options import Dtype
from likelier.models.policy import load_policy
from likelier.scoring import scorer_of
from likelier.scoring.engine import prompt_numbers
from likelier.scoring.implicit_rewards import AnswerScore, score_answers, token_rows
from likelier.scoring.reference import ReferenceScoring
from likelier.scoring.restore import card_of, final_model, recorded_chat, reward_offset
from likelier.scoring.score_file import groups_to_score
from likelier.utils.console import say
from likelier.utils.files import write_output
from likelier.utils.outputs import check_output, check_writable
from likelier.utils.statistics import Share, rank_correlation, share_of
from likelier.utils.strict_json import encodable
from likelier.utils.terminal import counting

_OTHER = "name another --output"


def score_rewards(
    model: str,
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
) -> str:
    """Write the reward of every answer in `data` to `output`, a reward model's score less its mean over the answers
    that it learnt from, where that is known; returns a summary. Raises `ModelError` for a model without a trained head.
    """
    check_output(output, inputs=[data], overwrite=overwrite)
    check_writable(output, mend=_OTHER)
    model = final_model(model)
    check_name(model)
    card = card_of(model)
    loaded = load_preferences(data, columns=columns)
    talks = any(isinstance(record.prompt, tuple) for record in loaded.train)
    options = replace(recorded_chat(card), **chat or {})
    policy = load_policy(model, dtype=dtype, chat=options if talks or chat else None, values=True)
    require_trained_head(policy.model, model)
    groups = groups_to_score(loaded, policy, max_length)
    how, chosen = ReferenceScoring.here(policy, groups, token_budget), scorer_of(policy.model)
    say(f"reward model: {policy.words}\nscorer: {chosen.name} ({chosen.reason})")
    with counting("scoring", len(groups)) as report:
        scores = score_answers(policy.model, groups, replace(how, report=report), per_token=per_token)
    offset, tokenizer = reward_offset(model), policy.tokenizer if per_token else None
    rows = [_row(group, scores[number], offset, tokenizer) for number, group in enumerate(groups)]
    lines = (encodable(json.dumps(row, ensure_ascii=False)) + "\n" for row in rows)
    write_output(output, "".join(lines), mend=_OTHER)
    return f"{summarize(rows, groups)}\n{len(rows)} rows written to {output}"


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
    lengths, rewards = (np.array([answer[name] for answer in every]) for name in ("length", "reward"))
    if len(set(lengths.tolist())) > 1:
        correlation = rank_correlation(lengths.astype(float), rewards.astype(float))
        lines.append(f"length            {correlation:+.2f}   rank correlation of an answer's tokens with its reward")
    return "\n".join(lines)
