"""The methods by name: those of this room, and what others register."""

from __future__ import annotations

from typing import TypeVar

from likelier.objectives.base import Objective

Kind = TypeVar("Kind", bound=type[Objective])

METHODS: dict[str, type[Objective]] = {}


def register(kind: Kind) -> Kind:
    """Add a method to METHODS; a decorator of its class.

    It then trains by its name and is scored, inspected, diagnosed, reported and recommended like any other: what these
    need to know of it they read from its class (see `Objective` and `Advice`). Raises `ValueError` for a name that is
    taken.
    """
    if METHODS.get(kind.method, kind) is not kind:
        raise ValueError(
            f"there is a method {kind.method!r} already: {METHODS[kind.method].__name__}; name it otherwise"
        )
    METHODS[kind.method] = kind
    return kind
