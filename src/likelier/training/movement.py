"""Whether training moves the weights: what the schedule allows before it begins, and what happened at its end.

The schedule is transformers', whose warm-up begins at learning rate 0, so that runs can be compared with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainingArguments
from transformers.optimization import get_scheduler

from likelier.training.options import TrainingOptions
from likelier.utils.console import warn
from likelier.utils.distributed import Ranks
from likelier.utils.errors import ConfigError, TrainingError, whole_reason

UNMOVED = "no weight has changed"  # stands in the error of a run that moved nothing
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_PART = 2**18  # weights at a time: their numbers take 8 bytes each for a moment, thrice


def planned_rates(arguments: TrainingArguments, steps: int) -> Iterator[float]:
    """The learning rate of each step. Raises `ConfigError` for arguments that the schedule does not take."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=arguments.learning_rate)
    try:
        schedule = get_scheduler(
            arguments.lr_scheduler_type,
            optimizer=optimizer,
            num_warmup_steps=arguments.get_warmup_steps(steps),
            num_training_steps=steps,
            scheduler_specific_kwargs=arguments.lr_scheduler_kwargs,  # type: ignore[arg-type]
        )
        for _ in range(steps):
            yield float(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
    except (TypeError, ValueError) as error:
        raise ConfigError(f"transformers refuses the training options: {whole_reason(error)}") from error


def check_schedule(arguments: TrainingArguments, options: TrainingOptions, steps: int, rows: int) -> None:
    """Raises `ConfigError` where every step has learning rate 0; warns of a warm-up that the run ends in.

    Args:
        arguments: with the schedule.
        options: for what to change.
        steps: that are planned.
        rows: that are trained on.
    """
    warmup = arguments.get_warmup_steps(steps)
    said = f"the warm-up ({options.warmup_share:g} of the steps, at least one) takes "
    if not any(rate > 0 for rate in planned_rates(arguments, steps)):
        which = "the only step of the run" if steps == 1 else f"all {steps} steps of the run"
        raise ConfigError(
            f"no weight would change: {which} would have learning rate 0, since {said}it and begins at 0, as in "
            f"transformers. Give --warmup 0, {_more_steps(options, rows)}"
        )
    if warmup >= steps:
        warn(
            f"{said}all {steps} steps: the learning rate never reaches {arguments.learning_rate:g}. Give a smaller "
            f"--warmup, {_more_steps(options, rows)}"
        )


def _more_steps(options: TrainingOptions, rows: int) -> str:
    smaller = f"a --batch-size below {min(options.batch_size, rows)}, " if min(options.batch_size, rows) > 1 else ""
    longer = "more --max-steps" if options.max_steps is not None else "more --epochs"
    return f"or more steps: {smaller if options.max_steps is None else ''}{longer}"


class Movement(TrainerCallback):
    """Sees whether any optimizer step changed a trained weight; it looks at weights until one has."""

    def __init__(self, model: nn.Module, ranks: Ranks) -> None:
        self.model, self.ranks = model, ranks
        self.moved = False  # on this rank
        self.steps = 0
        self.highest_rate = self.highest_gradient = 0.0
        self._before: Tensor | None = None

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """The weights as the first step finds them, those of a checkpoint as well."""
        if self._before is None and not self.moved:
            self._before = _checksum(self.model)

    def on_optimizer_step(self, *args: Any, optimizer: Any = None, **kwargs: Any) -> None:
        """Compare with the weights at first."""
        self.steps += 1
        if self.moved:
            return
        if optimizer is not None:
            self.highest_rate = max(self.highest_rate, *(float(group["lr"]) for group in optimizer.param_groups))
        assert self._before is not None
        self.moved = not torch.equal(self._before, _checksum(self.model))

    def saw_gradient(self, norm: float) -> None:
        """The gradient of a step that was not skipped."""
        self.highest_gradient = max(self.highest_gradient, norm)

    def anywhere(self) -> bool:
        """Whether a weight changed, on whichever rank. All ranks must ask together."""
        return self.ranks.highest(int(self.moved)) > 0

    def require(self, steps: int) -> None:
        """Raises `TrainingError` where the weights are those that training began with, after so many steps."""
        if not self.anywhere():
            raise TrainingError(f"{UNMOVED} in {steps} steps: {self.why_not()}")

    def why_not(self) -> str:
        """Why no weight changed, and what to do."""
        if not self.steps:
            return "the steps before the run was cut changed none; begin anew, in another output"
        if self.highest_rate == 0:
            return "the learning rate was 0 in every step; give --warmup 0, or more steps"
        if self.highest_gradient == 0:
            return (
                "the gradient was 0 in every step that was not skipped; look at the rows' weights and losses, and at "
                "which weights are trained: likelier diagnose says more"
            )
        kinds = {str(one.dtype).removeprefix("torch.") for one in self.model.parameters() if one.requires_grad}
        return (
            f"every update was too small for weights in {' and '.join(sorted(kinds))} (highest learning rate "
            f"{self.highest_rate:g}); give a higher --learning-rate, or a --dtype that trains weights in float32"
        )


@torch.no_grad()
def _checksum(model: nn.Module) -> Tensor:
    """A number for each trained weight tensor (this rank's part of it), from its bits and their places."""
    return torch.stack([_of_bits(weight) for weight in model.parameters() if weight.requires_grad]).cpu()


def _of_bits(weight: Tensor) -> Tensor:
    local = weight.to_local() if hasattr(weight, "to_local") else weight  # type: ignore[operator]
    bits = local.detach().contiguous().flatten().view(_BITS[local.element_size()])
    odd = 2 * torch.arange(min(_PART, len(bits)), device=bits.device) + 1  # so that no single change can be lost
    found = torch.zeros((), dtype=torch.long, device=bits.device)
    for part in bits.split(_PART):
        found = 31 * found + (part.long() * odd[: len(part)]).sum()
    return found
