"""How long a run will take: its work at a device's speed, part by part, with how far that may be off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from likelier.data.lengths import tokens_of
from likelier.scoring.engine import PACK_LARGER
from likelier.training.work import Work

_START = 9.0  # seconds: Python, torch, transformers and peft
_READ = 300e6  # bytes a second: weights read, placed and hashed
_SAVED = 200e6  # bytes a second

PARTS = {
    "starting": "starting: libraries, model, trial of the scorer",
    "reference": "scoring the reference",
    "sampling": "writing answers",
    "training": "training",
    "evaluating": "evaluating",
    "saving": "saving",
}


@dataclass(frozen=True)
class Speed:
    """Seconds of a run's parts: a token forward and backward, a token forward, one token more of a batch of answers, an
    update of all weights that are trained. `off` is how far the time may be off, as a share; `words` where it is from.
    `link` is what goes from one GPU to another, in bytes a second.
    """

    trained_token: float
    scored_token: float
    written: float
    update: float
    off: float
    words: str
    link: float = 180e9  # NVLink of an A100, as far as it is reckoned with


@dataclass(frozen=True)
class Waits:
    """Seconds of exchange between GPUs: of a micro-batch forward and backward, of one forward alone, of a step."""

    trained: float = 0.0
    forward: float = 0.0
    step: float = 0.0


@dataclass(frozen=True)
class Duration:
    """Seconds of a run by its parts; `off` is the share by which the whole may be off, `words` where the speed is
    from.
    """

    seconds: Mapping[str, float]
    steps: int
    off: float
    words: str

    @property
    def whole(self) -> float:
        """All of them."""
        return sum(self.seconds.values())

    def line(self) -> str:
        """In words, with the error in words and numbers."""
        low, high = self.whole * (1 - self.off), self.whole * (1 + self.off)
        parts = ", ".join(f"{name} {clock_words(self.seconds[name])}" for name in PARTS if self.seconds[name] >= 0.5)
        return (
            f"{self.steps:,} steps, about {clock_words(self.whole)} (likely {clock_words(low)} to {clock_words(high)}, "
            f"{self.off:.0%} either way): {'; '.join(filter(None, (parts, self.words)))}"
        )

    def as_json(self) -> dict[str, Any]:
        """With stable names, in seconds."""
        parts = {name: round(value, 3) for name, value in self.seconds.items()}
        return {
            "steps": self.steps,
            "seconds": round(self.whole, 3),
            "off": self.off,
            "from": self.words,
            "parts": parts,
        }


def duration(work: Work, speed: Speed, *, weights: int, trained: int, waits: Waits | None = None) -> Duration:
    """The time of this work; `weights` and `trained` are bytes that are read and written. `waits` is what several GPUs
    wait for: of exchange and computation, which overlap, the longer one counts.
    """
    forward, waits = speed.scored_token, waits or Waits()
    training = max(work.training * speed.trained_token, work.micro_batches * waits.trained)
    larger = PACK_LARGER["cuda"] * tokens_of(work.micro_batch)  # tokens of a micro-batch without gradients

    def scoring(tokens: int) -> float:
        return max(tokens * forward, tokens / larger * waits.forward)

    def written(tokens: int) -> float:
        return tokens * (speed.written + waits.forward)

    return Duration(
        {
            "starting": _START + weights / _READ + work.trial * forward,
            "reference": scoring(work.reference),
            "sampling": scoring(work.sampling.scored) + written(work.sampling.written),
            "training": training + scoring(work.statistics) + work.steps * (speed.update + waits.step),
            "evaluating": scoring(work.evaluating) + written(work.written),
            "saving": trained / _SAVED,
        },
        work.steps,
        speed.off,
        speed.words,
    )


def clock_words(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
