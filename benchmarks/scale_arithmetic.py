"""The arithmetic of docs/scale.md: memory, exchange, hours and checkpoints at 7B and 70B, as its tables have them.

    python benchmarks/scale_arithmetic.py

A test holds the page to these tables. Nothing here was measured on several GPUs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

PEAK, SHARE = 989e12, 0.4  # operations a second of an H100 in bfloat16 without sparsity, and how much of it is attained
GPU = 80e9  # bytes
NVLINK, NETWORK, DISK = 300e9, 40e9, 10e9  # bytes a second: between GPUs of a node, from a GPU to other nodes, to disk
PAIRS = 10_000_000
PROMPT, ANSWERS = 198, 525  # tokens of a pair of benchmarks/scale.py
FED = PROMPT + ANSWERS - 2  # the prompt once, and the last token of an answer is not fed
GPU_HOURS_A_FAILURE = 16_384 * 54 * 24 / 419  # Llama 3's report: 419 unexpected interruptions in 54 days
CONTEXT = 0.7e9


@dataclass(frozen=True)
class Size:
    """A model: weights outside the layers (embedding and head), of a layer, layers, and of a rank-16 adapter.

    `full` and `lora` are bytes of activations a token with activation checkpointing, `head` bytes of the logits' chunk
    and what belongs to it: all from the memory plan (`likelier estimate`).
    """

    name: str
    outside: float
    layer: float
    layers: int
    adapter: float
    full: float
    lora: float
    head: float
    tokens: int  # of a micro-batch

    @property
    def weights(self) -> float:
        """All of them."""
        return self.outside + self.layers * self.layer


def dense(name: str, vocabulary: int, width: int, inner: int, keys: int, layers: int, **more: float) -> Size:
    """A Llama of these sizes: `inner` of the MLP, `keys` of keys or values together; adapters on all projections."""
    layer = 2 * width * width + 2 * width * keys + 3 * width * inner
    adapter = 16 * layers * (2 * 2 * width + 2 * (width + keys) + 3 * (width + inner))
    return Size(name, 2 * vocabulary * width, layer, layers, adapter, tokens=int(more.pop("tokens")), **more)


SMALL = dense("7B", 32_768, 4096, 14_336, 1024, 32, full=0.9e6, lora=0.61e6, head=0.0, tokens=8192)
LARGE = dense("70B", 128_256, 8192, 28_672, 1024, 80, full=2.7e6, lora=2.0e6, head=6.8e9, tokens=4096)


def gb(size: float) -> str:
    """Bytes in words."""
    return f"{size / 1e9:,.1f}" if size < 99.95e9 else f"{size / 1e9:,.0f}"


def duration(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 100:
        return f"{seconds:,.1f} s" if seconds < 10 else f"{seconds:,.0f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 6000 else f"{seconds / 3600:,.0f} h"


# --- memory of a GPU -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Way:
    """A model trained in one way: all weights in float32, or an adapter in float32 on a frozen base in bfloat16."""

    size: Size
    lora: bool
    ranks: int
    shard: bool

    @property
    def words(self) -> str:
        """What is trained, and how it is spread."""
        return (
            f"{self.size.name} {'LoRA' if self.lora else 'full'} | {'shard' if self.shard else 'DDP'}, {self.ranks:,}"
        )

    @property
    def state(self) -> float:
        """Weights, gradients and moments on one GPU: 4 + 4 + 8 bytes a trained weight, 2 a frozen one."""
        size = self.size
        whole = 2 * size.weights + 16 * size.adapter if self.lora else 16 * size.weights
        return whole / (self.ranks if self.shard else 1)

    @property
    def gathered(self) -> float:
        """What is whole for a while, in bfloat16: all outside the layers and two layers; and gradients outside and of
        one layer, in float32 to be added up.
        """
        if not self.shard:
            return 0.0
        size, weights = self.size, self.size.outside + 2 * self.size.layer
        return 2 * weights + (0.0 if self.lora else 4 * (size.outside + size.layer))

    @property
    def passing(self) -> float:
        """Activations and the head's chunk, at the model's tokens."""
        size = self.size
        return size.tokens * size.lora if self.lora else size.tokens * size.full + size.head

    @property
    def needed(self) -> float:
        """All of it, with CUDA's context and a tenth of the activations for blocks that cannot be used."""
        return self.state + self.gathered + 1.1 * self.passing + CONTEXT


def memory_table() -> list[str]:
    """Bytes of one GPU."""
    ways = [
        Way(SMALL, False, 8, False),
        Way(SMALL, False, 8, True),
        Way(SMALL, True, 8, False),
        Way(LARGE, False, 8, True),
        Way(LARGE, False, 16, True),
        Way(LARGE, False, 32, True),
        Way(LARGE, False, 64, True),
        Way(LARGE, True, 8, False),
        Way(LARGE, True, 8, True),
    ]
    head = "| model | how, GPUs | weights, gradients, moments | gathered | activations, head | all, GB | in 80 GB |"
    return [head, "|---|---|---|---|---|---|---|", *map(_memory_line, ways)]


def _memory_line(way: Way) -> str:
    parts = " | ".join(map(gb, (way.state, way.gathered, way.passing, way.needed)))
    return f"| {way.words} | {parts} | {'yes' if way.needed <= GPU else 'no'} |"


# --- exchange, hours, files ----------------------------------------------------------------------------------------


def exchanged(way: Way) -> float:
    """Bytes that a GPU receives for a micro-batch (shard), or for a step (DDP)."""
    size, others = way.size, (way.ranks - 1) / way.ranks
    if way.shard:
        return others * (2 * 2 + (0 if way.lora else 4)) * size.weights
    return others * 2 * 4 * (size.adapter if way.lora else size.weights)


def exchange_table() -> list[str]:
    """Bytes and seconds of exchange beside the computation of the same micro-batch."""
    lines = [
        "| model | how, GPUs | tokens | GB received | over | seconds | computing |",
        "|---|---|---|---|---|---|---|",
    ]
    for way in (
        Way(SMALL, False, 8, True),
        Way(SMALL, False, 64, True),
        Way(SMALL, True, 8, False),
        Way(LARGE, False, 64, True),
        Way(LARGE, True, 8, True),
    ):
        within = way.ranks <= 8
        received, computing = (
            exchanged(way),
            (6 if way.lora else 8) * way.size.weights * way.size.tokens / (PEAK * SHARE),
        )
        seconds = received / (NVLINK if within else NETWORK)
        lines.append(
            f"| {way.words} | {way.size.tokens:,} | {gb(received)} | {'NVLink' if within else 'network'} | "
            f"{seconds:.2f} | {computing:.2f} |"
        )
    return lines


PASSES = {"full": 6, "full, checkpointed": 8, "LoRA": 4, "LoRA, checkpointed": 6, "the reference": 2}


def hours(size: Size, passes: float, gpus: int, tokens: float = FED) -> float:
    """Hours in which every pair is passed through once: so many operations a weight and token."""
    return passes * size.weights * PAIRS * tokens / (gpus * PEAK * SHARE) / 3600


def hours_table() -> list[str]:
    """An epoch of ten million pairs."""
    columns = [(size, gpus) for size in (SMALL, LARGE) for gpus in (8, 64, 1024)]
    heads = " | ".join(f"{size.name}, {gpus:,}" for size, gpus in columns)
    lines = [f"| hours for {PAIRS:,} pairs | {heads} |", "|---|---|---|---|---|---|---|"]
    for name, passes in PASSES.items():
        found = [hours(size, passes, gpus) for size, gpus in columns]
        lines.append(f"| {name}: {passes} N | " + " | ".join(f"{value:,.1f}" for value in found) + " |")
    return lines


def files_table() -> list[str]:
    """Checkpoints: float32 weights and two moments of what is trained; how often is Young's square root."""
    lines = ["| model | GPUs | GB a checkpoint | to write | hours between failures | best interval | at 15 min |"]
    lines.append("|---|---|---|---|---|---|---|")
    for size, lora, gpus in (
        (SMALL, True, 8),
        (SMALL, False, 8),
        (SMALL, False, 64),
        (LARGE, True, 8),
        (LARGE, False, 64),
        (LARGE, False, 1024),
    ):
        volume = 12 * (size.adapter if lora else size.weights)
        write, between = volume / DISK, GPU_HOURS_A_FAILURE / gpus
        best = math.sqrt(2 * write * between * 3600)
        words = f"{size.name} {'LoRA' if lora else 'full'} | {gpus:,} | {gb(volume)} | {duration(write)}"
        lines.append(f"| {words} | {between:,.0f} | {duration(best)} | {write / 900:.1%} |")
    return lines


TABLES: dict[str, Callable[[], list[str]]] = {
    "memory": memory_table,
    "exchange": exchange_table,
    "hours": hours_table,
    "checkpoints": files_table,
}


if __name__ == "__main__":
    for make in TABLES.values():
        print("\n".join(make()) + "\n")
