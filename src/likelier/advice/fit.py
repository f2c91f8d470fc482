"""Which way of training fits into the memory: all weights, an adapter, an adapter on a 4-bit base."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from likelier.advice.estimate import DEFAULT_RANK
from likelier.advice.memory import Device, MemoryPlan, planner_for
from likelier.advice.trace import Row
from likelier.advice.weights import find_model
from likelier.models.options import LoraOptions

_MOST_ROWS = 2000  # of a file that are tokenized for the plan, the longest ones among them


@dataclass(frozen=True)
class Way:
    """A way of training, in words and as options."""

    words: str
    lora: LoraOptions
    checkpointing: bool = False

    def options(self) -> dict[str, Any]:
        """What a run file says of it."""
        found: dict[str, Any] = {"lora_r": self.lora.lora_r} if self.lora.lora_r else {}
        found |= {"load_in_4bit": True} if self.lora.load_in_4bit else {}
        return found | ({"activation_checkpointing": True} if self.checkpointing else {})


@dataclass(frozen=True)
class Fitted:
    """The first way that fits, with its plan, and the plans of all that were tried; `fits` is False where none does."""

    way: Way
    plan: MemoryPlan
    tried: dict[str, MemoryPlan]
    token_budget: int | None

    @property
    def fits(self) -> bool:
        """Whether the longest row fits, alone."""
        return bool(self.plan.fitting_budget)


def ways_of(model: str, device: Device, *, adapter_first: bool) -> list[Way]:
    """Ways of training from the one that changes most to the one that takes least."""
    if find_model(model, LoraOptions()).adapter_loaded:
        return [Way("this adapter", LoraOptions()), Way("this adapter, checkpointing", LoraOptions(), True)]
    adapter = LoraOptions(DEFAULT_RANK)
    found = [] if adapter_first else [Way("full", LoraOptions()), Way("full, checkpointing", LoraOptions(), True)]
    found += [Way("LoRA", adapter), Way("LoRA, checkpointing", adapter, True)]
    if device == "cuda":
        found.append(Way("QLoRA, checkpointing", LoraOptions(DEFAULT_RANK, load_in_4bit=True), True))
    return found


def fit(
    model: str,
    method: str,
    *,
    device: Device,
    memory: int | None,
    rows: Sequence[Row],
    batch_size: int,
    adapter_first: bool,
    report: Callable[[str], None] = lambda words: None,
) -> Fitted:
    """Plan one way after the other until one fits into the memory."""
    tried: dict[str, MemoryPlan] = {}
    ways = ways_of(model, device, adapter_first=adapter_first)
    for way in ways:
        report(way.words)
        planner = planner_for(
            model,
            method=method,
            lora=way.lora,
            device=device,
            memory=memory,
            activation_checkpointing=way.checkpointing,
            batch_size=batch_size,
            rows=rows,
        )
        plan = tried[way.words] = planner.plan(fit=True)
        if plan.fitting_budget:
            budget = None if plan.fits else plan.fitting_budget
            return Fitted(way, plan, tried, budget)
    return Fitted(ways[-1], tried[ways[-1].words], tried, None)


def sample(records: Sequence[Any]) -> list[Any]:
    """Records to plan with: all of a small file, else its longest ones in characters and others evenly spaced."""
    if len(records) <= _MOST_ROWS:
        return list(records)
    longest = sorted(range(len(records)), key=lambda number: -_characters(records[number]))[: _MOST_ROWS // 4]
    spaced = range(0, len(records), -(-len(records) // (_MOST_ROWS * 3 // 4)))
    return [records[number] for number in sorted({*longest, *spaced})]


def _characters(record: Any) -> int:
    parts = (getattr(record, name, "") for name in ("prompt", "chosen", "rejected", "answer"))
    return sum(len(part) if isinstance(part, str) else len(str(part)) for part in parts)
