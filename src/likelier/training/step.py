"""The walk through one optimizer step, micro-batch by micro-batch.

How a step is cut changes no number (the loss is a sum over items, divided by their number), nor does it who computes
which part: of several ranks each takes its share of the micro-batches. A step that did not fit can be done again in
smaller ones (`within_memory`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from likelier.data.groups import Group
from likelier.objectives import Objective, Scored
from likelier.objectives.base import State
from likelier.objectives.metrics import MetricSums
from likelier.scoring import Batch, collate
from likelier.scoring.batch import Answers
from likelier.scoring.engine import MicroBatch, ScoredGroups, as_scored, own_micro_batches, step_statistics
from likelier.training.evaluation import step_sums
from likelier.training.within_memory import WithinMemory
from likelier.utils.distributed import ALONE, Ranks


class StepLoader(DataLoader):  # type: ignore[type-arg]
    """A loader of whole steps whose `set_epoch` reaches their sampler (Trainer does not call it there by itself)."""

    def __init__(self, rows: Any, steps: Any) -> None:
        super().__init__(rows, batch_sampler=steps, collate_fn=list)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch's shuffle."""
        self.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]


@dataclass(frozen=True)
class StepPart:
    """A micro-batch that is done: its scores, its losses (items,) and its metrics. A filler does not count (see
    `MicroBatch`).
    """

    scored: Scored
    losses: Tensor
    counts: bool
    metrics: MetricSums = field(default_factory=MetricSums)


@dataclass(frozen=True)
class StepResult:
    """This rank's share of a step that is done: the groups that count, in the order of `losses` (items,), all its parts
    with the fillers, and the statistics of the whole step. `state` is what the objective carries on if it is learnt
    from.
    """

    groups: list[Group]
    losses: Tensor
    parts: list[StepPart]
    statistics: Tensor | None
    state: State = field(default_factory=dict, kw_only=True)


@dataclass
class StepWalker(WithinMemory):
    """Computes steps of one model in micro-batches within `token_budget`, which shrinks where memory runs out."""

    model: nn.Module
    objective: Objective
    token_budget: int
    device: torch.device
    ranks: Ranks = ALONE

    def walk(
        self,
        wrapped: nn.Module,
        groups: Sequence[Group],
        backward: Callable[[Tensor], None],
        seen: Callable[[ScoredGroups], None],
    ) -> StepResult:
        """Add up the step's gradients: those of the sum of its losses divided by their number, over all ranks.

        Args:
            wrapped: what is called (the model, or what is wrapped around it).
            groups: the step, the same on every rank.
            backward: takes each micro-batch's share of the loss.
            seen: is shown each micro-batch's scores before they are used.
        """
        return self.retried(lambda: self._walk(wrapped, groups, backward, seen), groups)

    def _walk(
        self,
        wrapped: nn.Module,
        groups: Sequence[Group],
        backward: Callable[[Tensor], None],
        seen: Callable[[ScoredGroups], None],
    ) -> StepResult:
        cut = own_micro_batches(self.model, groups, self.token_budget, self.ranks)
        cut_up = len(cut) > 1 or self.ranks.several
        statistics = self._statistics(wrapped, cut) if cut_up else None
        answers: Answers = "all" if statistics is None else "own"
        scale = self.ranks.size / len(groups)  # gradients are averaged over ranks, and are to be a sum
        parts: list[StepPart] = []
        for number, part in enumerate(cut, 1):
            with unsynchronized(wrapped, number < len(cut)):
                batch = self._collated(part, answers)
                scores = wrapped(batch=batch)
                seen(ScoredGroups(part.groups, batch, scores))
                scored = as_scored(batch, scores, part.place)
                if statistics is None:
                    statistics = step_statistics(self.objective, [scored])
                objective = self.objective.after(statistics)
                losses = objective.weighted_losses(scored, statistics)
                backward(losses.sum() * (scale if part.counts else 0.0))
            scored, losses = scored.detached(), losses.detach()
            metrics = step_sums(objective, scored, statistics, losses)
            parts.append(StepPart(scored, losses, part.counts, metrics))
        counted = [part for part in parts if part.counts]
        losses = torch.cat([part.losses for part in counted]) if counted else parts[0].losses[:0]
        own = [group for part in cut if part.counts for group in part.groups]
        return StepResult(own, losses, parts, statistics, state=self.objective.after(statistics).state)

    def _collated(self, part: MicroBatch, answers: Answers) -> Batch:
        collisions = self.objective.needs_collisions
        return collate(part.groups, device=self.device, answers=answers, collisions=collisions)

    def _statistics(self, wrapped: nn.Module, cut: Sequence[MicroBatch]) -> Tensor | None:
        """The whole step's statistics, from a pass without gradients over the answers that they are made of."""
        answers: Answers = "partners" if self.objective.needs_partner else "own"
        if not self.objective.needs_partner and not self.objective.needs_step:
            return None
        found: list[Tensor] = []
        with torch.no_grad():
            for part in cut:
                batch = self._collated(part, answers)
                own = step_statistics(self.objective, [as_scored(batch, wrapped(batch=batch), part.place)])
                assert own is not None
                found.append(own if part.counts else torch.zeros_like(own))
        return self.ranks.total(torch.stack(found).sum(0))


def unsynchronized(wrapped: nn.Module, more_to_come: bool) -> AbstractContextManager[None]:
    """Without exchange of gradients, where DDP would exchange them and more micro-batches come. Sharded gradients are
    exchanged each time, or every rank would hold all of them.
    """
    is_ddp = isinstance(wrapped, DistributedDataParallel)
    return wrapped.no_sync() if more_to_come and is_ddp else nullcontext()
