"""Facts of this machine and this process: processor, memory, peak resident size, package versions."""

from __future__ import annotations

import os
import platform
import resource
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("likelier", "trl", "transformers", "torch", "peft", "datasets", "accelerate", "tokenizers")
GB = 1e9


def machine() -> dict[str, Any]:
    """Processor, cores and memory; no names of hosts or users."""
    return {
        "processor": _field("/proc/cpuinfo", "model name") or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GB, 1),
        "system": platform.system(),
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    """Versions of the packages that matter, where they are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def available_memory() -> float | None:
    """Bytes that can be taken without swapping, within the container's limit; None where that is not told."""
    free = _kilobytes("/proc/meminfo", "MemAvailable")
    limit, used = (_number(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    known = [value for value in (free, limit - used if limit is not None and used is not None else None) if value]
    return min(known, default=None)


def resident() -> dict[str, float]:
    """Resident bytes of this process now and at their peak.

    The peak is the kernel's VmHWM. `ru_maxrss` would be larger in a small process: it starts from what the parent's
    memory was when the process was made.
    """
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1024 if platform.system() == "Linux" else 1)
    return {
        "now": _kilobytes("/proc/self/status", "VmRSS") or largest,
        "peak": _kilobytes("/proc/self/status", "VmHWM") or largest,
        "ru_maxrss": largest,
    }


@dataclass(frozen=True)
class Processor:
    """Seconds at one moment: the wall clock's, those of all cores that were busy, and this process's own."""

    wall: float
    busy: float | None
    own: float

    @staticmethod
    def now() -> Processor:
        """Read the clocks."""
        text = _field("/proc/stat", "cpu ", separator=" ")
        user, nice, system, _, _, *others = map(int, text.split()[:8]) if text else (0,) * 5
        busy = (user + nice + system + sum(others)) / os.sysconf("SC_CLK_TCK") if text else None
        return Processor(time.monotonic(), busy, time.process_time())

    def taken_by_others(self) -> float | None:
        """The share of all cores that other processes took since; None where the system does not tell."""
        now = Processor.now()
        if self.busy is None or now.busy is None:
            return None
        others = (now.busy - self.busy) - (now.own - self.own)
        return max(0.0, others / ((now.wall - self.wall) * (os.cpu_count() or 1)))


def reset_peak() -> None:
    """Let the peak start from what is resident now, where the kernel allows it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def be_the_first_to_go() -> None:
    """Where memory runs out, the kernel is to end this process and no other."""
    try:
        Path("/proc/self/oom_score_adj").write_text("1000")
    except OSError:
        return


def package_environment(repository: Path, device: str) -> Mapping[str, str]:
    """The environment of a worker: this working tree first, nothing fetched, one GPU or none."""
    paths = [str(repository / "src"), os.environ.get("PYTHONPATH", "")]
    offline = dict.fromkeys(("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "TQDM_DISABLE"), "1")
    visible = "" if device == "cpu" else os.environ.get("CUDA_VISIBLE_DEVICES", "0")
    return {
        **os.environ,
        **offline,
        "CUDA_VISIBLE_DEVICES": visible,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }


def _field(path: str, name: str, separator: str = ":") -> str | None:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((line.split(separator, 1)[1].strip() for line in lines if line.startswith(name)), None)


def _kilobytes(path: str, name: str) -> float | None:
    text = _field(path, name)
    return None if text is None else float(text.split()[0]) * 1024


def _number(path: str) -> float | None:
    try:
        return float(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
