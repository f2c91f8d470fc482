"""A rough guess of a run's peak memory, made before it is started: what would not fit is not begun."""

from __future__ import annotations

from collections.abc import Sequence

from versus.cases import Case
from versus.flops import Lengths, Shape, padded_batch

_PROCESS = 1.0e9  # interpreter, libraries
_TILE = 4096 * 32768 * 4  # of TRL's head, in bytes
_TILES = 6  # that its plain torch path holds at once


def guessed_peak(shape: Shape, case: Case, rival: str, lengths: Sequence[Lengths]) -> float | None:
    """Bytes at the peak of a TRL run in float32 on a CPU; None for likelier, whose token budget bounds it.

    Weights, gradients, AdamW's two moments and (trl-default, full) the reference; the activations of the widest batch,
    of one layer and each layer's input where they are computed again; the tiles of the head.
    """
    if rival.startswith("likelier"):
        return None
    size = 1 if rival == "trl-micro" else case.batch
    steps = [lengths[start : start + size] for start in range(0, len(lengths), size)]
    tokens = max(batch.rows * batch.width for batch in map(padded_batch, steps))
    trained = 0.02 if case.lora else 1.0
    copies = 1 + 3 * trained + (1 if rival == "trl-default" and not case.lora else 0)
    per_layer = _values_per_token(shape) * tokens
    kept = shape.hidden * tokens * shape.layers + per_layer if rival == "trl-default" else per_layer * shape.layers
    head = min(1.0, tokens / 4096) * _TILE * _TILES
    return _PROCESS + 4 * (shape.parameters * copies + kept) + head


def _values_per_token(shape: Shape) -> float:
    """Values that a Llama layer keeps per token for its backward pass (fitted to runs on SmolLM2-135M: within 2 %)."""
    return 12 * shape.hidden + 4 * shape.intermediate
