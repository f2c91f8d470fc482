"""What a run computes, counted before it runs: tokens forward and backward, tokens forward, tokens written, updates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from math import ceil
from statistics import fmean, median_low

from likelier.advice.rundata import RowPlan, row_of
from likelier.advice.trace import Row, tokens_of
from likelier.data.packing import StepSampler, packed_micro_batches
from likelier.data.tokenize import Group
from likelier.models.generation import WRITE_LARGER
from likelier.objectives import Objective
from likelier.training.evaluation import planned_interval
from likelier.training.options import TrainingOptions

_LOOKED_AT = 8  # steps that are cut into micro-batches to find the usual one
_TRIAL = 5  # passes over the longest row, padded, in which scorers are held against each other
_CLOSER = 6  # pairs that are looked at token by token at the end


@dataclass(frozen=True)
class Work:
    """What a run computes, in tokens as the scorer holds them (a prompt once for all its answers).

    `training` tokens go forward and backward; `statistics` forward alone within steps (KTO's baseline); `reference`,
    `evaluating` and `trial` forward alone. `written` are tokens in a row, each for a batch of `together` answers after
    prompts of `prompt` tokens. `micro_batch` is the usual one, `evaluations` how many there are.
    """

    steps: int
    training: int
    statistics: int
    reference: int
    evaluating: int
    trial: int
    written: int
    together: int
    prompt: int
    evaluations: int
    micro_batch: tuple[Row, ...]


def work_of(
    plan: RowPlan,
    objective: type[Objective],
    options: TrainingOptions,
    *,
    token_budget: int,
    device: str,
    adapter: bool,
) -> Work:
    """Count the work of a run on these rows. `adapter`: whether the reference is the base beneath it, always at
    hand.
    """
    size = plan.train_count
    an_epoch = ceil(size / options.batch_size)
    steps = options.max_steps or ceil(an_epoch * (options.epochs or 1))
    passes = min(steps * options.batch_size, size * steps / an_epoch)
    own, partners = _tokens(plan.train, objective)
    seen = min(1.0, passes / size) * size
    held = fmean(map(tokens_of_group, plan.held_out)) * plan.held_count if plan.held_out else 0.0
    scored = round(own * seen + held) if objective.needs_reference else 0
    live = options.reference_scores == "live" and objective.needs_reference
    looking = _evaluations(plan, options, steps, device, token_budget, adapter)
    longest = max((row_of(group) for group in plan.train), key=lambda row: row.tokens)
    return Work(
        steps=steps,
        training=round(own * passes),
        statistics=round(partners * passes) + (round(own * passes) if live else 0),
        reference=0 if live else scored,
        evaluating=looking.scored,
        trial=_TRIAL * len(longest.answers) * (longest.prompt + max(longest.answers)),
        written=looking.written,
        together=looking.together,
        prompt=looking.prompt,
        evaluations=looking.count,
        micro_batch=usual_micro_batch(plan.train, options, token_budget),
    )


def tokens_of_group(group: Group) -> int:
    """What the scorer holds of it."""
    return row_of(group).tokens


def _tokens(groups: Sequence[Group], objective: type[Objective]) -> tuple[float, float]:
    """Of a row, in the mean: tokens that are trained on, and those of answers of other rows, for a baseline."""
    own = fmean(Row(len(group.prompt), tuple(map(len, group.own_answers))).tokens for group in groups)
    if not objective.needs_partner:
        return own, 0.0
    return own, fmean(len(group.prompt) + len(group.answers[-1]) for group in groups)


def usual_micro_batch(groups: Sequence[Group], options: TrainingOptions, token_budget: int) -> tuple[Row, ...]:
    """Of the first steps' micro-batches the one whose tokens are in the middle."""
    sampler = StepSampler(
        [b""] * len(groups), batch_size=options.batch_size, order=options.order, group_by=None, seed=options.seed
    )
    cuts = [
        [row_of(group) for group in part]
        for step in islice(iter(sampler), _LOOKED_AT)
        for part in packed_micro_batches([groups[number] for number in step], token_budget)
        if part
    ]
    middle = median_low(sorted(map(tokens_of, cuts)))
    return tuple(next(cut for cut in cuts if tokens_of(cut) == middle))


@dataclass(frozen=True)
class _Looking:
    scored: int = 0
    written: int = 0
    together: int = 1
    prompt: int = 1
    count: int = 0


def _evaluations(
    plan: RowPlan, options: TrainingOptions, steps: int, device: str, budget: int, adapter: bool
) -> _Looking:
    """Start, intervals and end: rows scored, answers drawn (at start and end greedy ones too), their log-ratios."""
    if not plan.held_out:
        return _Looking()
    every = planned_interval(options, plan.train, plan.held_out, steps, device)
    between = 0 if every is None else (steps - 1) // every
    mean, count = fmean(map(tokens_of_group, plan.held_out)), plan.held_count
    asked = min(options.answered_prompts, len({group.prompt.tobytes() for group in plan.held_out}))
    prompt = fmean(len(group.prompt) for group in plan.held_out)
    answers = round(asked * (prompt + options.answer_tokens))
    together = max(1, min(asked, int(WRITE_LARGER * budget / (prompt + options.answer_tokens))))
    batches = ceil(asked / together)
    written = 4 + between  # sets of answers: drawn and greedy at both ends, drawn between
    compared = written if adapter else 2
    return _Looking(
        scored=round(mean * (2 * count + between * min(count, options.interval_items)))
        + 2 * answers * compared
        + round(asked * prompt * written)
        + (round(2 * _CLOSER * 2 * mean) if asked else 0),
        written=written * batches * options.answer_tokens if asked else 0,
        together=together,
        prompt=max(1, round(prompt)),
        count=2 + between,
    )
