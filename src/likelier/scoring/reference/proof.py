"""The proof that the reference is the right one, before the first step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import isnan
from typing import Any

import torch
from torch import nn

from likelier.data.groups import Group
from likelier.data.views import joined
from likelier.objectives import Objective
from likelier.objectives.scored import join
from likelier.scoring.engine import ScoredGroups, as_scored, score_groups, step_statistics
from likelier.scoring.reference.identity import Reference, released
from likelier.scoring.reference.store import ReferenceScoring, attach_reference, score_live, take_given
from likelier.utils.console import say
from likelier.utils.errors import WrongReferenceError
from likelier.utils.terminal import counting

TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-5, torch.bfloat16: 0.02, torch.float16: 0.02}
_GIVEN_TOLERANCE = 0.02  # scores in a data file may have been computed in bfloat16 elsewhere


def sample_of(groups: Sequence[Group], count: int = 8) -> list[Group]:
    """`count` groups from all over the data set (all of a smaller one): of four times as many, evenly spread, the
    shortest, since the check costs what its tokens cost.
    """
    if len(groups) <= count:
        return list(groups)
    places = min(len(groups), 4 * count)
    spread = [groups[(2 * k + 1) * len(groups) // (2 * places)] for k in range(places)]
    return sorted(spread, key=lambda group: group.tokens)[:count]


@dataclass(frozen=True)
class Difference:
    """The largest difference between two scorings of the same answers, in nats per token, and where it was."""

    nats_per_token: float
    group: Group


def largest_difference(model: nn.Module, groups: Sequence[Group], how: ReferenceScoring) -> Difference:
    """Score the groups afresh with `model` and compare with their `ref_logps`."""
    return _worst(list(_scored_afresh(model, groups, how)))


def _scored_afresh(
    model: nn.Module, groups: Sequence[Group], how: ReferenceScoring, *, collisions: bool = False
) -> Iterator[ScoredGroups]:
    budget, device, report = how.token_budget, how.device, how.report
    return score_groups(model, groups, token_budget=budget, device=device, collisions=collisions, report=report)


def _worst(parts: Sequence[ScoredGroups]) -> Difference:
    worst = Difference(-1.0, parts[0].groups[0])
    for part in parts:
        for found in _differences(part):
            if not found.nats_per_token <= worst.nats_per_token:
                worst = found
            if isnan(worst.nats_per_token):  # nothing is worse, and no number compares with it
                return worst
    return worst


def _differences(part: ScoredGroups) -> Iterator[Difference]:
    """The largest over the answers, and over the heads of pairs where those are needed."""
    scores, items = part.scores, part.batch.items
    assert items.ref_logps is not None
    gap = (scores.logps.detach().double() - items.ref_logps).abs() / scores.lengths
    prompt = part.batch.prompts[part.batch.prompt_of[int(gap.argmax())]].tolist()
    yield Difference(float(gap.max()), next(group for group in part.groups if group.prompt.tolist() == prompt))
    if items.ref_head_logps is not None and items.pairs is not None:
        heads = (scores.heads(items.pairs).detach().double() - items.ref_head_logps).abs().amax(1)
        gap = heads / scores.lengths[items.pairs].amin(1)
        yield Difference(float(gap.max()), part.groups[int(gap.argmax())])


def check_scores(
    groups: Sequence[Group], reference: Reference, how: ReferenceScoring, tolerance: float, origin: str
) -> float:
    """Recompute the groups' scores, which came from `origin`; returns the largest difference in nats per token."""
    with reference.use() as model:
        worst = largest_difference(model, groups, how)
    if not worst.nats_per_token <= tolerance:
        raise WrongReferenceError(
            f"reference scores from {origin} are not the reference's: at {worst.group.source} they differ by "
            f"{worst.nats_per_token:.3g} nats a token (allowed {tolerance:g}). Likely causes: they were edited or "
            "damaged, or another model, precision or device made them. Remove them and run again"
        )
    return worst.nats_per_token


def check_start(
    model: nn.Module,
    groups: Sequence[Group],
    reference: Reference,
    objective: Objective,
    how: ReferenceScoring,
    tolerance: float,
) -> dict[str, float]:
    """Where the policy starts as the reference: implicit rewards are 0 and the loss is its value at zero log-ratios.

    Returns the figures for the run card. Raises `WrongReferenceError` with the likely causes.
    """
    parts = list(_scored_afresh(model, groups, how, collisions=objective.needs_collisions))
    worst, (loss, expected) = _worst(parts), _start_losses(parts, objective)
    longest = max(len(answer) for group in groups for answer in group.answers)
    slack = 10 * tolerance * longest * max(1.0, abs(expected))
    if not worst.nats_per_token <= tolerance or not abs(loss - expected) <= slack:
        raise _another_start(worst, reference, tolerance, f", and the loss is {loss:.6g} instead of {expected:.6g}")
    return {
        "step0_largest_difference_per_token": worst.nats_per_token,
        "step0_loss": loss,
        "step0_loss_expected": expected,
    }


def check_first_step(part: ScoredGroups, reference: Reference, tolerance: float) -> None:
    """The same for a micro-batch of the first step, from its own forward pass. Raises `WrongReferenceError`."""
    worst = _worst([part])
    if not worst.nats_per_token <= tolerance:
        raise _another_start(worst, reference, tolerance, " in the first step")


def _another_start(worst: Difference, reference: Reference, tolerance: float, more: str) -> WrongReferenceError:
    return WrongReferenceError(
        f"the policy does not start as its reference ({reference.words}): at {worst.group.source} their "
        f"log-probabilities differ by {worst.nats_per_token:.3g} nats a token (allowed {tolerance:g}){more}.\n"
        "Likely causes:\n"
        "  - the model holds an adapter that was already trained, and the reference is the base without it: "
        "use the reference 'start'\n"
        "  - the weights were changed after the reference was scored, or the reference comes from another file\n"
        "  - dropout or another random layer is on while scoring\n"
        "  - stored scores are damaged: delete the reference store and run again"
    )


def _start_losses(parts: Sequence[ScoredGroups], objective: Objective) -> tuple[float, float]:
    """The mean loss of these groups, and what it would be at zero log-ratios."""
    scored = join([as_scored(part.batch, part.scores) for part in parts])
    at_zero = scored.at_reference()
    losses = objective.losses(scored, step_statistics(objective, [scored]))
    expected = objective.losses(at_zero, step_statistics(objective, [at_zero]))
    return float(losses.mean()), float(expected.mean())


@dataclass(frozen=True)
class ProvedReference:
    """A reference that holds, the groups with its scores, and what the run card says of it.

    `start_tolerance` (nats a token) is given where the policy is claimed to start as the reference.
    """

    reference: Reference
    train: Sequence[Group]
    held_out: Sequence[Group]
    card: dict[str, Any]
    start_tolerance: float | None


def _takes_given(groups: Sequence[Group], objective: Objective, live: bool) -> bool:
    """Whether the data file's scores are taken; says so where it has some and they are not."""
    given = sum(group.given_ref_logps is not None for group in groups)
    if given == len(groups) and not live and not objective.needs_heads:
        return True
    if given:
        why = "not every row has them, or they are live"
        if objective.needs_heads:
            why = f"{objective.method} needs those of the answers' first tokens too"
        say(f"reference scores of {given} rows in the data file are not used: {why}")
    return False


def prove_reference(
    model: nn.Module,
    reference: Reference,
    objective: Objective,
    train: Sequence[Group],
    held_out: Sequence[Group],
    first_step: Sequence[int],
    how: ReferenceScoring,
    *,
    live: bool,
    dtype: torch.dtype,
) -> ProvedReference:
    """Say what the reference is, score it (unless `live`), and prove it on a sample.

    `first_step` are numbers of groups in `train` to be checked as well; `dtype` is the arithmetic's. Where policy and
    reference are the same at the start, scoring the sample with the policy proves stored scores and policy at once.
    Raises `WrongReferenceError`.
    """
    say(f"reference: {reference.words}")
    tolerance, said, heads = TOLERANCE[dtype], "asked at every step", objective.needs_heads
    if _takes_given(joined(train, held_out), objective, live):
        tolerance, said = max(tolerance, _GIVEN_TOLERANCE), "taken from the data file, a sample recomputed"
        train, held_out = take_given(train), take_given(held_out)
    elif not live:
        with counting("scoring the reference", len(train) + len(held_out)) as report:
            attached = attach_reference(joined(train, held_out), reference, replace(how, report=report), heads=heads)
        train, held_out = attached.groups[: len(train)], attached.groups[len(train) :]
        said = f"{attached.computed} computed, {attached.found} found in the store"
    say(f"reference scores: {said}")
    card: dict[str, Any] = {
        "words": reference.words,
        "identity": reference.identity,
        "weights": reference.weights,
        "scores": said,
        "equals_policy": reference.equals_policy,
    }
    origin = "the data file" if "data file" in said else f"the store ({how.store / reference.identity})"
    samples = [sample_of(train) + [train[number] for number in first_step], sample_of(held_out)]
    with counting("proving the reference on a sample", sum(map(len, samples))) as report:
        reported = replace(how, report=report)
        for sample in filter(None, samples):
            if reference.equals_policy:
                checked = score_live(sample, reference, how, heads=heads) if live else sample
                try:
                    found = check_start(model, checked, reference, objective, reported, tolerance)
                except WrongReferenceError:
                    if not live:
                        check_scores(sample, reference, how, tolerance, origin)  # says so where scores are at fault
                    raise
                card = found | card
            elif not live:
                gap = check_scores(sample, reference, reported, tolerance, origin)
                card["stored_difference_per_token"] = max(gap, card.get("stored_difference_per_token", 0.0))
    if reference.equals_policy:
        say(f"step-0 check: loss {card['step0_loss']:.6f}, expected {card['step0_loss_expected']:.6f}; passed")
    start_tolerance = tolerance if reference.equals_policy else None
    return ProvedReference(reference if live else released(reference), train, held_out, card, start_tolerance)
