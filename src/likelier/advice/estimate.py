"""Memory plans of one model side by side: what is asked for, and what comes out."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from likelier.utils.errors import ConfigError

if TYPE_CHECKING:
    from likelier.advice.prompts import PromptPlan
    from likelier.advice.rundata import RowPlan
    from likelier.training.duration import Duration

DEFAULT_RANK = 16  # of the adapters that are shown beside a full plan
_LARGEST = 2.0**60  # bytes: beyond any machine
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def bytes_of(text: str) -> int:
    """A size such as 24GB, 80GiB or 7.5e9 in bytes. Raises `ConfigError` for anything else."""
    found = re.fullmatch(r"\s*([\d.]+(?:[eE]\d+)?)\s*([KMGT]I?|)B?\s*", text, re.IGNORECASE)
    try:
        size = float(found[1]) * _UNITS[found[2].upper()] if found else 0.0
    except ValueError:
        size = 0.0
    if not 1 <= size < _LARGEST:
        raise ConfigError(f"memory={text!r} is no size; write it as 24GB (10^9 bytes) or 24GiB (2^30)")
    return int(size)


@dataclass(frozen=True)
class Estimate:
    """Plans of one model: `plans` by the way it is trained (`full`, `LoRA r=16`, `QLoRA r=16`) for the method asked
    for; `methods` the peaks in bytes of one method of each kind, by way; `models` whole runs with other models beside.
    `rows` are the data's, where a file was named; `rows_from` says which, and `what` they are. `times` say how long
    each way takes, where a file or a number of rows was named; `untimed` says why that is not known, and `timed` is
    False where nobody asked.
    """

    model: str
    method: str
    plans: dict[str, Any]
    methods: dict[str, dict[str, int]]
    models: dict[str, dict[str, int]]
    rows_from: str
    rows: RowPlan | PromptPlan | None = None
    times: dict[str, Duration] = field(default_factory=dict)
    untimed: str = ""
    timed: bool = True
    what: str = "rows"

    def as_json(self) -> dict[str, Any]:
        """Everything, in bytes, tokens and seconds."""
        data = {} if self.rows is None else {"data": self.rows.as_json()}
        times = {way: found.as_json() for way, found in self.times.items()}
        return data | {
            "time": times,
            "time_unknown_because": self.untimed or None,
            "model": self.model,
            "method": self.method,
            "rows": self.rows_from,
            "plans": {way: plan_json(plan) for way, plan in self.plans.items()},
            "peak_by_method": self.methods,
            "models_in_memory": self.models,
        }


def plan_json(plan: Any) -> dict[str, Any]:
    """A `MemoryPlan` with stable names, sizes in bytes."""
    return {
        "parts": plan.parts,
        "sampling": dict(plan.sampling),
        "answers_at_once": plan.together,
        "peak_sampling": sum(plan.sampling.values()),
        "peak_training": sum(plan.parts.values()),
        "peak_scoring": plan.scoring,
        "peak_evaluating": plan.evaluating,
        "peak": plan.peak,
        "needed": plan.needed,
        "device": plan.device,
        "gpus": plan.spread.gpus,
        "shard": plan.spread.shard,
        "weights": plan.weights.count,
        "trained_weights": plan.weights.trained,
        "max_length": plan.max_length,
        "token_budget": plan.token_budget,
        "longest_micro_batch": {"tokens": plan.tokens, "rows": plan.rows},
        "memory": plan.memory,
        "fits": plan.fits,
        "fitting_token_budget": plan.fitting_budget,
        "notes": list(plan.notes),
    }


def ways(model: str, asked: Any, device: str | None, spread: Any) -> dict[str, Any]:
    """The ways of training that are shown: the one asked for, or full, LoRA and (on CUDA, where nothing is
    split) QLoRA side by side.
    """
    import torch

    from likelier.advice.weights import find_model
    from likelier.models.options import LoraOptions

    if asked.lora_r is not None:
        return {f"{'QLoRA' if asked.load_in_4bit else 'LoRA'} r={asked.lora_r}": asked}
    known = find_model(model, asked)
    if known.adapter_loaded:
        return {f"this adapter, r={known.lora.lora_r}": asked}
    adapter = LoraOptions(DEFAULT_RANK)
    found = {"full": asked, f"LoRA r={DEFAULT_RANK}": adapter}
    if not spread.shard and (device == "cuda" or (device is None and torch.cuda.is_available())):
        found[f"QLoRA r={DEFAULT_RANK}"] = replace(adapter, load_in_4bit=True)
    return found


_KINDS = {
    "answers": "{0}",
    "pairs": "{0}, simpo and every method for pairs",
    "labels": "{0}",
    "scores": "{0}, four answers a row",
}


def peaks(planner: Any, budget: int | None) -> dict[str, int]:
    """Peaks in bytes of one method of each kind: what methods of a kind compute is the same but for a few numbers."""
    from likelier.objectives import METHODS

    of_kind = {kind: [name for name, one in METHODS.items() if one.data == kind] for kind in _KINDS}
    first = {words.format(*of_kind[kind]): of_kind[kind][0] for kind, words in _KINDS.items()}
    return {words: planner.for_method(method).plan(budget).peak for words, method in first.items()}


def models_in_memory(planner: Any, budget: int | None) -> dict[str, int]:
    """Peaks in bytes of what is trained here, and of the same with the models that other recipes hold beside it."""
    pairs = planner.for_method("dpo")
    pairs.asked = replace(pairs.asked, live_reference=False, reference_moves=None)
    plan = pairs.plan(budget)
    copy = plan.parts["weights"]
    copies = 0 if plan.training.adapter else copy  # a reference beside an adapter is its base, switched back
    value = copy + plan.parts["gradients"] + plan.parts["optimizer"]
    return {
        "1 model: DPO here, reference scored beforehand": plan.peak,
        "2 models: DPO as in its paper, a reference beside the policy": plan.peak + copy,
        "4 models: PPO, with a reference, a reward and a value model": plan.peak + copies + copy + value,
    }
