"""What a benchmark found, RUN/benchmark.json, as its readers see it: tasks before and after the run, item by item."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from likelier.runs.shapes import made, read_checked, shape_of

BENCHMARK_FILE = "benchmark.json"


@dataclass(frozen=True)
class Measured:
    """A figure with its 95 % interval, which is absent where one item is all."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def is_certain(self) -> bool:
        """Whether its interval is known, and leaves out 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class TaskResult:
    """A task's metric before and after, over the same `items`; `difference` is of pairs, each an item with itself."""

    task: str
    metric: str
    items: int
    before: Measured
    after: Measured
    difference: Measured
    is_share: bool = True
    higher_is_better: bool = True

    @property
    def change(self) -> str:
        """`better`, `worse`, or `alike` where the interval of the difference holds 0."""
        if not self.difference.is_certain:
            return "alike"
        return "better" if (self.difference.value > 0) == self.higher_is_better else "worse"

    def words(self, measured: Measured, *, signed: bool = False) -> str:
        """A figure as text, shares in per cent (a difference in points)."""
        scale, form = (100, ".1f") if self.is_share else (1, ".4g")
        sign, unit = "+" if signed else "", "" if signed or not self.is_share else "%"
        said = f"{scale * measured.value:{sign}{form}}{unit}"
        if measured.low is None or measured.high is None:
            return said
        return f"{said} [{scale * measured.low:{sign}{form}}, {scale * measured.high:{sign}{form}}]"


@dataclass(frozen=True)
class Benchmark:
    """All tasks, and how both models were asked. `seconds` are those of both together."""

    tasks: tuple[TaskResult, ...]
    seconds: float
    base: str = ""
    harness: str = ""
    chat_template: bool = False
    limit: int | None = None

    def changed(self, how: str) -> list[TaskResult]:
        """The tasks that are `better`, `worse` or `alike`."""
        return [one for one in self.tasks if one.change == how]

    @property
    def summary(self) -> str:
        """How many tasks went which way."""
        return ", ".join(f"{len(self.changed(how))} {how}" for how in ("worse", "better", "alike"))


_SHAPE = shape_of(Benchmark)


def read_benchmark(folder: Path) -> Benchmark | None:
    """A run's benchmark; None where none was made. Raises `RunFolderError` where the file is damaged."""
    file = folder / BENCHMARK_FILE
    if not file.is_file():
        return None
    content: dict[str, Any] = read_checked(file, _SHAPE)
    return made(Benchmark, content)
