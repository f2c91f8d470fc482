"""A reference that follows the policy: every so many steps it takes over some of the policy's weights, or all of them.

Soft and hard updates are those of "Learn Your Reference Model for Real Good Alignment" (arXiv:2404.09656), the
bias-corrected average is that of "EMA Without the Lag" (arXiv:2508.00180). What moves are the weights that are trained:
the reference is the policy with a second set of them, which is exchanged for its own while it is asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from likelier.models.adapter_copies import copy_of_trained, with_trained
from likelier.utils.errors import RunFolderError

Moves = Literal["soft", "hard", "bema"]

FILE = "moving_reference.safetensors"  # in a checkpoint
# BEMA's constants as its paper and TRL's BEMACallback have them.
_LAG, _AVERAGE_POWER, _BIAS_POWER = 10.0, 0.5, 0.2


@dataclass(frozen=True)
class MovingRule:
    """How a reference follows its policy, whose weights after optimizer step t are theta_t.

    `soft`: reference <- mix * theta_t + (1 - mix) * reference. `hard`: reference <- theta_t. `bema`: an average of the
    weights without its lag (see `Averages`). Each after every step t that `every` divides.
    """

    how: Moves
    every: int
    mix: float = 1.0

    def updates(self, step: int) -> int:
        """How many updates there were after this many optimizer steps: the reference's version."""
        return step // self.every

    @property
    def words(self) -> str:
        """What happens, after `the reference moves: `."""
        when = "after every step" if self.every == 1 else f"after every {self.every} steps"
        if self.how == "soft":
            return f"{when} it becomes {self.mix:g} of the policy and {1 - self.mix:g} of itself"
        if self.how == "hard":
            return f"{when} it becomes the policy as it is then"
        return f"{when} it becomes the bias-corrected average of the policy's weights (BEMA)"


def mix_into(kept: Mapping[str, Tensor], weights: Mapping[str, Tensor], share: float) -> None:
    """In place: kept <- share * weights + (1 - share) * kept, tensor by tensor of the same names."""
    for name, own in kept.items():
        own.mul_(1.0 - share).add_(weights[name].detach().to(own.device), alpha=share)


class Averages:
    """The bias-corrected exponential moving average of weights.

    With beta_t = (10 + t) ** -0.5 and alpha_t = (10 + t) ** -0.2: average <- (1 - beta_t) * average + beta_t * theta_t,
    and what it gives is average + alpha_t * (theta_t - theta_0). Both sets lie in the machine's memory, not the
    device's: they are touched at updates only.
    """

    def __init__(self, start: Mapping[str, Tensor]) -> None:
        self.start = {name: weight.detach().cpu().clone() for name, weight in start.items()}
        self.average = {name: weight.clone() for name, weight in self.start.items()}

    def after(self, step: int, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Take the weights after `step` in, and give the corrected average."""
        age = _LAG + step
        mix_into(self.average, weights, age**-_AVERAGE_POWER)
        bias = age**-_BIAS_POWER
        return {
            name: average + bias * (weights[name].detach().cpu() - self.start[name])
            for name, average in self.average.items()
        }


class MovingReference:
    """A second set of the policy's trained weights, moved by `rule`.

    Args:
        model: the policy as it begins, on its device; unsharded.
        rule: how it moves.
    """

    def __init__(self, model: nn.Module, rule: MovingRule) -> None:
        self.model, self.rule = model, rule
        self.weights = copy_of_trained(model)
        self.averages = Averages(self.weights) if rule.how == "bema" else None

    def use(self) -> AbstractContextManager[nn.Module]:
        """A context in which the policy's model scores as the reference stands now."""
        return with_trained(self.model, self.weights)

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Move, if it is time to, after optimizer step number `step` (from 1)."""
        if step % self.rule.every:
            return
        trained = {name: weight for name, weight in self.model.named_parameters() if name in self.weights}
        if self.averages is not None:
            for name, weight in self.averages.after(step, trained).items():
                self.weights[name].copy_(weight)
        else:
            mix_into(self.weights, trained, self.rule.mix)

    # --- checkpoints -----------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write its weights, and the average where it has one, into a checkpoint. (What training began with is loaded
        anew by whoever resumes, and proved to be the same.)
        """
        average = {} if self.averages is None else self.averages.average
        kept = {f"reference.{name}": weight for name, weight in self.weights.items()}
        kept |= {f"average.{name}": weight for name, weight in average.items()}
        save_file({name: weight.contiguous() for name, weight in kept.items()}, folder / FILE)

    def load(self, folder: Path) -> None:
        """Go on with what `save` wrote. Raises `RunFolderError` where it is of other weights."""
        saved: dict[str, Any] = load_file(folder / FILE)
        parts = {"reference": self.weights} | ({} if self.averages is None else {"average": self.averages.average})
        places = {f"{part}.{name}": weight for part, kept in parts.items() for name, weight in kept.items()}
        if {name: tensor.shape for name, tensor in saved.items()} != {name: at.shape for name, at in places.items()}:
            raise RunFolderError(f"{folder / FILE} holds other weights than the policy trains; start a new run")
        for name, weight in places.items():
            weight.copy_(saved[name])
