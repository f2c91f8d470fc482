"""A KL that was estimated, in words: never below 0 itself, its estimate is, where too little is known to tell it."""

from __future__ import annotations

from likelier.utils.statistics import Z

ALIKE = "not distinguishable from 0"


def is_above_zero(value: float, error: float | None) -> bool:
    """Whether an estimate with this standard error tells a distance at all."""
    return value - Z * (error or 0.0) > 0


def kl_words(value: float, error: float | None = None) -> str:
    """An estimate in nats with its standard error; 0 is that of a policy that has not moved."""
    words = f"{value:.3g} nats an answer" + ("" if error is None else f" (standard error {error:.2g})")
    return words if value == 0 or is_above_zero(value, error) else f"{ALIKE}: {words}"
