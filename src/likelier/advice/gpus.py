"""Figures of GPUs, and a run's speed reckoned from them where no such GPU is at hand."""

from __future__ import annotations

from dataclasses import dataclass

from likelier.utils.errors import ConfigError, nearest


@dataclass(frozen=True)
class Gpu:
    """What its maker states: memory in bytes, dense bfloat16 products in operations a second, memory traffic in bytes a
    second, and as much of what goes from one to another of a machine each way (NVLink, or PCIe).
    """

    memory: int
    products: float
    traffic: float
    link: float


def _of(gigabytes: int, teraflops: float, traffic: float, link: float) -> Gpu:
    return Gpu(gigabytes * 10**9, teraflops * 1e12, traffic * 1e9, link * 1e9)


GPUS = {
    "rtx-3090": _of(24, 71, 936, 32),
    "rtx-4090": _of(24, 165, 1008, 32),
    "a10": _of(24, 125, 600, 32),
    "l4": _of(24, 121, 300, 32),
    "l40s": _of(48, 362, 864, 32),
    "a100-40gb": _of(40, 312, 1555, 300),
    "a100-80gb": _of(80, 312, 2039, 300),
    "h100-80gb": _of(80, 989, 3350, 450),
    "h200": _of(141, 989, 4800, 450),
}


def gpu_of(name: str) -> Gpu:
    """A GPU by its name. Raises `ConfigError` for one that the table does not hold."""
    if name not in GPUS:
        raise ConfigError(f"gpu={name!r} is not in the table{nearest(name, GPUS)}; known: {', '.join(GPUS)}")
    return GPUS[name]
