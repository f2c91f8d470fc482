"""Held-out preference accuracy with intervals, and what else can be told from scores alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from likelier.data.tokenize import Group
from likelier.engine import Report, as_scored, join, prompt_numbers, score_groups, step_statistics
from likelier.metrics import MetricSums, accuracy_interval, item_metrics, label_is_right, readable
from likelier.objectives import Objective, Scored


@dataclass(frozen=True)
class Evaluation:
    """Metrics over held-out items, and which items were right."""

    metrics: dict[str, float]
    items: int


def evaluate_groups(
    model: nn.Module,
    objective: Objective,
    groups: Sequence[Group],
    *,
    token_budget: int,
    device: torch.device | str,
    report: Report | None = None,
) -> Evaluation:
    """Score all held-out groups and compute the objective's metrics over them as one set.

    For pairs also `ranking_accuracy`: how often the policy itself finds the chosen answer likelier (sums), and
    `ranking_accuracy_per_token` (means). Accuracies come with `_low` and `_high` of a 95 % interval.
    """
    parts: list[Scored] = []
    ordered: list[Group] = []
    for part in score_groups(model, groups, token_budget=token_budget, device=device, report=report):
        parts.append(as_scored(part.batch, part.scores))
        ordered.extend(part.groups)
    scored = join(parts)
    statistics = step_statistics(objective, [scored])
    metrics = objective_metrics(objective, scored, statistics)
    clusters = prompt_numbers(ordered)
    for name, right in accuracies(objective, scored, statistics).items():
        low, high = accuracy_interval(right.cpu(), clusters)
        metrics |= {name: float(right.double().mean()), f"{name}_low": low, f"{name}_high": high}
        metrics |= _by_data_set(name, right.cpu(), ordered)
    return Evaluation(metrics, len(groups))


def _by_data_set(metric: str, right: Tensor, groups: Sequence[Group]) -> dict[str, float]:
    """The share of right items (n,) in each of several data sets."""
    names = [group.source.data_set for group in groups]
    found: dict[str, float] = {}
    for name in sorted(set(names)) if len(set(names)) > 1 else []:
        own = torch.tensor([other == name for other in names])
        found[f"{metric}/{name}"] = float(right[own].double().mean())
    return found


def objective_metrics(objective: Objective, scored: Scored, statistics: Tensor | None) -> dict[str, float]:
    """Loss, rewards, log-probabilities, lengths and the objective's own statistics, as means over the items."""
    sums = step_sums(objective, scored, statistics, objective.weighted_losses(scored, statistics))
    return readable(sums) | ({} if statistics is None else objective.statistics_metrics(statistics))


def step_sums(objective: Objective, scored: Scored, statistics: Tensor | None, losses: Tensor) -> MetricSums:
    """The metrics of some items as sums and counts (the objective's statistics aside)."""
    return item_metrics(scored, losses, objective.rewards(scored), objective.reward_baseline(statistics))


def accuracies(objective: Objective, scored: Scored, statistics: Tensor | None) -> dict[str, Tensor]:
    """Which items are right, (n,) bool each: by reward, and for pairs by the policy's own log-probabilities."""
    rewards = objective.rewards(scored)
    if scored.pairs is None:
        assert scored.rows is not None and scored.desirable is not None
        if objective.data == "answers":
            return {}  # nothing to be right about
        baseline = objective.reward_baseline(statistics)
        right = label_is_right(rewards[scored.rows], scored.desirable, 0.0 if baseline is None else baseline)
        return {"rewards/accuracies": right}

    def chosen_wins(values: Tensor) -> Tensor:
        chosen, rejected = scored.chosen_rejected(values)
        return chosen > rejected

    return {
        "rewards/accuracies": chosen_wins(rewards),
        "ranking_accuracy": chosen_wins(scored.logps),
        "ranking_accuracy_per_token": chosen_wins(scored.logps / scored.lengths),
    }
