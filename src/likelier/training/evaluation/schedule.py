"""When to evaluate during training, so that it costs little: reckoned in tokens, the same on every machine of a kind.

A forward pass over one token is the unit. A training step costs twice its tokens at least (forward and backward, an
adapter's), evaluation the tokens that it scores, and each token of written answers one pass over all the weights.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from math import ceil
from statistics import fmean

from likelier.data.groups import Group
from likelier.data.views import by_numbers
from likelier.training.options import TrainingOptions

SHARE = 0.05  # of training time for all evaluations at intervals, where the interval is not given
MOST = 10  # evaluations at intervals, where the interval is not given
_STEP_PASSES = 2
# One more token for a batch of answers waits for all weights, and takes as long as a forward pass over so many tokens
# (on a CPU 120 were measured with 135 million weights, and fewer with more).
DECODING = {"cpu": 180, "cuda": 1200}
_BATCH = {"cpu": 4096, "cuda": 65536}  # tokens of prompts and answers that are written at once, or more


def planned_interval(
    options: TrainingOptions, train: Sequence[Group], held_out: Sequence[Group], steps: int, device: str
) -> int | None:
    """Steps between evaluations; None for none between the first and the last step.

    Args:
        options: `eval_steps` decides where it is given (0: none).
        train, held_out: what is trained on, and what is held out.
        steps: of the whole run.
        device: `cpu` or `cuda`.
    """
    if not held_out:
        return None
    if options.eval_steps is not None:
        return options.eval_steps or None
    step_cost = _STEP_PASSES * min(options.batch_size, len(train)) * fmean(group.tokens for group in train)
    interval = ceil(_interval_cost(options, held_out, device) / (SHARE * step_cost))
    interval = max(interval, ceil(steps / MOST))
    return interval if interval < steps else None


def _interval_cost(options: TrainingOptions, held_out: Sequence[Group], device: str) -> float:
    scored = options.interval_items * fmean(group.tokens for group in held_out)
    scored = min(scored, sum(group.tokens for group in held_out))
    if not options.answered_prompts:
        return scored
    prompts = min(options.answered_prompts, len(held_out))
    written = prompts * (fmean(len(group.prompt) for group in held_out) + options.answer_tokens)
    batches = ceil(written / _BATCH[device])
    return scored + 2 * written + batches * options.answer_tokens * DECODING[device]


def some_of(groups: Sequence[Group], most: int) -> list[Group]:
    """About `most` groups, evenly spaced; those that come from one row of the data stay together."""
    if len(groups) <= most:
        return list(groups)
    first: dict[int, int] = {}  # by the hash of a row's place, of which there may be millions
    row_of = array("q", (first.setdefault(hash(group.source), len(first)) for group in groups))
    step = len(groups) / most
    kept = {int(place * step): place for place in range(max(1, int(len(first) / step)))}
    own = sorted((kept[row], number) for number, row in enumerate(row_of) if row in kept)
    return list(by_numbers(groups, (number for _, number in own)))
