"""Held-out preference accuracy with intervals, and what else can be told from scores alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from likelier.data.groups import Group
from likelier.objectives import Objective, Scored
from likelier.objectives.metrics import MetricSums, item_metrics, label_is_right, readable
from likelier.objectives.scored import SequenceScores, join
from likelier.scoring.batch import collate
from likelier.scoring.engine import as_scored, prompt_numbers, score_everywhere, step_statistics
from likelier.utils.statistics import share_of


@dataclass(frozen=True)
class Evaluation:
    """Metrics over held-out items; the items' scores, aligned with their groups."""

    metrics: dict[str, float]
    groups: list[Group]
    scored: Scored
    pairs: Tensor | None


def evaluate_groups(model: nn.Module, objective: Objective, groups: Sequence[Group], **settings: Any) -> Evaluation:
    """Score all held-out groups, by all ranks together, and compute the objective's metrics over them as one set.
    `settings` are those of `score_everywhere`.

    Where two answers stand against each other (pairs, and labelled rows that were made of pairs) also
    `pair_accuracy`: how often the chosen one has the higher reward; `ranking_accuracy`: how often the policy itself
    finds it likelier (sums), and `ranking_accuracy_per_token` (means). Accuracies come with `_low` and `_high` of a
    95 % interval.
    """
    parts: list[Scored] = []
    ordered: list[Group] = []
    needed = {"collisions": objective.needs_collisions, "tokens": objective.needs_heads}
    for part in score_everywhere(model, groups, **needed, **settings):
        parts.append(as_scored(part.batch, part.scores))
        ordered.extend(part.groups)
    return _evaluated(objective, join(parts), ordered)


def evaluate_as_reference(
    objective: Objective, groups: Sequence[Group], device: torch.device | str, dtype: torch.dtype
) -> Evaluation | None:
    """`evaluate_groups` of a policy that is its reference still, without a forward pass: its scores, of `dtype`, are
    those that the groups have of the reference. None where these are not at hand, come from a data file (which may
    have rounded them), or are not all that the objective asks for.
    """
    if objective.needs_collisions or objective.needs_heads:
        return None
    if any(group.ref_logps is None or group.given_ref_logps is not None for group in groups):
        return None
    batch = collate(groups, device=device)
    assert batch.items.ref_logps is not None
    scores = SequenceScores.sums_of(batch.items.ref_logps.to(dtype), batch.lengths.to(device))
    return _evaluated(objective, as_scored(batch, scores), list(groups))


def _evaluated(objective: Objective, scored: Scored, ordered: list[Group]) -> Evaluation:
    statistics = step_statistics(objective, [scored])
    metrics = objective_metrics(objective, scored, statistics)
    pairs = scored.items.pairs if scored.items.pairs is not None else pairs_of_rows(scored, ordered)
    for name, right, own in accuracies(objective, scored, statistics, pairs, ordered):
        share = share_of(right.cpu(), prompt_numbers(own))
        metrics |= {name: share.value, f"{name}_low": share.low, f"{name}_high": share.high}
        metrics |= _by_data_set(name, right.cpu(), own)
    return Evaluation(metrics | {"items": float(len(ordered))}, ordered, scored, pairs)


def _by_data_set(metric: str, right: Tensor, groups: Sequence[Group]) -> dict[str, float]:
    """The share of right items (n,) in each of several data sets."""
    names = [group.source.data_set for group in groups]
    found: dict[str, float] = {}
    for name in sorted(set(names)) if len(set(names)) > 1 else []:
        own = torch.tensor([other == name for other in names])
        found[f"{metric}/{name}"] = float(right[own].double().mean())
    return found


def objective_metrics(objective: Objective, scored: Scored, statistics: Tensor | None) -> dict[str, float]:
    """Loss, rewards, log-probabilities, log-ratios, lengths and the objective's own statistics, as means over items."""
    sums = step_sums(objective, scored, statistics, objective.weighted_losses(scored, statistics))
    found = readable(sums)
    if statistics is not None:  # KTO's baseline, which is a KL of other answers than the policy's own
        named = objective.statistics_metrics(statistics)
        found |= {name.replace("kl", "baseline", 1): value for name, value in named.items()}
    if scored.items.ref_logps is not None:
        ratios = readable(item_metrics(scored.with_sums(scored.logratios), scored.logratios, scored.logratios))
        found |= {f"logratios/{side}": ratios[f"logps/{side}"] for side in SIDES if f"logps/{side}" in ratios}
    return found


SIDES = ("chosen", "rejected")


def step_sums(objective: Objective, scored: Scored, statistics: Tensor | None, losses: Tensor) -> MetricSums:
    """The metrics of some items as sums and counts (the objective's statistics aside)."""
    found = item_metrics(scored, losses, objective.rewards(scored), objective.reward_baseline(statistics))
    for name, values in objective.part_losses(scored, statistics).items():
        found.add(f"loss/{name}", values if scored.items.weights is None else values * scored.items.weights)
    return found.without("logps/") if objective.reads_values else found


def pairs_of_rows(scored: Scored, groups: Sequence[Group]) -> Tensor | None:
    """(n, 2) answer numbers (chosen, rejected) of labelled rows that come from one row of the data and share their
    prompt: a pair that was read as two labels. None where there are none.
    """
    if scored.items.rows is None or scored.items.desirable is None:
        return None
    sides: dict[tuple[str, bytes], list[tuple[bool, int]]] = {}
    rows = zip(groups, scored.items.desirable.tolist(), scored.items.rows.tolist(), strict=True)
    for group, desirable, answer in rows:
        sides.setdefault((str(group.source), group.prompt.tobytes()), []).append((desirable, answer))
    judged = [sorted(own, reverse=True) for own in sides.values() if len(own) == 2]  # a ranking has more
    both = [[first, second] for (desirable, first), (other, second) in judged if desirable and not other]
    return torch.tensor(both, device=scored.logps.device) if both else None


def accuracies(
    objective: Objective, scored: Scored, statistics: Tensor | None, pairs: Tensor | None, groups: Sequence[Group]
) -> list[tuple[str, Tensor, Sequence[Group]]]:
    """Which items are right, (n,) bool each with the n groups that they belong to: by reward, and where answers stand
    against each other also by the policy's own log-probabilities.
    """
    rewards = objective.rewards(scored)
    found: list[tuple[str, Tensor, Sequence[Group]]] = []
    rows, desirable = scored.items.rows, scored.items.desirable
    if rows is not None and desirable is not None and objective.data != "answers":
        baseline = objective.reward_baseline(statistics)
        right = label_is_right(rewards[rows], desirable, 0.0 if baseline is None else baseline)
        found.append(("rewards/accuracies", right, groups))
    if pairs is None:
        return found
    own = groups if scored.items.pairs is not None else _groups_of(pairs[:, 0], scored, groups)
    values = {"pair_accuracy": rewards}
    if not objective.reads_values:
        values |= {"ranking_accuracy": scored.logps, "ranking_accuracy_per_token": scored.logps / scored.lengths}
    if scored.items.pairs is not None:
        values["rewards/accuracies"] = rewards
    return found + [(name, one[pairs[:, 0]] > one[pairs[:, 1]], own) for name, one in values.items()]


def _groups_of(answers: Tensor, scored: Scored, groups: Sequence[Group]) -> list[Group]:
    assert scored.items.rows is not None
    place = {answer: number for number, answer in enumerate(scored.items.rows.tolist())}
    return [groups[place[answer]] for answer in answers.tolist()]


def item_table(found: Evaluation, most: int) -> dict[str, Any]:
    """The items' scores as columns, at most so many, evenly spaced: of both sides where answers stand against each
    other, else of each labelled answer.
    """
    scored, pairs = found.scored, found.pairs
    if pairs is not None and (scored.items.pairs is not None or 4 * len(pairs) >= len(found.groups)):  # most rows
        groups = found.groups if scored.items.pairs is not None else _groups_of(pairs[:, 0], scored, found.groups)
        sides = {"chosen": pairs[:, 0], "rejected": pairs[:, 1]}
    else:
        assert scored.items.rows is not None
        groups, sides = found.groups, {"completion": scored.items.rows}
    kept = _evenly(groups, most)
    table: dict[str, Any] = {
        "source": [str(groups[number].source) for number in kept],
        "prompt": prompt_numbers([groups[number] for number in kept]).tolist(),
    }
    if "completion" in sides and groups[0].desirable is not None:
        table["label"] = [groups[number].desirable for number in kept]
    return table | {side: _scores(scored, answers[kept]) for side, answers in sides.items()}


def _evenly(groups: Sequence[Group], most: int) -> list[int]:
    """Numbers of at most `most` groups, in the order of the data and evenly spaced in it."""
    order = sorted(
        range(len(groups)), key=lambda number: (groups[number].source.data_set, groups[number].source.number)
    )
    step = max(1.0, len(order) / most)
    return [order[int(place * step)] for place in range(min(most, len(order)))]


def _scores(scored: Scored, answers: Tensor) -> dict[str, Any]:
    def column(values: Tensor) -> list[float]:
        return [round(value, 6) for value in values[answers].double().tolist()]

    return {
        "logps": column(scored.logps),
        "ref_logps": None if scored.items.ref_logps is None else column(scored.items.ref_logps),
        "lengths": scored.lengths[answers].tolist(),
    }
