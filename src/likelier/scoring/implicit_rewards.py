"""The implicit reward of every answer in a file: beta * (log pi - log pi_ref), in sums and per token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from likelier.data.groups import Group
from likelier.data.masks import Mask, trained_count
from likelier.data.token_text import token_texts
from likelier.models.policy import Policy
from likelier.scoring.engine import prompt_numbers, score_groups
from likelier.scoring.reference import Reference, ReferenceScoring
from likelier.utils.statistics import share_of


@dataclass(frozen=True)
class AnswerScore:
    """One answer under one model: the sum, and each token's log-probability beneath it."""

    logp: float
    token_logps: list[float]


def score_answers(
    model: Any, groups: Sequence[Group], how: ReferenceScoring, *, per_token: bool
) -> dict[int, list[AnswerScore]]:
    """For each group (by its place) the scores of its answers; tokens are kept only where asked for."""
    groups = list(groups)  # each one object, by which it is found again
    place = {id(group): number for number, group in enumerate(groups)}
    found: dict[int, list[AnswerScore]] = {}
    for part in score_groups(model, groups, token_budget=how.token_budget, device=how.device, report=how.report):
        scores = part.scores
        pieces = scores.token_logps.split(scores.lengths.tolist())
        tokens = [piece.tolist() if per_token else [] for piece in pieces]
        answers = [AnswerScore(logp, own) for logp, own in zip(scores.logps.tolist(), tokens, strict=True)]
        for group, numbers in zip(part.groups, part.batch.answers_of_groups(), strict=True):
            found[place[id(group)]] = [answers[number] for number in numbers]
    return found


def implicit_rewards(
    policy: Policy,
    reference: Reference,
    groups: Sequence[Group],
    how: ReferenceScoring,
    *,
    beta: float,
    per_token: bool,
) -> list[dict[str, Any]]:
    """One JSON-ready object a group, in order: the answers' log-probabilities, log-ratios and rewards."""
    own = score_answers(policy.model, groups, how, per_token=per_token)
    with reference.use() as model:
        refs = score_answers(model, groups, how, per_token=per_token)
    rows = []
    for number, group in enumerate(groups):
        answers = [
            _answer(policy.tokenizer, ids, mask, mine, theirs, beta, per_token)
            for ids, mask, mine, theirs in zip(
                group.own_answers, group.own_masks, own[number], refs[number], strict=True
            )
        ]
        row: dict[str, Any] = {"source": str(group.source)}
        if group.is_pair:
            chosen, rejected = answers[0], answers[-1]
            margin = chosen["reward"] - rejected["reward"]
            row |= {"chosen": chosen, "rejected": rejected, "margin": margin, "correct": margin > 0}
        else:
            row |= {"label": group.desirable, "completion": answers[0]}
        rows.append(row)
    return rows


def _answer(
    tokenizer: Any, ids: Any, mask: Mask, mine: AnswerScore, theirs: AnswerScore, beta: float, per_token: bool
) -> dict[str, Any]:
    length, logratio = trained_count(ids, mask), mine.logp - theirs.logp
    found: dict[str, Any] = {
        "reward": beta * logratio,
        "logp": mine.logp,
        "ref_logp": theirs.logp,
        "logratio": logratio,
        "length": length,
        "logp_per_token": mine.logp / length,
        "ref_logp_per_token": theirs.logp / length,
        "logratio_per_token": logratio / length,
    }
    if per_token:
        columns = zip(mine.token_logps, theirs.token_logps, strict=True)
        figures = [{"logp": own, "ref_logp": ref, "logratio": own - ref} for own, ref in columns]
        found["tokens"] = token_rows(tokenizer, ids, mask, figures)
    return found


def token_rows(tokenizer: Any, ids: Any, mask: Mask, figures: Sequence[dict[str, float]]) -> list[dict[str, Any]]:
    """An answer's tokens with their texts, and the figures of those that are trained on, one after the other; a token
    that is not says so.
    """
    trained = [True] * len(ids) if mask is None else mask.tolist()
    left = iter(figures)
    rows = zip(ids.tolist(), token_texts(tokenizer, ids), trained, strict=True)
    return [
        {"id": token, "text": text} | (next(left) if is_trained else {"trained": False})
        for token, text, is_trained in rows
    ]


def summarize(rows: Sequence[dict[str, Any]], groups: Sequence[Group], beta: float) -> str:
    """A few lines: accuracy with its interval where pairs are given, and the mean rewards."""
    clusters = prompt_numbers(groups)
    lines = []
    sides: dict[str, list[float]] = {}
    for row in rows:
        for side in ("chosen", "rejected"):
            if side in row:
                sides.setdefault(side, []).append(row[side]["reward"])
        if "label" in row:
            sides.setdefault("desirable" if row["label"] else "undesirable", []).append(row["completion"]["reward"])
    if "chosen" in sides:
        right = share_of([row["correct"] for row in rows], clusters)
        ranked = share_of([row["chosen"]["logp"] > row["rejected"]["logp"] for row in rows], clusters)
        lines.append(f"reward accuracy   {right}   (the chosen answer has the higher implicit reward)")
        lines.append(f"ranking accuracy  {ranked}   (the policy finds the chosen answer likelier)")
    for side, rewards in sides.items():
        lines.append(
            f"mean reward       {sum(rewards) / len(rewards):+.4f}   {side}, {len(rewards)} answers, beta {beta:g}"
        )
    return "\n".join(lines)
