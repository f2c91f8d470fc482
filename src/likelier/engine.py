"""One engine for training, evaluation, scoring and the reference: groups in, `Scored` out, in micro-batches.

It joins the boxes on both sides of the seam (batches and scores below, objectives above) and adds no mathematics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from likelier.data.packing import packed_micro_batches, padded_micro_batches
from likelier.data.tokenize import Group
from likelier.objectives import Objective, Scored
from likelier.scoring import Batch, SequenceScores, collate, scorer_of
from likelier.scoring.batch import Answers
from likelier.scoring.score import frozen

Report = Callable[[int], None]
PACK_LARGER = {"cuda": 4}  # without gradients no activations are kept; on a CPU larger batches gain nothing


def as_scored(batch: Batch, scores: SequenceScores) -> Scored:
    """The seam's result as what objectives read; the reference and what rows bring in the policy's precision."""

    def like_logps(values: Tensor | None) -> Tensor | None:
        return None if values is None else values.to(scores.logps.device, scores.logps.dtype)

    return Scored(
        logps=scores.logps,
        lengths=scores.lengths,
        ref_logps=like_logps(batch.ref_logps),
        pairs=batch.pairs,
        rows=batch.rows,
        desirable=batch.desirable,
        partners=batch.partners,
        weights=like_logps(batch.weights),
        margins=like_logps(batch.margins),
        flip_chances=like_logps(batch.flip_chances),
    )


def micro_batches(model: nn.Module, groups: Sequence[Group], token_budget: int) -> list[list[Group]]:
    """Cut groups into micro-batches within the budget, as the model's scorer holds them: padded rows, or packed."""
    cut = padded_micro_batches if scorer_of(model).name == "plain" else packed_micro_batches
    return cut(groups, token_budget)


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
    report: Report | None = None,
) -> Iterator[ScoredGroups]:
    """Score groups without gradients, dropout off, in micro-batches within `token_budget` (on CUDA four times that).

    The largest come first, so that memory is at its peak at once. `report` is called with the number of groups done.
    """
    budget = token_budget * PACK_LARGER.get(torch.device(device).type, 1)
    with frozen(model):
        for part in micro_batches(model, groups, budget):
            batch = collate(part, device=device, answers=answers)
            yield ScoredGroups(part, batch, model(batch=batch))
            if report is not None:
                report(len(part))


def prompt_numbers(groups: Sequence[Group]) -> Tensor:
    """(groups,): a number per distinct prompt, in order of appearance; groups of one prompt share it."""
    known: dict[bytes, int] = {}
    return torch.tensor([known.setdefault(group.prompt.tobytes(), len(known)) for group in groups])


def step_statistics(objective: Objective, parts: Sequence[Scored]) -> Tensor | None:
    """The objective's statistics over the whole step: the sum over its micro-batches."""
    sums = [objective.step_statistics(part) for part in parts]
    found = [part for part in sums if part is not None]
    return torch.stack(found).sum(0) if found else None


def join(parts: Sequence[Scored]) -> Scored:
    """Several scored micro-batches as one, answer numbers shifted."""
    offsets = [0]
    for part in parts:
        offsets.append(offsets[-1] + len(part.logps))

    def numbers(name: str) -> Tensor | None:
        found = [(getattr(part, name), offset) for part, offset in zip(parts, offsets, strict=False)]
        return None if found[0][0] is None else torch.cat([values + offset for values, offset in found])

    def values(name: str) -> Tensor | None:
        found = [getattr(part, name) for part in parts]
        return None if found[0] is None else torch.cat(found)

    return Scored(
        logps=torch.cat([part.logps for part in parts]),
        lengths=torch.cat([part.lengths for part in parts]),
        ref_logps=values("ref_logps"),
        pairs=numbers("pairs"),
        rows=numbers("rows"),
        desirable=values("desirable"),
        partners=numbers("partners"),
        weights=values("weights"),
        margins=values("margins"),
        flip_chances=values("flip_chances"),
    )
