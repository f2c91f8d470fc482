"""Which way of training fits into the memory: all weights, an adapter, an adapter on a 4-bit base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from likelier.advice.estimate import DEFAULT_RANK
from likelier.advice.memory import Device, MemoryPlan, Planner, planner_for
from likelier.advice.spread import Spread
from likelier.advice.weights import find_model
from likelier.data.lengths import Row, tokens_of
from likelier.models.options import Dtype, LoraOptions


@dataclass(frozen=True)
class Way:
    """A way of training, in words and as options."""

    words: str
    lora: LoraOptions
    checkpointing: bool = False
    dtype: Dtype = "auto"
    shard: bool = False

    def options(self) -> dict[str, Any]:
        """What a run file says of it."""
        found: dict[str, Any] = {"lora_r": self.lora.lora_r} if self.lora.lora_r else {}
        found |= {"load_in_4bit": True} if self.lora.load_in_4bit else {}
        found |= {"dtype": self.dtype} if self.dtype != "auto" else {}
        found |= {"activation_checkpointing": True} if self.checkpointing else {}
        return found | ({"shard": True} if self.shard else {})


@dataclass(frozen=True)
class Fitted:
    """The first way that fits with a tenth of the memory to spare (else the last that fits), with its plan, and the
    plans of all that were tried; `fits` is False where none does.
    """

    way: Way
    planner: Planner
    plan: MemoryPlan
    tried: dict[str, MemoryPlan]
    token_budget: int | None

    @property
    def fits(self) -> bool:
        """Whether the longest row fits, alone."""
        return bool(self.plan.fitting_budget)

    @property
    def tight(self) -> bool:
        """Whether it fits with less to spare than the plan may be off."""
        return self.fits and self.planner.needed(self.token_budget or self.plan.token_budget) > self.planner.roomy


def ways_of(model: str, device: Device, *, adapter_first: bool, rank: int = DEFAULT_RANK, gpus: int = 1) -> list[Way]:
    """Ways of training from the one that changes most to the one that takes least."""
    if find_model(model, LoraOptions()).adapter_loaded:
        return [Way("this adapter", LoraOptions()), Way("this adapter, checkpointing", LoraOptions(), True)]
    adapter = LoraOptions(rank)
    found = [] if adapter_first else [Way("full", LoraOptions()), Way("full, checkpointing", LoraOptions(), True)]
    if device == "cuda" and not adapter_first:
        split = Way("full, sharded, checkpointing", LoraOptions(), True, shard=True)
        alone = Way("full in bfloat16, checkpointing", LoraOptions(), True, "pure-bfloat16")
        found.append(split if gpus > 1 else alone)
    found += [Way("LoRA", adapter), Way("LoRA, checkpointing", adapter, True)]
    found += [Way("LoRA, sharded, checkpointing", adapter, True, shard=True)] if gpus > 1 else []
    if device == "cuda":
        found.append(Way("QLoRA, checkpointing", LoraOptions(rank, load_in_4bit=True), True))
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
    max_length: int | None = None,
    rank: int = DEFAULT_RANK,
    gpus: int = 1,
) -> Fitted:
    """Plan one way after the other until one fits into the memory with a tenth of it to spare, in micro-batches that
    are worth their passes.
    """
    tried: dict[str, MemoryPlan] = {}
    found: list[Fitted] = []
    for way in ways_of(model, device, adapter_first=adapter_first, rank=rank, gpus=gpus):
        planner = planner_for(
            model,
            method=method,
            lora=way.lora,
            dtype=way.dtype,
            max_length=max_length,
            device=device,
            memory=memory,
            activation_checkpointing=way.checkpointing,
            batch_size=batch_size,
            rows=rows,
            spread=Spread(gpus, way.shard),
        )
        plan = tried[way.words] = planner.plan(fit=True)
        roomy = planner.fitting_budget(planner.roomy)
        budget = None if planner.needed(plan.token_budget) <= planner.roomy else roomy or plan.fitting_budget or None
        found.append(Fitted(way, planner, plan, tried, budget))
        if roomy >= enough(planner):
            return found[-1]
    return next((one for one in reversed(found) if one.fits), found[-1])


_BUSY = 1024  # tokens of a micro-batch, below which a GPU mostly waits for its own memory


def enough(planner: Planner) -> int:
    """The least token budget at which a way is taken: on a GPU 1024, or the whole step's share of it."""
    return min(_BUSY, tokens_of(planner.micro_batch(_BUSY).counted)) if planner.asked.device == "cuda" else 1
