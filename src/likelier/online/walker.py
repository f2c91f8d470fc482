"""The walk through one optimizer step on answers that the policy wrote, micro-batch by micro-batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from likelier.data.groups import Group
from likelier.models.layers import frozen
from likelier.objectives import Items, Scored, SequenceScores
from likelier.objectives.metrics import MetricSums
from likelier.objectives.online_base import OnlineObjective
from likelier.objectives.rollout import StepCounts
from likelier.online.critic import Critic
from likelier.online.rollout import Rollout, TokenLogps
from likelier.scoring import Batch, collate
from likelier.scoring.engine import MicroBatch, own_micro_batches
from likelier.training.step import StepPart, StepResult, unsynchronized
from likelier.training.within_memory import WithinMemory
from likelier.utils.distributed import ALONE, Ranks


@dataclass(frozen=True)
class RolloutResult(StepResult):
    """`differences` (tokens,) are those between the sampler's log-probabilities and those before the update, without
    sign, in nats; of this rank's tokens.
    """

    differences: Tensor


@dataclass
class RolloutWalker(WithinMemory):
    """Computes steps of one model in micro-batches within `token_budget`, at the `temperature` of the answers, of which
    none has more than `max_length` tokens.
    """

    model: nn.Module
    objective: OnlineObjective
    token_budget: int
    device: torch.device
    temperature: float
    max_length: int
    ranks: Ranks = ALONE
    critic: Critic | None = None

    def walk(
        self, wrapped: nn.Module, rollout: Rollout, backward: Callable[[Tensor], None], *, policy_learns: bool = True
    ) -> RolloutResult:
        """Add up the step's gradients: those of the sum of the answers' shares of its loss, and of the critic's where
        there is one. Arguments as `StepWalker.walk`; a policy that does not learn has gradients of 0.
        """
        groups, weight = self._groups(rollout), float(policy_learns)
        return self.retried(lambda: self._walk(wrapped, rollout, groups, backward, weight), list(groups))

    def _walk(
        self,
        wrapped: nn.Module,
        rollout: Rollout,
        groups: dict[Group, tuple[int, ...]],
        backward: Callable[[Tensor], None],
        weight: float,
    ) -> RolloutResult:
        step = rollout.step_counts(self.max_length)
        cut = own_micro_batches(self.model, list(groups), self.token_budget, self.ranks)
        parts: list[StepPart] = []
        differences: list[Tensor] = []
        if self.critic is not None:
            self.critic.forget_gradients()  # of a try that did not fit
            self.critic.model.train()
        for number, part in enumerate(cut, 1):
            numbers = [answer for group in part.groups for answer in groups[group]]
            with unsynchronized(wrapped, True):  # a trunk that both have: its gradients are exchanged with the policy's
                of_critic = self._part_of_critic(rollout, part, numbers, step, backward, clipped=bool(weight))
            with unsynchronized(wrapped, number < len(cut)):
                made, apart = self._part(wrapped, rollout, part, numbers, step, backward, weight)
            made.metrics.merge([of_critic])
            parts.append(made)
            differences.append(apart if part.counts else apart[:0])
        if self.critic is not None:
            self.critic.average_gradients(self.ranks)
        losses = torch.cat([part.losses if part.counts else part.losses[:0] for part in parts])
        own = [group for part in cut if part.counts for group in part.groups]
        return RolloutResult(own, losses, parts, None, torch.cat(differences))

    def _part(
        self,
        wrapped: nn.Module,
        rollout: Rollout,
        part: MicroBatch,
        numbers: Sequence[int],
        step: StepCounts,
        backward: Callable[[Tensor], None],
        weight: float,
    ) -> tuple[StepPart, Tensor]:
        batch = replace(self._batch(part), entropies=self.objective.needs_entropies)
        scores: SequenceScores = wrapped(batch=batch)
        places = torch.tensor(batch.answers_of_groups(), device=self.device).flatten()
        own = scores.of_answers(places)  # equal answers are scored once, and count each
        items = rollout.items(numbers, own.token_logps)
        losses = self.objective.losses(own, items, step)
        backward(losses.sum() * self._scale(part) * weight)
        own = own.detached()
        metrics = self.objective.metrics(own, items)
        metrics.add_sum("loss", losses.detach().sum() * step.answers, len(numbers))  # each is its share of the step's
        assert items.sampler_token_logps is not None
        apart = (items.old(own) - items.sampler_token_logps).abs()
        return StepPart(Scored(own, _items(batch)), losses.detach(), part.counts, metrics), apart

    def _part_of_critic(
        self,
        rollout: Rollout,
        part: MicroBatch,
        numbers: Sequence[int],
        step: StepCounts,
        backward: Callable[[Tensor], None],
        *,
        clipped: bool,
    ) -> MetricSums:
        """The critic's gradients of a micro-batch; its metrics, nothing without one."""
        if self.critic is None:
            return MetricSums()
        batch = self._batch(part)
        assert batch.items.rows is not None
        values = self.critic(batch=batch).of_answers(batch.items.rows)
        items = rollout.items(numbers, values.token_logps)
        losses = self.critic.objective.value_losses(values, items, step, clipped=clipped)
        backward(losses.sum() * self._scale(part))
        return self.critic.objective.value_metrics(values.detached(), items, clipped=clipped)

    def _batch(self, part: MicroBatch) -> Batch:
        return replace(collate(part.groups, device=self.device), temperature=self.temperature)

    def _scale(self, part: MicroBatch) -> float:
        """Gradients are averaged over ranks, and are to be a sum."""
        return float(self.ranks.size) if part.counts else 0.0

    def token_logps(self, model: nn.Module, rollout: Rollout) -> TokenLogps:
        """Each answer's token log-probabilities under a model, without gradients, cut as a step is; each rank computes
        its share, and all get all.
        """
        return self._of_tokens(model, model, rollout)

    def values(self, critic: Critic, rollout: Rollout) -> TokenLogps:
        """The values of the states before each answer's tokens, in the same way."""
        return self._of_tokens(critic, critic.model, rollout)

    def _of_tokens(self, scorer: Callable[..., SequenceScores], model: nn.Module, rollout: Rollout) -> TokenLogps:
        groups = {rollout.group(number): number for number in range(len(rollout.answers))}
        found: dict[int, np.ndarray] = {}
        with frozen(model):
            for part in own_micro_batches(self.model, list(groups), self.token_budget, self.ranks):
                batch = self._batch(part)
                assert batch.items.rows is not None
                own = scorer(batch=batch).of_answers(batch.items.rows)
                pieces = own.token_logps.double().cpu().split(own.lengths.tolist())
                found |= {groups[group]: piece.numpy() for group, piece in zip(part.groups, pieces, strict=True)}
        if self.ranks.several:
            own_numbers = {str(number): values.tolist() for number, values in found.items()}
            for theirs in self.ranks.joined([own_numbers]):
                found |= {int(number): np.array(values) for number, values in theirs.items()}
        return [found[number] for number in range(len(rollout.answers))]

    def _groups(self, rollout: Rollout) -> dict[Group, tuple[int, ...]]:
        """What is computed together, with its answers' numbers: the answers that count one by one, or their pairs."""
        single = [(number,) for number in rollout.counted()]
        return {rollout.group(*own): own for own in (rollout.pairs() if self.objective.compares_pairs else single)}


def _items(batch: Batch) -> Items:
    """The batch's items over its answers one after the other, equal ones each."""
    items, device = batch.items, batch.device
    if items.pairs is not None:
        return replace(items, pairs=torch.arange(2 * len(items.pairs), device=device).reshape(-1, 2))
    assert items.rows is not None
    return replace(items, rows=torch.arange(len(items.rows), device=device))
