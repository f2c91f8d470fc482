"""A recommendation as a run file: options in the order in which one reads them, each with its source behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from likelier.objectives.advice import Setting
from likelier.utils.yaml_text import comment, inline_yaml


@dataclass(frozen=True)
class StagePlan:
    """A stage: its method, the files that it reads, its own settings."""

    method: str
    paths: tuple[str, ...]
    settings: tuple[Setting, ...]

    def options(self) -> dict[str, Any]:
        """As the file says it."""
        data = self.paths[0] if len(self.paths) == 1 else list(self.paths)
        return {"method": self.method, "data": data} | {one.name: one.value for one in self.settings}


def run_options(model: str, output: str, stages: Sequence[StagePlan], shared: Sequence[Setting]) -> dict[str, Any]:
    """The values of the run file, as `config.parse` or `stages.parse_stages` takes them."""
    whole = {"model": model, "output": output} | {one.name: one.value for one in shared}
    if len(stages) == 1:
        return whole | stages[0].options()
    return whole | {"stages": [stage.options() for stage in stages]}


def run_file(
    heading: Sequence[str], model: str, output: str, stages: Sequence[StagePlan], shared: Sequence[Setting]
) -> str:
    """The run file's text."""
    sources = {one.name: one.source for one in shared}
    lines = [comment(line) for line in heading] + ["", _line("model", model), _line("output", output)]
    if len(stages) == 1:
        lines += _stage_lines(stages[0])
    lines += [_line(one.name, one.value, sources[one.name]) for one in shared]
    if len(stages) > 1:
        lines.append("stages:")
        for stage in stages:
            first, *rest = _stage_lines(stage)
            lines += [f"  - {first}", *(f"    {line}" for line in rest)]
    return "\n".join(lines) + "\n"


def _stage_lines(stage: StagePlan) -> list[str]:
    sources = {one.name: one.source for one in stage.settings}
    return [_line(name, value, sources.get(name, "")) for name, value in stage.options().items()]


def _line(name: str, value: Any, source: str = "") -> str:
    words = f"{name}: {f'{value:g}' if isinstance(value, float) else inline_yaml(value)}"
    return f"{words}  {comment(source)}" if source else words
