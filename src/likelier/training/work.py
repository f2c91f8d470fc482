"""What a run computes, counted before it runs: tokens forward and backward, tokens forward, tokens written, updates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from math import ceil
from statistics import fmean, median_low
from typing import Any

from likelier.data.groups import Group
from likelier.data.lengths import Row, row_of, tokens_of
from likelier.data.packing import StepSampler, packed_micro_batches
from likelier.models.generation import WRITE_LARGER
from likelier.objectives.base import Method
from likelier.training.evaluation import planned_interval
from likelier.training.options import TrainingOptions

_LOOKED_AT = 8  # steps that are cut into micro-batches to find the usual one
TRIAL = 5  # passes over the longest row, padded, in which scorers are held against each other
_CLOSER = 6  # pairs that are looked at token by token at the end


@dataclass(frozen=True)
class Looking:
    """What evaluations compute: tokens that are scored, and tokens in a row that are written (a batch at once)."""

    scored: int = 0
    written: int = 0

    def times(self, count: int) -> Looking:
        """So many of them."""
        return Looking(count * self.scored, count * self.written)


@dataclass(frozen=True)
class Work:
    """What a run computes, in tokens as the scorer holds them (a prompt once for all its answers).

    `training` tokens go forward and backward; `statistics` forward alone within steps (KTO's baseline, or all answers
    of a step that is cut, for a method with `needs_step`); `reference` and `trial` forward alone; `sampling` is what
    the policy writes to learn from, `answers` to each prompt, which share its keys (0: no run of that kind).
    Evaluations are at the `start`, `between` (each the same, so many times), and at the `end`; written are batches of
    `together` answers after prompts of `prompt` tokens. `micro_batch` is the usual one, of which there are
    `micro_batches`. All is of one GPU, where there are several.
    """

    steps: int
    training: int
    statistics: int
    reference: int
    trial: int
    start: Looking
    between: Looking
    end: Looking
    intervals: int
    together: int
    prompt: int
    micro_batch: tuple[Row, ...]
    micro_batches: int = 1
    sampling: Looking = Looking()
    answers: int = 0

    @property
    def looking(self) -> Looking:
        """What all evaluations compute."""
        parts = (self.start, self.between.times(self.intervals), self.end)
        return Looking(sum(part.scored for part in parts), sum(part.written for part in parts))

    @property
    def evaluating(self) -> int:
        """Tokens forward alone in evaluations."""
        return self.looking.scored

    @property
    def written(self) -> int:
        """Tokens in a row that are written for evaluations."""
        return self.looking.written

    @property
    def evaluations(self) -> int:
        """How many there are."""
        return self.intervals + (2 if self.end != Looking() else 0)


def work_of(
    train: Sequence[Group],
    held_out: Sequence[Group],
    objective: Method,
    options: TrainingOptions,
    *,
    token_budget: int,
    device: str,
    adapter: bool,
    own_reference: bool = True,
    share: float = 1.0,
    gpus: int = 1,
) -> Work:
    """Count the work of a run on these rows, which are a `share` of all.

    `adapter`: whether the reference is the base beneath it, always at hand; `own_reference`: whether the policy starts
    as its reference. `gpus` share all of it but the writing of answers.
    """
    size, held_count = round(len(train) / share), round(len(held_out) / share)
    units = len({group.prompt.tobytes() for group in train}) if options.group_by else size
    an_epoch = min(units, ceil(size / options.batch_size))
    steps = options.max_steps or ceil(an_epoch * (options.epochs or 1))
    passes = min(steps * options.batch_size, size * steps / an_epoch)
    own, partners = _tokens(train, objective)
    seen = min(1.0, passes / size) * size
    held = fmean(map(tokens_of_group, held_out)) * held_count if held_out else 0.0
    live = options.asks_reference and objective.needs_reference
    stored = 0.0 if options.reference_scores == "live" else held + (0.0 if live else own * seen)
    scored = round(stored) if objective.needs_reference else 0
    every = planned_interval(options, train, held_out, steps, device)
    known = own_reference and objective.needs_reference and not (objective.needs_collisions or objective.needs_heads)
    longest = max((row_of(group) for group in train), key=lambda row: row.tokens)
    usual = usual_micro_batch(train, options, token_budget, gpus)
    training = round(own * passes / gpus)
    micro_batches = max(steps, ceil(training / tokens_of(usual)))
    twice = objective.needs_step and (micro_batches > steps or gpus > 1)
    return Work(
        steps=steps,
        training=training,
        statistics=round(partners * passes / gpus) + training * (live + twice),
        reference=round(scored / gpus),
        trial=TRIAL * len(longest.answers) * (longest.prompt + max(longest.answers)),
        **_evaluations(held_out, held_count, options, token_budget, adapter, gpus, known, own_reference, device),
        intervals=0 if every is None else (steps - 1) // every,
        micro_batch=usual,
        micro_batches=micro_batches,
    )


def tokens_of_group(group: Group) -> int:
    """What the scorer holds of it."""
    return row_of(group).tokens


def _tokens(groups: Sequence[Group], objective: Method) -> tuple[float, float]:
    """Of a row, in the mean: tokens that are trained on, and those of answers of other rows, for a baseline."""
    own = fmean(Row(len(group.prompt), tuple(map(len, group.own_answers))).tokens for group in groups)
    if not objective.needs_partner:
        return own, 0.0
    return own, fmean(len(group.prompt) + len(group.answers[-1]) for group in groups)


def usual_micro_batch(
    groups: Sequence[Group], options: TrainingOptions, token_budget: int, gpus: int = 1
) -> tuple[Row, ...]:
    """Of the first steps' micro-batches the one whose tokens are in the middle."""
    sampler = StepSampler(
        [b""] * len(groups), batch_size=options.batch_size, order=options.order, group_by=None, seed=options.seed
    )
    cuts = [
        [row_of(group) for group in part]
        for step in islice(iter(sampler), _LOOKED_AT)
        for part in packed_micro_batches([groups[number] for number in step], token_budget, ranks=gpus)
        if part
    ]
    middle = median_low(sorted(map(tokens_of, cuts)))
    return tuple(next(cut for cut in cuts if tokens_of(cut) == middle))


def _evaluations(
    groups: Sequence[Group],
    count: int,
    options: TrainingOptions,
    budget: int,
    adapter: bool,
    gpus: int,
    known: bool,
    own_reference: bool,
    device: str,
) -> dict[str, Any]:
    """At start, intervals and end: rows scored, answers drawn (at start and end greedy ones too), their log-ratios.

    GPUs share what is scored, and each of them writes every answer. At the start `known` rows have the reference's
    scores, and a policy with its `own_reference` has no log-ratios yet.
    """
    if not groups:
        return {"start": Looking(), "between": Looking(), "end": Looking(), "together": 1, "prompt": 1}
    mean = fmean(map(tokens_of_group, groups))
    asked = min(options.answered_prompts, len({group.prompt.tobytes() for group in groups}))
    prompt = fmean(len(group.prompt) for group in groups)
    together = max(1, min(asked, int(WRITE_LARGER * budget / (prompt + options.answer_tokens))))
    passes = 1 if device == "cpu" else 2  # in fp32 a policy has said while it wrote what it gives its answers
    one = Looking(round(asked * prompt), ceil(asked / together) * options.answer_tokens)  # a set of answers

    def looking(rows: int, answers: int, *, beside: bool, closer: int = 0) -> Looking:
        compared = passes * asked * (prompt + answers * options.answer_tokens) * beside
        scored = mean * rows + answers * one.scored + compared + 2 * mean * closer
        return Looking(round(scored / gpus), answers * one.written)

    return {
        "start": looking(0 if known else count, 2, beside=adapter and not own_reference),
        "between": looking(min(count, options.interval_items), 1, beside=adapter),
        "end": looking(count, 2, beside=True, closer=_CLOSER if asked else 0),
        "together": together,
        "prompt": max(1, round(prompt)),
    }
