"""Steps whose loss or gradient is not finite: a run's first is skipped and kept for inspection, a second ends it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from likelier.data.groups import Group
from likelier.runs.folder import RunFolder
from likelier.training.step import StepPart, StepResult
from likelier.utils.console import warn
from likelier.utils.errors import TrainingError

ALLOWED = 1  # in a run, those before a resume included
_ADVICE = "Lower the learning rate, or look at these rows"


class StepJudge:
    """Decides of each step whether it may reach the weights.

    Args:
        folder: where a step that may not is written down.
        decode: gives the text of token ids.
        agree: makes of what each process found what holds for all: whether it does on every one. It is called twice a
            step, once where the loss was not finite.
        rank: of this process; each writes down its own rows.
    """

    def __init__(
        self,
        folder: RunFolder,
        decode: Callable[[Any], str],
        agree: Callable[[bool], bool] = bool,
        rank: int = 0,
    ) -> None:
        self.folder, self.agree, self.rank = folder, agree, rank
        self._decode = decode
        self._count = 0

    def go_on_from(self, step: int) -> None:
        """Take over how many steps the run has skipped up to a step."""
        self._count = sum(skipped <= step for skipped in self.folder.skipped_steps())

    def accepts_loss(self, step: int, done: StepResult) -> bool:
        """Whether all losses and scores of a step are finite. The device is waited for, once a step.

        Raises `TrainingError` where it is not the run's first that is not.
        """
        finite = [torch.isfinite(values).all() for part in done.parts for values in (part.losses, part.scored.logps)]
        if self.agree(bool(torch.stack(finite).all())):
            return True
        rows = [row for row in _rows(done, self._decode) if row["is_culprit"]]
        places = "; ".join(str(row["source"]) for row in rows[:5])
        where = f"for {len(rows)} rows: {places}" if rows else "for rows of another process"
        self._skip(step, f"the loss is not finite {where}", rows)
        return False

    def accepts_gradient(self, step: int, done: StepResult, norm: float) -> bool:
        """Whether the norm of a step's gradient is finite. Raises as `accepts_loss`."""
        if self.agree(math.isfinite(norm)):
            return True
        self._skip(step, f"the gradient norm is {norm}", _rows(done, self._decode))
        return False

    def _skip(self, step: int, cause: str, rows: Sequence[dict[str, Any]]) -> None:
        kept = [{name: value for name, value in row.items() if name != "is_culprit"} for row in rows]
        file = f"skipped/step-{step}.rank-*.json"  # of the other ranks, where this one has nothing to write down
        if kept or self.rank == 0:
            written = self.folder.write_skipped({"step": step, "cause": cause, "rows": kept}, self.rank)
            file = written if kept else file
        self._count += 1
        if self._count > ALLOWED:
            raise TrainingError(
                f"step {step}: {cause}; the weights were not touched. It is not the run's first such step, so it ends "
                f"here. {_ADVICE}; they are written down in {file}, and the last checkpoint is as it was"
            )
        warn(
            f"step {step} is skipped: {cause}; the weights were not touched. {_ADVICE}, written down in {file}; a "
            "second such step ends the run"
        )


def _rows(done: StepResult, decode: Callable[[Any], str]) -> list[dict[str, Any]]:
    """Every row of a step with its scores and texts, as JSON; `is_culprit` marks those that are not finite: by scores
    of their own where there are such rows (one of them makes KTO's baseline, and so every loss, not finite).
    """
    groups = iter(done.groups)
    counted = [part for part in done.parts if part.counts]
    rows = [_row(next(groups), part, number, decode) for part in counted for number in range(len(part.losses))]
    by_scores = any(row["is_culprit"][0] for row in rows)
    return [row | {"is_culprit": row["is_culprit"][0 if by_scores else 1]} for row in rows]


def _row(group: Group, part: StepPart, number: int, decode: Callable[[Any], str]) -> dict[str, Any]:
    scored, loss = part.scored, float(part.losses[number])
    items = scored.items
    columns = [column for column in (items.rows, items.partners) if column is not None and len(column)]
    if items.lists is not None:
        answers = items.lists[number, : len(group.answers)]
    elif items.pairs is not None:
        answers = items.pairs[number]
    else:
        answers = torch.stack([column[number] for column in columns])
    logps = scored.logps[answers].tolist()
    return {
        "source": str(group.source),
        "loss": _number(loss),
        "prompt": decode(group.prompt),
        "answers": [decode(answer) for answer in group.answers[: len(logps)]],
        "logps": [_number(value) for value in logps],
        "ref_logps": None if items.ref_logps is None else [_number(value) for value in items.ref_logps[answers]],
        "lengths": [int(value) for value in scored.lengths[answers]],
        "is_culprit": (not all(map(math.isfinite, logps)), not math.isfinite(loss)),
    }


def _number(value: Any) -> float | str:
    """A number as JSON holds it; one that is not finite in words."""
    number = float(value)
    return number if math.isfinite(number) else str(number)
