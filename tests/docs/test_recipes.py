"""The recipes' files run as options, and their plans are what the planner says today, from a configuration alone.

`UPDATE_GOLDEN=1` writes the plans into the pages.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from likelier.advice import trace
from likelier.cli import estimate
from likelier.cli.flags import given_options
from likelier.cli.main import main
from likelier.data.lengths import Row
from likelier.models.options import LoraOptions
from likelier.training.config import RunConfig, RunOptions, parse, read_yaml
from likelier.training.options import TrainingOptions, refuse_process_options
from likelier.utils.distributed import Ranks
from tests.helpers.shapes import llama, llama_70b, save_shape

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "recipes"
PLANNED = {"8b-one-gpu": 1, "8b-eight-gpus": 8, "70b-qlora": 1}
SHAPES = {"meta-llama/Llama-3.1-8B-Instruct": llama, "meta-llama/Llama-3.1-70B-Instruct": llama_70b}
_PLAN = re.compile(r"^```text\n\$ likelier (?P<words>estimate [^\n]*)\n(?P<said>.*?)^```$", re.MULTILINE | re.DOTALL)
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
_ENDS = "\npeak by method"  # what the pages leave out begins here


def page(name: str) -> str:
    return (PAGES / f"{name}.md").read_text(encoding="utf-8")


def config_of(name: str) -> RunConfig:
    return parse(read_yaml(str(ROOT / "examples" / f"{name}.yaml")))


@dataclass(frozen=True)
class Plan:
    """A command of a page, and what the page says it prints."""

    name: str
    words: list[str]
    said: str


PLANS = [
    Plan(name, shlex.split(match["words"]), match["said"]) for name in PLANNED for match in _PLAN.finditer(page(name))
]


@pytest.mark.parametrize("name", [*PLANNED, "laptop"])
def test_the_file_on_the_page_is_the_file_in_examples(name: str) -> None:
    text = (ROOT / "examples" / f"{name}.yaml").read_text(encoding="utf-8")
    assert f'```yaml title="examples/{name}.yaml"\n{text}```' in page(name)
    config_of(name)


@pytest.mark.parametrize("name", PLANNED)
def test_a_recipe_starts_as_its_page_says_and_says_that_it_is_planned(name: str) -> None:
    gpus = PLANNED[name]
    several = f"torchrun --standalone --nproc-per-node {gpus} -m " if gpus > 1 else ""
    assert f"\n{several}likelier train examples/{name}.yaml\n" in page(name)
    assert f"#   {several}likelier train examples/{name}.yaml\n" in (ROOT / f"examples/{name}.yaml").read_text()
    refuse_process_options(config_of(name).training, Ranks(0, gpus))
    assert '!!! warning "Planned, not yet run on this hardware"' in page(name)


@pytest.mark.parametrize("name", PLANNED)
def test_the_first_plan_of_a_page_is_that_of_its_file(name: str) -> None:
    parser = argparse.ArgumentParser()
    estimate.add_flags(parser)
    flags = parser.parse_args(next(plan for plan in PLANS if plan.name == name).words[1:])
    config = config_of(name)
    training, lora = config.training, config.lora
    method = vars(flags).get("method", RunOptions.method)
    assert (flags.model, method, flags.gpus) == (config.run.model, config.run.method, PLANNED[name])
    asked, planned = LoraOptions(**given_options(flags, LoraOptions)), given_options(flags, TrainingOptions)
    assert (asked.lora_r, asked.load_in_4bit) == (lora.lora_r, lora.load_in_4bit)
    for option in ("max_length", "batch_size", "activation_checkpointing", "shard", "eval_prompts"):
        assert getattr(TrainingOptions(**planned), option) == getattr(training, option), option
    assert float(flags.eval_fraction) == config.run.eval_fraction


@pytest.fixture(scope="module")
def traced() -> dict[tuple[Any, ...], trace.Trace]:
    """What was traced so far: the plans of a model have many micro-batches in common."""
    return {}


@pytest.fixture
def only_the_page(monkeypatch: pytest.MonkeyPatch, traced: dict[tuple[Any, ...], trace.Trace]) -> None:
    """Nothing is planned that the pages do not show, and nothing is traced twice."""
    step = trace.trace_step

    def once(config: Any, rows: Sequence[Row], training: trace.Training, **how: Any) -> trace.Trace:
        key = (config.to_json_string(), tuple(rows), training, *sorted(how.items()))
        if key not in traced:
            traced[key] = step(config, rows, training, **how)
        return traced[key]

    monkeypatch.setattr(trace, "trace_step", once)
    for table in ("peaks", "models_in_memory"):
        monkeypatch.setattr(f"likelier.advice.estimate.{table}", lambda planner, budget: {})


@pytest.mark.slow
@pytest.mark.usefixtures("only_the_page")
@pytest.mark.parametrize("plan", PLANS, ids=[f"{plan.name}-{number}" for number, plan in enumerate(PLANS)])
def test_a_plan_is_what_the_planner_says_today(
    plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = plan.words[plan.words.index("--model") + 1]
    monkeypatch.chdir(tmp_path)
    save_shape(SHAPES[model](), tmp_path / model)
    assert main(plan.words) == 0
    said = capsys.readouterr().out.split(_ENDS)[0].rstrip() + "\n"
    if os.environ.get("UPDATE_GOLDEN"):
        path = PAGES / f"{plan.name}.md"
        command = f"$ likelier {shlex.join(plan.words)}\n"
        path.write_text(path.read_text().replace(command + plan.said, command + said))
        return
    assert _NUMBER.sub("#", said).split() == _NUMBER.sub("#", plan.said).split()
    for found, shown in zip(numbers(said), numbers(plan.said), strict=True):
        assert found == pytest.approx(shown, rel=0.03, abs=0.02)


def numbers(text: str) -> list[float]:
    """All numbers, in order. They may differ in their last digits with torch's version."""
    return [float(one.replace(",", "")) for one in _NUMBER.findall(text)]
