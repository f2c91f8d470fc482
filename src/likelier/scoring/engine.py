"""One engine for training, evaluation, scoring and the reference: groups in, `Scored` out, in micro-batches.

It joins the boxes on both sides of the seam (batches and scores below, objectives above) and adds no mathematics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from likelier.data.groups import Group
from likelier.data.packing import packed_micro_batches, padded_micro_batches
from likelier.data.views import by_numbers
from likelier.models.layers import frozen
from likelier.objectives import Objective, Scored
from likelier.objectives.scored import Place
from likelier.scoring import Batch, SequenceScores, collate, scorer_of
from likelier.scoring.batch import Answers
from likelier.utils.distributed import ALONE, Ranks

Report = Callable[[int], None]
_WINDOW = 4096  # groups a rank that are planned at once
PACK_LARGER = {"cuda": 4}  # without gradients no activations are kept; on a CPU larger batches gain nothing


def as_scored(batch: Batch, scores: SequenceScores, place: Place | None = None) -> Scored:
    """The seam's result as what objectives read; the reference and what rows bring in the policy's precision. A
    micro-batch has a `place` in its step.
    """
    return Scored(scores, batch.items.like(scores.logps), place)


def micro_batches(model: nn.Module, groups: Sequence[Group], token_budget: int, *, ranks: int = 1) -> list[list[Group]]:
    """Cut groups into micro-batches within the budget, as the model's scorer holds them: padded rows, or packed. With
    several `ranks` their number is a multiple of that, and some may be empty.
    """
    cut = padded_micro_batches if scorer_of(model).name == "plain" else packed_micro_batches
    return cut(groups, token_budget, ranks=ranks)


@dataclass(frozen=True)
class MicroBatch:
    """Groups that are computed at once, and their place among those that were cut. Where they do not count, a rank
    without work keeps step with the others.
    """

    groups: list[Group]
    place: Place
    counts: bool = True


def own_micro_batches(model: nn.Module, groups: Sequence[Group], token_budget: int, ranks: Ranks) -> list[MicroBatch]:
    """This rank's share of the micro-batches of some groups: as many as every other rank has."""
    cut = micro_batches(model, groups, token_budget, ranks=ranks.size)
    places = [Place(first, len(groups)) for first in accumulate(map(len, cut), initial=0)][:-1]
    return [
        MicroBatch(part, place) if part else _filler(groups)
        for part, place in ranks.share(list(zip(cut, places, strict=True)))
    ]


def _filler(groups: Sequence[Group]) -> MicroBatch:
    return MicroBatch([min(groups, key=lambda group: group.tokens)], Place(0, len(groups)), counts=False)


@dataclass(frozen=True)
class ScoredGroups:
    """A micro-batch of groups with its batch and scores."""

    groups: list[Group]
    batch: Batch
    scores: SequenceScores


def score_groups(
    model: nn.Module,
    groups: Sequence[Group],
    *,
    token_budget: int,
    device: torch.device | str,
    answers: Answers = "all",
    collisions: bool = False,
    report: Report | None = None,
    ranks: Ranks = ALONE,
) -> Iterator[ScoredGroups]:
    """Score groups without gradients, dropout off, in micro-batches within `token_budget` (on CUDA four times that).

    The largest come first, so that memory is at its peak at once; they are planned some thousands at a time. With
    `ranks` only this one's share is computed and yielded, else all of them on every rank. `report` is called with the
    number of groups done.
    """
    budget = token_budget * PACK_LARGER.get(torch.device(device).type, 1)
    with frozen(model):
        for window in _windows(groups, ranks.size):
            for part in own_micro_batches(model, window, budget, ranks):
                batch = collate(part.groups, device=device, answers=answers, collisions=collisions)
                scores = model(batch=batch)
                if part.counts:
                    yield ScoredGroups(part.groups, batch, scores)
                    if report is not None:
                        report(len(part.groups))


def _windows(groups: Sequence[Group], ranks: int) -> Iterator[Sequence[Group]]:
    """The groups, some thousands a rank at a time, the largest first: so that planning takes linear time."""
    size = _WINDOW * ranks
    if len(groups) <= size:
        yield groups
        return
    lengths = np.fromiter((group.tokens for group in groups), dtype=np.int64, count=len(groups))
    ordered = np.argsort(-lengths, kind="stable")
    for start in range(0, len(ordered), size):
        yield list(by_numbers(groups, ordered[start : start + size].tolist()))


def score_everywhere(
    model: nn.Module,
    groups: Sequence[Group],
    *,
    token_budget: int,
    device: torch.device | str,
    collisions: bool = False,
    tokens: bool = False,
    report: Report | None = None,
    ranks: Ranks = ALONE,
) -> list[ScoredGroups]:
    """`score_groups` with the work divided between the ranks, and all scores on every one of them: the same values
    everywhere. Where there are several, token log-probabilities are left out unless `tokens` asks for them.
    """
    how: dict[str, Any] = {"token_budget": token_budget, "device": device, "collisions": collisions}
    groups = list(groups)  # each one object, by which it is found again
    own = list(score_groups(model, groups, **how, report=report, ranks=ranks))
    if not ranks.several:
        return own
    return _exchanged(own, groups, torch.device(device), ranks, collisions=collisions, tokens=tokens)


def _exchanged(
    own: Sequence[ScoredGroups],
    groups: Sequence[Group],
    device: torch.device,
    ranks: Ranks,
    *,
    collisions: bool,
    tokens: bool = False,
) -> list[ScoredGroups]:
    """One micro-batch of all groups, its sums (and `tokens`) from whichever rank has computed them."""
    batch = collate(groups, device=device)
    place = {id(group): numbers for group, numbers in zip(groups, batch.answers_of_groups(), strict=True)}
    sums = torch.zeros(1 + collisions, len(batch.answers), dtype=torch.double)
    times = torch.zeros(len(batch.answers), dtype=torch.double)
    for part in own:
        found = [part.scores.logps, part.scores.collision_entropies]
        known = torch.stack([one.double().cpu() for one in found if one is not None])
        for group, numbers in zip(part.groups, part.batch.answers_of_groups(), strict=True):
            sums[:, place[id(group)]] += known[:, numbers]
            times[place[id(group)]] += 1
    times = ranks.total(times)
    means = (ranks.total(sums) / times).to(device)
    scores = SequenceScores.sums_of(means[0], batch.lengths.to(device), means[1] if collisions else None)
    if tokens:
        beneath = SequenceScores.of(_exchanged_tokens(own, batch, place, times, ranks).to(device), batch.lengths)
        scores = replace(scores, token_logps=beneath.token_logps, answer_of=beneath.answer_of)
    return [ScoredGroups(list(groups), batch, scores)]


def _exchanged_tokens(
    own: Sequence[ScoredGroups], batch: Batch, place: dict[int, list[int]], times: Tensor, ranks: Ranks
) -> Tensor:
    """(tokens,) the log-probabilities of the scored tokens of `batch`, in which `place` has the answers of each group
    (by its id); `times` (answers,) is how often each answer was computed.
    """
    lengths = batch.lengths
    found = torch.zeros(int(lengths.sum()), dtype=torch.double)
    answers = found.split(lengths.tolist())
    for part in own:
        known = part.scores.token_logps.double().cpu().split(part.scores.lengths.tolist())
        for group, numbers in zip(part.groups, part.batch.answers_of_groups(), strict=True):
            for number, at in zip(numbers, place[id(group)], strict=True):
                answers[at].add_(known[number])
    return ranks.total(found) / times.repeat_interleave(lengths)


def prompt_numbers(groups: Sequence[Group]) -> Tensor:
    """(groups,): a number per distinct prompt, in order of appearance; groups of one prompt share it."""
    known: dict[bytes, int] = {}
    return torch.tensor([known.setdefault(group.prompt.tobytes(), len(known)) for group in groups])


def step_statistics(objective: Objective, parts: Sequence[Scored]) -> Tensor | None:
    """The objective's statistics over the whole step: the sum over its micro-batches."""
    sums = [objective.step_statistics(part) for part in parts]
    found = [part for part in sums if part is not None]
    return torch.stack(found).sum(0) if found else None
