"""Numbers in words."""

from __future__ import annotations

from math import floor, log10

from likelier.insight.diagnose.statistics import Level


def nats(value: float) -> str:
    """A signed number of nats; a tiny one keeps its size."""
    return f"{number(value, signed=True)} nats"


def number(value: float, *, signed: bool = False) -> str:
    """Three significant digits, with separators where it is large."""
    sign = "+" if signed and value > 0 else ""
    if abs(value) >= 1000:
        return f"{sign}{value:,.0f}"
    return f"{sign}{value:.3g}"


def percent(share: float) -> str:
    """A share in percent, whole ones without a decimal."""
    return f"{100 * share:.3g} %"


def rate(value: float) -> str:
    """A learning rate as one types it, two digits at most: 5e-6, 1.5e-4."""
    if not 0 < value < 0.01:
        return f"{value:.2g}"
    exponent = floor(log10(value) + 1e-9)
    return f"{round(value / 10**exponent, 1):g}e{exponent}"


def from_to(before: float, after: float) -> str:
    """A figure that changed."""
    return f"{number(before)} at first, {number(after)} at the end"


def interval(value: float, low: float, high: float, of: float | None = None) -> str:
    """A share with its 95 % interval, and of how many."""
    return f"{percent(value)} ({percent(low)} to {percent(high)})" + (f" of {of:,.0f}" if of else "")


def level(one: Level, unit: str = "nats") -> str:
    """A mean with its 95 % interval, as far as that is known."""
    words = f"{number(one.value, signed=True)} {unit}"
    if one.interval is None:
        return words
    low, high = (number(limit, signed=True) for limit in one.interval)
    return f"{words} ({low} to {high})"


def steps_in_words(steps: list[int], most: int = 5) -> str:
    """Numbers of steps, the first few."""
    shown = ("step " if len(steps) == 1 else "steps ") + ", ".join(map(str, steps[:most]))
    return shown + (f" and {len(steps) - most} more" if len(steps) > most else "")
