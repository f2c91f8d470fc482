"""An objective of each method's name: with its defaults, and where it has none for something, with a choice of ours."""

from __future__ import annotations

from typing import Any

from likelier.objectives import METHODS, Objective

CHOSEN: dict[str, dict[str, Any]] = {"weighted_sum": {"loss": "dpo=0.8 cal_dpo=0.2"}}


def usual(method: str, **options: Any) -> Objective:
    """The objective of this name with some options changed."""
    return METHODS[method].of({**CHOSEN.get(method, {}), **options})


def flags_of(method: str) -> list[str]:
    """What is typed to train by it."""
    more = [word for name, value in CHOSEN.get(method, {}).items() for word in (f"--{name}", *value.split())]
    return ["--method", method, *more]
