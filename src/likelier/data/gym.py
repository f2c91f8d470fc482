"""Questions that reasoning-gym makes up: `gym:TASK`, with the task's settings behind commas
(`gym:leg_counting,size=200,seed=1`).
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from likelier.data.names import GYM
from likelier.data.options import DataSet
from likelier.data.records import Source
from likelier.data.sources import NamedRows
from likelier.utils.errors import ConfigError, DataError, nearest, whole_reason
from likelier.utils.strict_json import BrokenJson, parse_json

_TUPLE = "tuple"
_DEFAULTS = {"size": 500, "seed": 0}  # the package itself would draw a seed anew each time


def gym_rows(source: DataSet) -> NamedRows:
    """The questions of a task: rows of `prompt`, with the `answer` and the `metadata` by which its verifier judges: a
    text of JSON for `read_metadata`.

    The same settings give the same questions. Raises `ConfigError` for what `gym_task` raises, and for choices that
    have no effect on them.
    """
    name = source.path
    for choice in ("subset", "split", "revision"):
        if getattr(source, choice) is not None:
            raise ConfigError(f"{name} is made up here, so that {choice} has no effect; drop it")
    if source.columns is not None and source.columns.records is not None:
        raise ConfigError(f"columns: records has no effect on {name}, whose rows are not inside of others; drop it")
    return NamedRows(name, _rows(name, gym_task(name.removeprefix(GYM), name)))


def _rows(name: str, task: Any) -> Iterator[tuple[Source, Mapping[str, Any]]]:
    for number in range(len(task)):
        place = Source(name, number + 1, "question")
        try:
            with _own_randomness(f"{task.seed} {number}"):
                entry = task[number]
            row = {"prompt": entry["question"], "answer": entry["answer"]}
            row["metadata"] = json.dumps(_marked(entry["metadata"]), default=str)
        except Exception as error:  # of a task's own code
            raise DataError(f"{place} cannot be made: {type(error).__name__}: {whole_reason(error)}") from error
        yield place, row


@contextmanager
def _own_randomness(seed: str) -> Iterator[None]:
    """For tasks that draw from the numbers that all of Python shares."""
    before = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before)


def _marked(value: Any) -> Any:
    """With tuples as `{"tuple": [...]}`: verifiers compare with them, and JSON has none."""
    if isinstance(value, dict):
        return {name: _marked(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        held = [_marked(one) for one in value]
        return {_TUPLE: held} if isinstance(value, tuple) else held
    return value


def read_metadata(text: str) -> Any:
    """A task's metadata as the task made them."""
    return json.loads(text, object_hook=lambda held: tuple(held[_TUPLE]) if held.keys() == {_TUPLE} else held)


def gym_task(typed: str, where: str, *, inert: Collection[str] = ()) -> Any:
    """A task of reasoning-gym by `TASK` or `TASK,NAME=VALUE,...`; settings that are `inert` are refused.

    Raises `ConfigError`, which begins with `where`, for a package that is not there, an unknown task, and settings that
    the task has not or does not take.
    """
    if find_spec("reasoning_gym") is None:
        raise ConfigError(f"{where} needs a package that is not installed: pip install 'likelier[gym]'")
    task, *given = re.split(r",(?=\s*\w+\s*=)", typed)  # a list's own commas stay
    import_module("reasoning_gym")  # which registers the tasks
    factory = import_module("reasoning_gym.factory")
    if task not in factory.DATASETS:
        raise ConfigError(f"{where}: reasoning-gym has no task {task!r}{nearest(task, factory.DATASETS)}")
    kind, settings = factory.DATASETS[task]
    try:
        own = {item.name: getattr(settings(), item.name) for item in fields(settings)} | _DEFAULTS
        chosen = _settings(given, own, where)
        if found := next((name for name in inert if name in chosen), None):
            raise ConfigError(f"{where}: {found} has no effect here; drop it")
        return kind(config=settings(**_DEFAULTS | chosen))
    except ConfigError:
        raise
    except Exception as error:  # of a task that needs other packages, or does not take a value
        raise ConfigError(f"{where}: it cannot be made: {type(error).__name__}: {whole_reason(error)}") from error


def _settings(given: list[str], own: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Settings by name, each of the type that the task's own value has."""
    found: dict[str, Any] = {}
    for one in given:
        name, _, typed = (part.strip() for part in one.partition("="))
        if name not in own:
            known = ", ".join(own)
            raise ConfigError(f"{where}: the task has no setting {name!r}{nearest(name, own)} (known: {known})")
        if name in found:
            raise ConfigError(f"{where}: {name} stands twice; keep one")
        found[name] = _value(typed, own[name], f"{where}: {name}")
    if found.get("size", 1) < 1:
        raise ConfigError(f"{where}: size={found['size']} is out of range; it must be at least 1")
    return found


def _value(typed: str, own: Any, where: str) -> Any:
    """A value as JSON, or as text where the task's own is one or where it is no JSON."""
    if isinstance(own, str):
        return typed
    try:
        value = parse_json(typed)
    except BrokenJson:
        value = typed
    kinds = (list, tuple) if isinstance(own, (list, tuple)) else (int, float) if isinstance(own, float) else type(own)
    if own is not None and (not isinstance(value, kinds) or isinstance(value, bool) != isinstance(own, bool)):
        raise ConfigError(f"{where}={typed} is not what the task has there, such as {json.dumps(own, default=str)}")
    return tuple(value) if isinstance(own, tuple) else value
