"""From sums to the loss and its gradient, through the run's own objective: nothing is computed twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from likelier.data.groups import Group
from likelier.data.records import Labelled, Pair, Record
from likelier.objectives import Objective, Scored, SequenceScores


@dataclass(frozen=True)
class Item:
    """What one loss is made of: a pair, or one answer with its label.

    `logit` is what the loss takes the sigmoid of, `sigma` that sigmoid (None where the loss is made otherwise);
    `gradient` the loss's derivative by the summed log-probability of each answer, which is that by each of its tokens
    (where some count less, by each of its head: see `SequenceScores.heads`).
    `label` is an answer's, `weight` the row's own.
    """

    of: str
    loss: float
    logit: float | None
    sigma: float | None
    gradient: dict[str, float]
    label: bool | None = None
    weight: float = 1.0


@dataclass(frozen=True)
class Chain:
    """The rewards of the answers, and the items that the objective makes of them; `reason` says why there is none."""

    rewards: dict[str, float]
    items: tuple[Item, ...]
    reason: str = ""


def chain_of(
    objective: Objective, record: Record, group: Group, answers: Mapping[str, Mapping[str, Any]], baseline: float
) -> Chain:
    """The chain of one row whose `answers` (by side: chosen, rejected; or completion) are scored.

    `baseline` is KTO's z0, which belongs to a whole optimizer step and has to be given here.
    """
    sides = list(answers)
    logps = torch.tensor([answers[side]["logp"] for side in sides], dtype=torch.double, requires_grad=True)
    scored, reason = _scored(objective, record, group, answers, logps, baseline)
    rewards = dict(zip(sides, objective.rewards(scored).tolist(), strict=False))
    if reason:
        return Chain(rewards, (), reason)
    statistics = objective.step_statistics(scored)
    losses = objective.weighted_losses(scored, statistics)
    logits = objective.logits(scored, statistics)
    items = [_item(number, sides, losses[number], logits, logps, scored, group) for number in range(len(losses))]
    return Chain(rewards, tuple(items))


def _item(
    number: int, sides: Sequence[str], loss: Tensor, logits: Tensor | None, logps: Tensor, scored: Scored, group: Group
) -> Item:
    (slopes,) = torch.autograd.grad(loss, logps, retain_graph=True)
    logit = None if logits is None else float(logits[number].detach())
    own = sides if scored.items.rows is None else [sides[int(scored.items.rows[number])]]
    return Item(
        of="pair" if scored.items.rows is None else own[0],
        loss=float(loss.detach()),
        logit=logit,
        sigma=None if logit is None else float(torch.sigmoid(torch.tensor(logit, dtype=torch.double))),
        gradient={side: float(slopes[sides.index(side)]) for side in own},
        label=None if scored.items.desirable is None else bool(scored.items.desirable[number]),
        weight=group.weight,
    )


def _scored(
    objective: Objective,
    record: Record,
    group: Group,
    answers: Mapping[str, Mapping[str, Any]],
    logps: Tensor,
    baseline: float,
) -> tuple[Scored, str]:
    """The row as the objective takes it; with a reason where it makes no loss of such a row."""
    rows, labels, reason = _rows(objective, record)
    is_pair = objective.data == "pairs" and not reason
    lengths = [int(answer["length"]) for answer in answers.values()]
    refs = [answer.get("ref_logp") for answer in answers.values()]
    if objective.needs_partner:  # an answer whose log-ratio is the baseline stands for all mismatched ones
        logps, lengths, refs = torch.cat([logps, logps.new_tensor([baseline])]), [*lengths, 1], [*refs, 0.0]

    def of_items(value: float | None) -> Tensor | None:
        return None if value is None else logps.new_full((1 if is_pair else len(rows),), value)

    scored = Scored.of(
        logps=logps,
        lengths=torch.tensor(lengths),
        **(_with_heads(answers, logps) if objective.needs_heads and is_pair else {}),
        ref_logps=None if None in refs else logps.new_tensor(refs),
        pairs=torch.tensor([[0, 1]]) if is_pair else None,
        rows=torch.tensor(rows, dtype=torch.long) if labels else None,
        desirable=torch.tensor(labels) if labels else None,
        partners=torch.full((len(rows),), len(answers)) if objective.needs_partner else None,
        weights=of_items(group.weight),
        margins=of_items(group.margin),
        flip_chances=of_items(group.flip_chance),
    )
    return scored, reason


def _with_heads(answers: Mapping[str, Mapping[str, Any]], logps: Tensor) -> dict[str, Tensor]:
    """Tokens of both answers of a pair as `Scored.of` takes them, and the reference's sums over the answers' heads. The
    first token of each carries the history of `logps`, so that it is moved as one token of the head would.
    """
    lengths = torch.tensor([answer["length"] for answer in answers.values()])
    own, refs = (
        torch.cat(
            [logps.new_tensor([one[name] for one in answer["tokens"] if name in one]) for answer in answers.values()]
        )
        for name in ("logp", "ref_logp")
    )
    pairs = torch.tensor([[0, 1]])
    first = lengths.cumsum(0) - lengths
    moved = own.index_add(0, first, logps - logps.detach())
    return {"token_logps": moved, "ref_head_logps": SequenceScores.of(refs, lengths).heads(pairs)}


def _rows(objective: Objective, record: Record) -> tuple[list[int], list[bool], str]:
    """(answer numbers, labels, why there is no loss) of a row as single answers, for the kinds of data there are."""
    method, is_pair = objective.method, isinstance(record, Pair)
    if objective.data == "pairs":
        if objective.needs_collisions:
            return (
                [],
                [],
                f"{method}'s loss is weighed by all that the policy might have written, which is not looked at",
            )
        if not objective.judges_alone():
            return [], [], f"{method}'s loss compares the pairs of an optimizer step, and this is one of them"
        return [], [], "" if is_pair else f"{method}'s loss compares two answers, and this row has one"
    if objective.data == "scores":
        return [], [], f"{method}'s loss compares all scored answers of a row, and these are two of them"
    if objective.data == "labels":
        if is_pair:
            return [0, 1], [True, False], ""
        if isinstance(record, Labelled):
            return [0], [record.desirable], ""
        return [], [], f"{method}'s loss needs a label, and this row has none (typed ones take --label good or bad)"
    if isinstance(record, Labelled) and not record.desirable:
        return [], [], f"{method} learns from good answers only, and this one is labelled bad"
    return [0], [True], ""
