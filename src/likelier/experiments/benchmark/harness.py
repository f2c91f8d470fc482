"""lm-evaluation-harness: found or told to be missing, its tasks by name or file, a model asked item by item."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from likelier.utils.errors import ConfigError, nearest, whole_reason
from likelier.utils.files import local

if TYPE_CHECKING:
    from likelier.models.policy import Policy

DEFAULT_TASKS = sorted((Path(__file__).parent / "tasks").glob("*.yaml"))
SEED = 42


class Metric(NamedTuple):
    """A number of each item of a task. `filter` is the harness's name of what was done to answers before."""

    task: str
    name: str
    filter: str


def require_harness() -> None:
    """Raises `ConfigError` where lm-evaluation-harness is not installed."""
    if find_spec("lm_eval") is None:
        raise ConfigError(
            "benchmark needs the package lm_eval, which is not installed: pip install 'likelier[benchmark]'"
        )


def load_tasks(named: Sequence[str], *, with_default: bool) -> list[Any]:
    """The default tasks and the named ones, files or names that the harness knows (whose data it may download).

    Raises `ConfigError` for one that is not known, or whose data cannot be had.
    """
    files = [str(file) for file in DEFAULT_TASKS] if with_default else []
    wanted = files + [str(local(name).resolve()) if local(name).is_file() else name for name in named]
    with _quiet():
        manager = import_module("lm_eval.tasks").TaskManager(
            include_defaults=not all(Path(one).is_file() for one in wanted)
        )
        for name in wanted:
            if not Path(name).is_file() and name not in manager.all_tasks:
                raise ConfigError(
                    f"there is no task {name!r}: neither a YAML file, nor a name that lm_eval "
                    f"knows{nearest(name, manager.all_tasks)}"
                )
        return [_loaded(manager, name) for name in wanted]


def _loaded(manager: Any, name: str) -> Any:
    """A task or a group of them; a tag gives a list."""
    try:
        found = manager.load([name])
    except Exception as error:  # of a YAML file, of its code, of the network
        raise ConfigError(f"the task {name!r} cannot be loaded: {whole_reason(error)}") from error
    return list(found["groups"].values())[:1] or list(found["tasks"].values())


def ask(
    policy: Policy, tasks: Sequence[Any], *, chat_template: bool, limit: int | None, batch_size: int
) -> dict[Metric, dict[int, float]]:
    """Every number that the tasks give of single items, by item. The model is asked on its device, in its precision."""
    with _quiet():
        model = import_module("lm_eval.models.huggingface").HFLM(
            pretrained=policy.model,
            tokenizer=policy.tokenizer,
            batch_size=batch_size,
            mixed_precision_dtype=policy.compute_dtype if policy.autocast else None,
            truncation=True,
        )
        for name in ("loglikelihood", "loglikelihood_rolling", "generate_until"):
            shown = partial(getattr(model, name), disable_tqdm=not sys.stderr.isatty())
            setattr(model, name, shown)
        found = import_module("lm_eval.evaluator").simple_evaluate(
            model=model,
            tasks=[one for group in tasks for one in group],
            limit=limit,
            bootstrap_iters=0,
            apply_chat_template=chat_template,
            random_seed=SEED,
            numpy_random_seed=SEED,
            torch_random_seed=SEED,
            fewshot_random_seed=SEED,
        )
    return _by_item(found["samples"])


def higher_is_better(tasks: Sequence[Any]) -> dict[tuple[str, str], bool]:
    """By task and metric, as the tasks say it."""
    every = [one for group in tasks for part in group for one in _leaves(part)]
    return {(one.task_name, name): up for one in every for name, up in one.higher_is_better().items()}


def _leaves(part: Any) -> list[Any]:
    return part.get_all_tasks() if hasattr(part, "get_all_tasks") else [part]


def _by_item(samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[Metric, dict[int, float]]:
    """Metrics that are no number of one item (a perplexity's parts) are passed over."""
    found: dict[Metric, dict[int, float]] = {}
    for task, rows in samples.items():
        for row in rows:
            for name in row["metrics"]:
                if isinstance(row[name], (bool, int, float)):
                    key = Metric(task, name, str(row["filter"]))
                    found.setdefault(key, {})[int(row["doc_id"])] = float(row[name])
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the harness's remarks on its own workings, and without bars for what takes no time."""
    foreign: Any = import_module("lm_eval.api.task")
    logger, bar = logging.getLogger("lm_eval"), foreign.tqdm
    before = logger.level
    logger.setLevel(logging.ERROR)
    foreign.tqdm = lambda items, **_: items
    try:
        yield
    finally:
        logger.setLevel(before)
        foreign.tqdm = bar
