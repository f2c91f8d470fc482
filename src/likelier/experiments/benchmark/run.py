"""A run's model and the one that it began with on the same tasks, asked alike; what differs, item by item."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch

from likelier.experiments.benchmark.harness import (
    Metric,
    ask,
    higher_is_better,
    load_tasks,
    require_harness,
)
from likelier.models.adapter_copies import without_adapter
from likelier.models.options import Dtype
from likelier.models.policy import Policy
from likelier.runs.benchmark import BENCHMARK_FILE, Benchmark, Measured, TaskResult
from likelier.runs.card import RunCard
from likelier.runs.folder import RunFolder
from likelier.scoring.restore import adapter_gone_on_from, final_model, policy_at
from likelier.utils.console import say
from likelier.utils.errors import ConfigError, RunFolderError
from likelier.utils.files import refuse_link, write_output
from likelier.utils.statistics import Mean, Share, difference_of, mean_of, share_of

Items = Mapping[Metric, Mapping[int, float]]


def benchmark(
    run: str,
    *,
    tasks: Sequence[str] = (),
    with_default: bool = True,
    limit: int | None = None,
    batch_size: int = 8,
    dtype: Dtype = "auto",
) -> Benchmark:
    """Ask both models, write RUN/benchmark.json. Everything that can be refused is, before a model is loaded.

    Args:
        run: a run folder that holds its model.
        tasks: YAML files, or names that lm-evaluation-harness knows, beside the default tasks.
        with_default: whether the default tasks are asked.
        limit: the first so many items of each task.
        batch_size: answers that are scored at once.
        dtype: of both models.

    Raises:
        ConfigError: the harness or a task is missing, or there is none.
        RunFolderError: there is no run, or no model in it.
    """
    require_harness()
    if not tasks and not with_default:
        raise ConfigError("no task is left: name some with --tasks, or drop --without-default")
    name = final_model(run)
    folder = RunFolder(name)
    card = folder.card()
    refuse_link(folder.path / BENCHMARK_FILE)
    loaded, begun = load_tasks(tasks, with_default=with_default), time.monotonic()
    policy, _ = policy_at(name, card, "end", dtype)
    how: dict[str, Any] = {
        "chat_template": bool(policy.tokenizer.chat_template),
        "limit": limit,
        "batch_size": batch_size,
    }
    after = _told("after the run", policy, loaded, how)
    with _start(policy, name, card, dtype) as (start, words):
        before = _told(f"before it, {words}", start, loaded, how)
    found = Benchmark(
        results(before, after, higher_is_better(loaded)),
        seconds=round(time.monotonic() - begun, 1),
        base=words,
        harness=f"lm_eval {version('lm_eval')}",
        chat_template=how["chat_template"],
        limit=limit,
    )
    _write(folder.path / BENCHMARK_FILE, found)
    return found


def _told(when: str, policy: Policy, tasks: Sequence[object], how: Mapping[str, Any]) -> Items:
    say(f"asking the model {when}")
    policy.model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    return ask(policy, tasks, **how)


@contextmanager
def _start(policy: Policy, name: str, card: RunCard, dtype: Dtype) -> Iterator[tuple[Policy, str]]:
    """The model that the run began with: the adapter switched off, where it began at zero; else loaded."""
    if policy.adapter_settings is not None and adapter_gone_on_from(card) is None:
        with without_adapter(policy.model):
            yield policy, f"{card.run.model or 'its base'} (the adapter switched off)"
        return
    policy.model.to("cpu")  # both need not lie on the GPU
    start, source = policy_at(name, card, "start", dtype)
    yield start, source


def results(before: Items, after: Items, is_better: Mapping[tuple[str, str], bool]) -> tuple[TaskResult, ...]:
    """Every metric of every task, of the items that both models were asked."""
    return tuple(
        _result(metric, before[metric], after[metric], is_better.get((metric.task, metric.name), True))
        for metric in after
        if metric in before and before[metric].keys() & after[metric].keys()
    )


def _result(metric: Metric, before: Mapping[int, float], after: Mapping[int, float], up: bool) -> TaskResult:
    items = sorted(before.keys() & after.keys())
    old, new = (np.array([side[item] for item in items]) for side in (before, after))
    each = np.arange(len(items))
    is_share = bool(min(old.min(), new.min()) >= 0 and max(old.max(), new.max()) <= 1)
    if is_share:
        found = (share_of(old, each), share_of(new, each), difference_of(new[None], old[None], each))
    else:
        found = (mean_of(old), mean_of(new), mean_of(new - old))
    name = metric.name if metric.filter == "none" else f"{metric.name} ({metric.filter})"
    return TaskResult(metric.task, name, len(items), *map(_measured, found), is_share=is_share, higher_is_better=up)


def _measured(one: Share | Mean) -> Measured:
    low, high = (float(limit) if isfinite(limit) else None for limit in (one.low, one.high))
    return Measured(float(one.value), low, high)


def _write(file: Path, found: Benchmark) -> None:
    content = json.dumps(asdict(found), indent=2, ensure_ascii=False, allow_nan=False)
    write_output(file, f"{content}\n", mend="make room in the run folder", kind=RunFolderError)


def as_text(found: Benchmark) -> str:
    """The table that is printed."""
    head = ("task", "metric", "items", "before", "after", "difference", "")
    rows = [(one.task, one.metric, str(one.items), *_figures(one), one.change) for one in found.tasks]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in (head, *rows)]
    return "\n".join(
        [*lines, "", f"{found.summary}; 95 % intervals over items, those of differences over pairs of the same item."]
    )


def _figures(one: TaskResult) -> tuple[str, str, str]:
    return one.words(one.before), one.words(one.after), one.words(one.difference, signed=True)
