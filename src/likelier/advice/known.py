"""What plans find out of a model and a machine, once for all commands: counts, traces and timings, remembered."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

import torch

from likelier.models.layers import config_text
from likelier.utils.remembered import recall, remember

_OLD = 7 * 24 * 3600.0  # seconds after which a timing is made again: what else a machine does changes
_HOW: ContextVar[Literal["not", "known", "anew"]] = ContextVar("remembered_plans", default="not")


@contextmanager
def remembered_plans(*, anew: bool = False) -> Iterator[None]:
    """Within it, what was found out before is taken (with `anew` it is found out again), and what is, is kept."""
    token = _HOW.set("anew" if anew else "known")
    try:
        yield
    finally:
        _HOW.reset(token)


def known(kind: str, config: Any, key: Mapping[str, Any], find: Callable[[], Any]) -> Any:
    """What `find` gives (anything that JSON holds), which a model's configuration and `key` decide; remembered where
    that is asked for and the model's code is that of a known version.
    """
    if _HOW.get() == "not" or type(config).__module__.split(".")[0] != "transformers":
        return find()
    whole = {"config": config_text(config), **key}
    found = recall(kind, whole) if _HOW.get() == "known" else None
    if found is None:
        found = find()
        remember(kind, whole, found)
    return found


def known_time(config: Any, key: Mapping[str, Any], device: str, find: Callable[[], Any]) -> tuple[Any, float]:
    """The same of what this machine took, and when that was found out, in seconds of the epoch."""

    def timed() -> dict[str, Any]:
        return {"found": find(), "at": time.time()}

    whole = {**key, "machine": _machine(device)}
    found = known("speed", config, whole, timed)
    if not 0 <= time.time() - found["at"] < _OLD:
        with remembered_plans(anew=True):
            found = known("speed", config, whole, timed)
    return found["found"], found["at"]


def _machine(device: str) -> list[Any]:
    """A cache may lie on a disk that several share."""
    own = [platform.node(), platform.machine(), os.cpu_count(), len(os.sched_getaffinity(0)), torch.get_num_threads()]
    return [*own, torch.cuda.get_device_name() if device == "cuda" and torch.cuda.is_available() else device]
