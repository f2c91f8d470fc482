"""Memory plans as tables for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from likelier.advice.estimate import Estimate
from likelier.advice.memory import TO_SPARE, MemoryPlan
from likelier.advice.spread import Spread
from likelier.utils.terminal import printed

PARTS = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimizer state",
    "reference": "reference model",
    "critic": "critic (what it alone holds)",
    "rewards": "reward models",
    "rollout": "rollout (ids, log-probabilities)",
    "together": "put together or sent (several GPUs)",
    "activations": "activations",
    "head": "head (logits of one tile)",
    "workspace": "workspace",
}

_SOMETIMES = ("together", "critic", "rewards", "rollout")  # shown where they take anything
_WRITING = {
    "keys": "keys and values",
    "activations": "activations while writing",
    "head": "logits and draws",
}


def size(count: float) -> str:
    """Bytes for people, in powers of ten."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= scale:
            return f"{count / scale:,.2f} {unit}" if count < 100 * scale else f"{count / scale:,.0f} {unit}"
    return "-" if not count else f"{count / 1e3:,.0f} kB"


def estimate_text(estimate: Estimate) -> str:
    """The whole estimate."""
    return printed(_parts(estimate))


def _parts(estimate: Estimate) -> Iterator[RenderableType]:
    one = next(iter(estimate.plans.values()))
    kept = ", activation checkpointing" if one.training.checkpointing else ""
    spread = f", {one.spread.words}" if one.spread.words else ""
    lengths = f" of {one.max_length} tokens" if "at the maximum length" in estimate.rows_from else ""
    yield Text(
        f"{estimate.model}: {one.weights.count:,} weights; {estimate.method} on {one.device}{kept}{spread}; "
        f"{estimate.what}: {estimate.rows_from}{lengths}\n"
    )
    if estimate.rows is not None:
        yield from (Text(line) for line in estimate.rows.words())
    if estimate.timed:
        yield from (Text(f"{way}: {found.line()}") for way, found in estimate.times.items())
        if estimate.untimed:
            yield Text(f"time: not known, since {estimate.untimed}")
        yield Text("")
    yield plan_table(estimate.plans)
    yield from (Text(f"\n{line}") for line in proposals(estimate.plans))
    if estimate.methods:
        yield Text("\npeak by method\n")
        yield _by_way(estimate.methods)
    if estimate.models:
        yield Text("\nmodels in memory, for pairs\n")
        yield _by_way(estimate.models)
    for note in dict.fromkeys(note for plan in estimate.plans.values() for note in plan.notes):
        yield Text(f"\nnote: {note}")


def plan_table(plans: Mapping[str, MemoryPlan]) -> Table:
    """Parts by way of training, the peak, and what fits."""
    table = _table(list(plans))
    writes = any(plan.sampling for plan in plans.values())
    for name, words in PARTS.items():
        if name not in _SOMETIMES or any(plan.parts.get(name) for plan in plans.values()):
            table.add_row(words, *(size(plan.parts[name]) for plan in plans.values()))
    if writes:
        table.add_section()
        for name, words in _WRITING.items():
            table.add_row(words, *(size(plan.sampling[name]) for plan in plans.values()))
        table.add_row("answers written at once", *(f"{plan.together:,}" for plan in plans.values()))
        table.add_section()
        table.add_row("peak while writing", *(size(sum(plan.sampling.values())) for plan in plans.values()))
    lines = {
        "peak while training": [size(sum(plan.parts.values())) for plan in plans.values()],
        "peak before it, scoring": [size(plan.scoring) for plan in plans.values()],
        "peak after it, evaluating": [size(plan.evaluating) for plan in plans.values()],
        "with libraries and what cannot be used": [size(plan.needed) for plan in plans.values()],
        "token budget": [f"{plan.token_budget:,}" for plan in plans.values()],
        "fullest micro-batch": [
            f"{plan.rows} {'prompts' if writes else 'rows'}, {plan.tokens:,} tokens" for plan in plans.values()
        ],
    }
    if not writes:
        table.add_section()
    for words, cells in lines.items():
        table.add_row(words, *cells)
    if any(plan.memory is not None for plan in plans.values()):
        table.add_row(*_fitting(plans)[0])
        table.add_row(*_fitting(plans)[1])
    return table


def proposals(plans: Mapping[str, MemoryPlan]) -> Iterator[str]:
    """What to take where a plan does not fit, or with less than a tenth of the memory to spare."""
    for way, plan in plans.items():
        if plan.memory is None or plan.needed <= _roomy(plan):
            continue
        how = "fits with less than a tenth to spare" if plan.fits else "does not fit"
        ways = [flag for flag, stays in _savings(plan) if stays is not None and stays < _roomy(plan)]
        mend = f"take {', or '.join(ways)}" if ways else "take a smaller model, or GPUs with more memory"
        yield f"{way}: {size(plan.needed)} of {size(plan.memory)} {how}; {mend}"


def _savings(plan: MemoryPlan) -> list[tuple[str, float | None]]:
    """What may save memory, each with the bytes of weights, gradients and moments that stay all the same; None where it
    changes nothing.
    """
    lora, cuda, weights, spread = plan.training.lora, plan.device == "cuda", plan.weights, plan.spread
    full, alone = not plan.training.adapter, spread.gpus == 1
    here = sum(plan.parts[name] for name in ("weights", "gradients", "optimizer", "reference"))
    in_float32 = full and plan.training.weights == torch.float32
    gpus, split = _split(plan, here)
    quantized = cuda and not lora.load_in_4bit and not spread.shard
    return [
        (f"--token-budget {plan.fitting_budget}", 0 if plan.fitting_budget and not plan.fits else None),
        ("--activation-checkpointing", None if plan.training.checkpointing else here),
        ("--dtype pure-bfloat16", _PURE * weights.count if in_float32 and cuda and alone else None),
        (f"--gpus {gpus} --shard" if alone else "--shard", split),
        ("--lora-r 16", _FROZEN[plan.device] * weights.count if full else None),
        ("--lora-r 16 --load-in-4bit", _IN_4_BITS * weights.count if quantized else None),
        (_SHORTER[bool(plan.sampling)], here),
    ]


def _split(plan: MemoryPlan, here: int) -> tuple[int, float | None]:
    """The fewest GPUs of one machine (or those that were named) between which what stays fits if it is split, and its
    bytes; None where nothing can be split.
    """
    training, weights = plan.training, plan.weights
    pure = not training.adapter and training.weights == torch.bfloat16
    if plan.device == "cpu" or plan.spread.shard or training.lora.load_in_4bit or pure or plan.sampling:
        return 0, None
    spreads = [Spread(gpus, shard=True) for gpus in (_NODE if plan.spread.gpus == 1 else (plan.spread.gpus,))]
    sizes = {one.gpus: one.own(here) + one.together(weights, training, gradients=True) for one in spreads}
    return next(((gpus, size) for gpus, size in sizes.items() if size < _roomy(plan)), (0, None))


def _roomy(plan: MemoryPlan) -> float:
    return (1 - TO_SPARE) * (plan.memory or 0)


_SHORTER = {False: "a shorter --max-length", True: "a smaller --max-new-tokens or --answers-per-prompt"}
_NODE = (2, 4, 8)  # GPUs of one machine
_PURE = 2 + 2 + 6  # bytes a weight: itself, its gradient, moments with Kahan's third value
_FROZEN = {"cuda": 2, "cpu": 4}
_IN_4_BITS = 0.55


def _fitting(plans: Mapping[str, MemoryPlan]) -> tuple[list[str], list[str]]:
    memory = next(iter(plans.values())).memory or 0
    fits = [f"fits into {size(memory)}", *map(_how_well, plans.values())]
    none = "none: not even one row"
    budgets = [f"{plan.fitting_budget:,}" if plan.fitting_budget else none for plan in plans.values()]
    return fits, ["largest token budget that fits", *budgets]


def _how_well(plan: MemoryPlan) -> str:
    return "no" if not plan.fits else "yes" if plan.needed <= _roomy(plan) else "barely"


def _by_way(peaks: Mapping[str, Mapping[str, int]]) -> Table:
    table = _table(list(peaks))
    for words in next(iter(peaks.values())):
        table.add_row(words, *(size(of_way[words]) for of_way in peaks.values()))
    return table


def _table(ways: list[str]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    table.add_column("")
    for way in ways:
        table.add_column(way, justify="right")
    return table
