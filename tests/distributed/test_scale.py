"""Ten million rows and many ranks: what docs/scale.md says follows from its arithmetic, and what made it slow or large.

The figures themselves are measured by `benchmarks/scale.py`.
"""

from __future__ import annotations

import importlib.util
import random
import re
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from likelier.data.groups import Group
from likelier.data.packing import StepSampler, _least_bins, packed_micro_batches
from likelier.scoring import attach_scorer, collate
from tests.helpers.architectures import group
from tests.helpers.support import shared_tokens, tiny_model

ROOT = Path(__file__).resolve().parents[2]


def benchmark(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def arithmetic() -> ModuleType:
    return benchmark("scale_arithmetic")


@pytest.fixture(scope="module")
def page() -> str:
    return (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")


# --- the page ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["memory", "exchange", "hours", "checkpoints"])
def test_the_pages_tables_are_those_of_the_arithmetic(name: str, arithmetic: ModuleType, page: str) -> None:
    assert "\n".join(arithmetic.TABLES[name]()) in page


def tables_of(text: str) -> Iterator[str]:
    yield from re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)


def test_the_pages_measurements_are_those_of_the_results(page: str) -> None:
    results = list(tables_of((ROOT / "benchmarks/results/scale.md").read_text(encoding="utf-8")))
    assert len(results) == 6
    assert [table.splitlines()[0] for table in results if table not in page] == []


def test_the_sums_in_the_text_are_right(arithmetic: ModuleType, page: str) -> None:
    small, large, flops = arithmetic.SMALL, arithmetic.LARGE, arithmetic.PEAK * arithmetic.SHARE
    flat = " ".join(page.split())
    waiting = 13.89 / 5.84
    for figure in (
        f"**{arithmetic.FED} tokens**",
        f"{arithmetic.hours(small, 8, 8) * 3600:,.0f}"[:3] + ",000 s = " + f"{arithmetic.hours(small, 8, 8):.1f} hours",
        f"{flops / (8 * small.weights):,.0f} tokens a second",
        f"and {flops / (8 * large.weights):,.0f} at 70B",
        f"44.6 x 13.89 / 5.84 = {arithmetic.hours(large, 8, 64) * waiting:,.0f} hours",
        f"{2 * arithmetic.PROMPT + arithmetic.ANSWERS} tokens, "
        f"{(2 * arithmetic.PROMPT + arithmetic.ANSWERS) / arithmetic.FED:.2f} times",
        f"one in {arithmetic.GPU_HOURS_A_FAILURE:,.0f} GPU hours",
        f"4 x 70.55e9 = {4 * large.weights / 1e9:.0f} GB",
        f"16 x 7.25e9 / 8 = {16 * small.weights / 8 / 1e9:.1f} GB",
        f"{1e7 * (0.1 + 0.9 * arithmetic.FED / 855) / 3.6e6:.1f} hours",
    ):
        assert figure in flat, figure


def test_host_memory_is_the_sum_of_what_was_measured(page: str) -> None:
    found = re.findall(r"\(([\d,]+) \+ ([\d,]+)\)(?: bytes)? x 10,000,000 = ([\d.]+) GB", " ".join(page.split()))
    sums = [[float(value.replace(",", "")) for value in one] for one in found]
    assert len(sums) == 3 and all(total == round((one + other) / 100, 1) for one, other, total in sums)
    assert f"**{8 * (sums[0][0] + sums[0][1]) / 100:.0f} GB for eight**" in page


def test_made_up_rows_are_as_long_as_the_page_says(arithmetic: ModuleType) -> None:
    prompt, chosen, rejected = benchmark("scale").lengths(200_000).mean(axis=0)
    assert prompt == pytest.approx(arithmetic.PROMPT, rel=0.01)
    assert chosen + rejected == pytest.approx(arithmetic.ANSWERS, rel=0.01)


# --- the sampler and the planner -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_epoch_takes_eight_bytes_a_row() -> None:
    rows = 200_000
    keys = [b""] * rows
    tracemalloc.start()
    try:
        steps = iter(StepSampler(keys, batch_size=1000, order="shuffled", group_by=None, seed=0))
        first = next(steps)
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(first) == 1000 and held < 10 * rows


@settings(max_examples=200)
@given(
    sizes=st.lists(st.integers(1, 100), min_size=1, max_size=12), budget=st.integers(1, 150), ranks=st.integers(1, 4)
)
def test_no_plan_has_fewer_micro_batches_than_are_tried_first(sizes: list[int], budget: int, ranks: int) -> None:
    groups = [group([number], [7] * size, [8]) for number, size in enumerate(sizes)]
    plan = packed_micro_batches(groups, budget, ranks=ranks)
    loads = sorted((shared_tokens([one]) for one in groups), reverse=True)
    assert _least_bins(loads, budget) <= len(plan)
    assert sorted(number_of(one) for part in plan for one in part) == list(range(len(sizes)))


def number_of(one: Group) -> int:
    return int(one.prompt[0])


def test_the_least_number_of_bins_counts_those_that_cannot_lie_together() -> None:
    assert _least_bins([6, 6, 6], 10) == 3  # 18 tokens would go into two
    assert _least_bins([4, 4, 4, 4, 4], 10) == 3
    assert _least_bins([30, 1], 10) == 2  # one over the budget leaves no room


def test_a_step_for_a_thousand_ranks_is_even() -> None:
    rng = random.Random(0)
    groups = [group([number], [7] * rng.randint(1, 200), [8]) for number in range(8192)]
    plan = packed_micro_batches(groups, 16_384, ranks=1024)
    loads = [shared_tokens(part) for part in plan]
    assert len(plan) == 1024 and sum(loads) / (1024 * max(loads)) > 0.97


# --- the precision -------------------------------------------------------------------------------------------------


class _Copies(TorchDispatchMode):
    """Which copies in bfloat16 of weights are alive."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self._shapes = {weight.shape for weight in model.parameters() if weight.dim() == 2}
        self.made: list[StorageWeakRef] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if "_to_copy" in str(func) and out.dtype == torch.bfloat16 and out.shape in self._shapes:
            self.made.append(StorageWeakRef(out.untyped_storage()))
        return out

    @property
    def alive(self) -> int:
        return sum(not one.expired() for one in self.made)


def test_a_pass_in_bfloat16_keeps_no_copy_of_the_weights() -> None:
    """Autocast's cache would hold one of all weights until the pass ends, also where they are split between ranks."""
    model = tiny_model(dtype=torch.float32)
    attach_scorer(model, autocast=True, scorer="plain")
    copies, alive = _Copies(model), []
    for layer in model.model.layers:
        layer.register_forward_hook(lambda *_: alive.append(copies.alive))
    with torch.no_grad(), copies:
        model(batch=collate([group([1, 2, 3], [4, 5], [6])]))
    assert len(copies.made) >= 7 * len(alive) and max(alive) <= 1
