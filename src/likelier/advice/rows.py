"""The fullest micro-batch: of known rows, cut as a run cuts them, or of rows that are assumed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from likelier.advice.trace import made_up_group
from likelier.data.lengths import Row, tokens_of
from likelier.data.packing import packed_micro_batches
from likelier.objectives.base import Method

_MOST_SIMULATED = 2048  # rows
_ANSWERS = {"pairs": 2, "labels": 1, "answers": 1, "scores": 4}


@dataclass(frozen=True)
class MicroBatch:
    """A micro-batch's rows as the budget counts them, and as they are trained on.

    For a method with mismatched answers these differ where a step has `several` micro-batches: its statistics are then
    made beforehand, without gradients, and only the rows' own answers are trained on.
    """

    counted: tuple[Row, ...]
    trained: tuple[Row, ...]
    several: bool


def longest_row(max_length: int, objective: Method) -> Row:
    """A row at the limit, half of it prompt: with two answers for pairs, or a mismatched one, and with four where all
    scored answers of a prompt are compared.
    """
    prompt = max(1, max_length // 2)
    answers = 2 if objective.needs_partner else _ANSWERS[objective.data]
    return Row(prompt, (max(1, max_length - prompt),) * answers)


def filled(row: Row, budget: int, batch_size: int, *, partners: bool = False) -> MicroBatch:
    """Rows of this length until the budget is full (the last one shorter), or the step is."""
    count = max(1, budget // row.tokens)
    if count >= batch_size:
        return MicroBatch((row,) * batch_size, (row,) * batch_size, several=False)
    rest = budget - count * row.tokens
    more = (row.scaled(rest / row.tokens),) if rest >= len(row.answers) + 1 else ()
    rows = (row,) * count + more
    return MicroBatch(rows, tuple(own_of(one) for one in rows) if partners else rows, several=True)


def filled_written(row: Row, budget: int, batch_size: int) -> MicroBatch:
    """The fullest that answers up to those of this row can make: the budget, since shorter ones are packed together; or
    the whole step. The answers to a prompt are rows of their own, so that a row over the budget is cut, each part with
    the prompt.
    """
    limit, most = max(budget, 2 * row.prompt), row.answers[0]
    if row.tokens <= limit:
        return filled(row, budget, batch_size)
    count = max(1, (limit - row.prompt) // (most - 1))
    rest = limit - row.prompt - count * (most - 1)
    part = Row(row.prompt, (most,) * count + ((rest + 1,) if rest > 0 else ()))
    return MicroBatch((part,), (part,), several=True)


def own_of(row: Row) -> Row:
    """A labelled row without its mismatched answer."""
    return Row(row.prompt, row.answers[:1])


def fullest(rows: Sequence[Row], budget: int, batch_size: int, objective: Method) -> MicroBatch:
    """The fullest micro-batch of steps in the rows' order, and of a step of the longest ones."""
    some = list(rows[:_MOST_SIMULATED])
    longest = sorted(rows, key=lambda row: -row.tokens)[:batch_size]
    steps = [longest, *(some[start : start + batch_size] for start in range(0, len(some), batch_size))]
    cuts = [_cut(step, budget) for step in steps]
    several = any(len(cut) > 1 for cut in cuts)
    counted = max((part for cut in cuts for part in cut), key=tokens_of)
    trained = [own_of(row) for row in counted] if objective.needs_partner and several else counted
    return MicroBatch(tuple(counted), tuple(trained), several)


def _cut(step: Sequence[Row], budget: int) -> list[list[Row]]:
    """The micro-batches of a step, as a run cuts it."""
    groups = [made_up_group(row, number) for number, row in enumerate(step)]
    return [[step[group.source.number] for group in part] for part in packed_micro_batches(groups, budget)]
