"""A run on several GPUs: what each of them holds, and what they send one another.

Without `shard` each holds everything and gradients are averaged once a step (DDP); with it weights, gradients and
optimizer state are split, and each layer is put together where it is used (FSDP2).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import torch

from likelier.advice.trace import Training
from likelier.advice.weights import Part, Weights
from likelier.training.duration import Waits
from likelier.utils.errors import ConfigError

# Bytes of a gradient on its way: FSDP2 adds them up in float32, DDP sends what is trained, which is float32 as well.
_GRADIENT = 4
_LAYERS_AT_ONCE = 2  # one that is used, and one on its way


@dataclass(frozen=True)
class Spread:
    """Over how many GPUs a run goes, and whether what it holds is split between them."""

    gpus: int = 1
    shard: bool = False

    @property
    def words(self) -> str:
        """For people; nothing for one GPU."""
        return "" if self.gpus == 1 else f"{self.gpus} GPUs, {'split between them (FSDP2)' if self.shard else 'DDP'}"

    def own(self, size: float) -> int:
        """What one GPU holds of something that can be split."""
        return ceil(size / self.gpus) if self.shard else round(size)

    def together(self, weights: Weights, training: Training, *, gradients: bool) -> int:
        """Bytes that one GPU holds besides, for a while: with `shard` what is outside the layers and two layers, put
        together, and with `gradients` those of the former and of one layer; without it DDP's copy of the gradients.
        """
        if self.gpus == 1:
            return 0
        if not self.shard:
            return weights.trained_bytes if gradients else 0
        layers, outside = weights.layer, weights.outside
        whole = gathered(outside, training) + _LAYERS_AT_ONCE * gathered(layers, training)
        return whole + (_GRADIENT * (outside.trained + layers.trained) if gradients else 0)

    def waits(self, weights: Weights, training: Training, link: float) -> Waits:
        """How long the GPUs wait for one another, at `link` bytes a second: with `shard` all weights are gathered for
        each pass through the layers and all gradients scattered, without it gradients are averaged once a step.
        """
        received = (self.gpus - 1) / self.gpus / link
        if not self.shard:
            return Waits(step=2 * _GRADIENT * weights.trained * received)
        whole = gathered(Part(weights.frozen_bytes, weights.trained), training) * received
        return Waits(2 * whole + _GRADIENT * weights.trained * received, whole)

    def notes(self, weights: Weights) -> list[str]:
        """What a plan for several GPUs does not show."""
        if self.gpus == 1:
            return []
        who = "the first process alone holds" if self.shard else "every process holds"
        return [
            f"of each of {self.gpus} GPUs; while the model loads {who} all of it in the host's memory: "
            f"{weights.bytes / 1e9:,.1f} GB",
            "what several GPUs hold and send is arithmetic that no such machine has confirmed yet",
        ]


def gathered(part: Part, training: Training) -> int:
    """Bytes of weights put together: in bfloat16 where all are trained in mixed precision, else as they are."""
    return part.frozen_bytes + part.trained * (2 if training.autocast and not training.adapter else 4)


def checked(spread: Spread, training: Training, device: str, *, live_reference: bool, moves: bool = False) -> Spread:
    """Raises `ConfigError` for several GPUs that a run would refuse."""
    if spread.gpus < 1:
        raise ConfigError(f"gpus={spread.gpus}: at least 1 is needed")
    if spread.gpus > 1 and device == "cpu":
        raise ConfigError("gpus has no effect on a CPU; plan for CUDA with --device cuda or --gpu, or drop it")
    if not spread.shard:
        return spread
    if spread.gpus == 1:
        raise ConfigError("shard has no effect in one process; name several GPUs with --gpus, or drop it")
    if live_reference:
        raise ConfigError("reference_scores=live would keep a second model beside a sharded policy; take stored scores")
    if moves:
        raise ConfigError("reference_moves would keep second weights beside a sharded policy; drop it, or shard")
    if training.lora.load_in_4bit:
        raise ConfigError("shard does not go with weights in 4 bits; drop load_in_4bit, or shard")
    if training.weights == torch.bfloat16 and not training.adapter:
        raise ConfigError("shard does not go with dtype=pure-bfloat16: its optimizer is not proved on slices")
    return spread
