"""One job in a process of its own: prepare rows, or run one rival and measure it. Writes its result as JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from versus.cases import Case
from versus.flops import PaddedBatch
from versus.machine import Processor, be_the_first_to_go, reset_peak, resident, versions
from versus.rivals import Job, Loaded, build, load
from versus.rows import prepare, token_hash

TRACED = ("loss", "rewards/margins", "logps/chosen", "logps/rejected", "grad_norm")
PRODUCTS = ("aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm", "aten::baddbmm")


def work(path: str) -> None:
    """Do the job that the JSON file `path` describes; the result goes to the file that it names."""
    job = json.loads(Path(path).read_text(encoding="utf-8"))
    case = Case(**job["case"])
    be_the_first_to_go()
    if job["kind"] == "rows":
        found = prepare(case, Path(job["data"]), Path(job["folder"]))
    else:
        places = {name: job[name] for name in ("rival", "device", "model", "folder", "store")}
        found = run(Job(case, **places), Path(job["rows"]), profiled=job["kind"] == "profile")
    whole = Path(job["result"])
    unfinished = whole.with_suffix(".part")
    unfinished.write_text(json.dumps(found), encoding="utf-8")
    unfinished.replace(whole)


def run(job: Job, rows_file: Path, *, profiled: bool = False) -> dict[str, Any]:
    """Run a rival once over the rows."""
    rows = json.loads(rows_file.read_text(encoding="utf-8"))
    imports = _import(job.rival)
    from versus.clock import Clock

    started = time.perf_counter()
    loaded = load(job)
    loading = time.perf_counter() - started
    reset_peak()
    at_start = resident()["now"]
    clock, batches = Clock(job.device, profiled=profiled), list[PaddedBatch]()
    processor = Processor.now()
    clock.start()
    trainer = build(job, loaded, rows, clock, batches)
    clock.built = clock.now()
    trainer.train()
    others = processor.taken_by_others()
    found = {
        "seconds": {"imports": imports, "load": loading, **clock.seconds()},
        "memory": {"loaded": at_start, **_memory(job, trainer, loaded)},
        "settings": loaded.settings,
        "device": _device(job.device),
        "taken_by_others": others,
        "versions": versions(),
        **_trace(trainer),
        **(_seen_by_likelier(job, trainer) if job.rival.startswith("likelier") else _seen_by_trl(trainer, batches)),
    }
    if profiled:
        found["profile"] = _shares(clock.profiler)
    return found


def _trace(trainer: Any) -> dict[str, Any]:
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    return {"steps": trainer.state.global_step, "trace": {name: [entry[name] for entry in logs] for name in TRACED}}


def _import(rival: str) -> float:
    """Import what the rival needs; returns the seconds it took."""
    started = time.perf_counter()
    needed = (
        ("likelier.training.trainer",)
        if rival.startswith("likelier")
        else ("datasets", "peft", "trl.trainer.dpo_trainer")
    )
    for name in ("torch", "transformers", *needed):
        import_module(name)
    return time.perf_counter() - started


def _memory(job: Job, trainer: Any, loaded: Loaded) -> dict[str, float]:
    """Peaks, and the static part: weights, gradients of those that are trained, optimizer states, TRL's reference."""
    import torch

    weights = list(trainer.model.parameters())
    static = sum(weight.nbytes * (2 if weight.requires_grad else 1) for weight in weights)
    optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    states = (value for state in optimizer.state.values() for value in state.values())
    static += sum(value.nbytes for value in states if isinstance(value, torch.Tensor))
    if loaded.reference is not None:
        static += sum(weight.nbytes for weight in loaded.reference.parameters())
    found = resident()
    peaks = {"peak": found["peak"], "ru_maxrss": found["ru_maxrss"], "static": float(static)}
    if job.device == "cuda":
        peaks["cuda_peak"] = float(torch.cuda.max_memory_allocated())
    return peaks


def _device(device: str) -> dict[str, Any]:
    import torch

    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    return {"name": name, "threads": torch.get_num_threads(), "cuda": torch.version.cuda if device == "cuda" else None}


def _seen_by_trl(trainer: Any, batches: Sequence[PaddedBatch]) -> dict[str, Any]:
    """The tokens that TRL trained on, and the batches of precomputing and of training."""
    accumulated = trainer.args.gradient_accumulation_steps
    trained = trainer.state.global_step * accumulated
    before = len(batches) - trained
    columns = trainer.train_dataset
    ids = zip(columns["prompt_ids"], columns["chosen_ids"], columns["rejected_ids"], strict=True)
    training = [asdict(batch) for batch in batches[before:]]
    return {
        "token_hash": token_hash(ids),
        "precomputed": [asdict(batch) for batch in batches[:before]],
        "trained": [training[start : start + accumulated] for start in range(0, trained, accumulated)],
    }


def _seen_by_likelier(job: Job, trainer: Any) -> dict[str, Any]:
    """The tokens that likelier trained on, and how its steps were cut: tokens fed, and scored, of each micro-batch."""
    from likelier.scoring import collate
    from likelier.scoring.engine import micro_batches
    from likelier.scoring.layout import shared_prefix_layout
    from likelier.scoring.logprobs import default_chunk

    groups = trainer.train_groups
    fed, kept, scored = [], 0, 0
    chunk = default_chunk(trainer.policy.model.config.get_text_config().vocab_size)
    for step in trainer.run.sampler():
        parts = micro_batches(trainer.policy.model, [groups[number] for number in step], trainer.token_budget)
        layouts = [shared_prefix_layout(collate(part)) for part in parts]
        fed.append([layout.tokens.shape[1] for layout in layouts])
        scored += sum(len(layout.targets) for layout in layouts)
        kept += sum(len(layout.targets) for layout in layouts if len(layout.targets) <= chunk)
    ids = ((group.prompt, *group.answers) for group in groups)
    return {
        "token_hash": token_hash(ids),
        "scorer": trainer.scorer.name,
        "token_budget": trainer.token_budget,
        "tokens_fed": fed,
        "head_kept": kept / scored,
        "store_bytes": sum(file.stat().st_size for file in Path(job.store).rglob("*.scores")),
    }


def _shares(profiler: Any) -> dict[str, Any]:
    """Self CPU time by operator: the share of matrix products, and the ten largest."""
    if profiler is None:
        raise RuntimeError("there was no second step to profile")
    events = [event for event in profiler.key_averages() if event.self_cpu_time_total > 0]
    total = sum(event.self_cpu_time_total for event in events)
    largest = sorted(events, key=lambda event: -event.self_cpu_time_total)[:10]
    return {
        "products": sum(event.self_cpu_time_total for event in events if event.key in PRODUCTS) / total,
        "largest": {event.key: event.self_cpu_time_total / total for event in largest},
    }
