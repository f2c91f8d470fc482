"""What a sampler is: token ids in, answers out, with the log-probability of each token as it was drawn.

Ids are never decoded and encoded again: what was drawn is what is scored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal, Protocol

import numpy as np

from likelier.models.generation import Decoding
from likelier.utils.errors import ConfigError

StopReason = Literal["eos", "stop", "length"]
Report = Callable[[int, int], None]  # answers that are whole, tokens drawn


@dataclass(frozen=True)
class Sampling(Decoding):
    """How answers are drawn: at `temperature` (0: the likeliest token), from the whole distribution unless `top_p`,
    `top_k` (0: all) or `min_p` cut it, up to a token that ends an answer, one of the strings `stop`, or
    `max_new_tokens`. Raises `ConfigError`.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "above 0, and 1 at most")
        _require(self.top_k >= 0, "top_k", self.top_k, "0 (all tokens) or more")
        _require(0 <= self.min_p < 1, "min_p", self.min_p, "0 or more, and below 1")
        _require(all(self.stop), "stop", list(self.stop), "strings that are not empty")
        if self.temperature == 0 and self.changed:
            raise ConfigError(f"{self.changed} has no effect at temperature 0, where the likeliest token is taken")

    @property
    def changed(self) -> str:
        """The options that make the answers' distribution another one than the policy's, for a message; "" for none."""
        whole = {"top_p": 1.0, "top_k": 0, "min_p": 0.0}
        return ", ".join(f"{name}={value:g}" for name in whole if (value := getattr(self, name)) != whole[name])


def _require(condition: bool, name: str, value: object, wanted: str) -> None:
    if not condition:
        raise ConfigError(f"{name}={value!r} is out of range; it must be {wanted}")


@dataclass(frozen=True, eq=False)
class Sampled:
    """An answer: `ids` (tokens,) int32, the one that ended it included; `logps` (tokens,) in nats, each token's
    log-probability under the policy at the temperature it was drawn at (at temperature 0: at temperature 1), before
    `top_p` and the like; NaN where a sampler cannot tell it.
    """

    ids: np.ndarray
    logps: np.ndarray
    stop: StopReason

    @property
    def is_whole(self) -> bool:
        """Whether it ended before it reached the limit."""
        return self.stop != "length"


class Sampler(Protocol):
    """Draws answers from a policy."""

    sampling: Sampling

    def sample(
        self, prompts: Sequence[np.ndarray], answers: int, keys: Sequence[str], report: Report | None = None
    ) -> list[list[Sampled]]:
        """`answers` answers to each prompt (token ids).

        `keys` names what each prompt's random numbers come from beside the seed: one that comes again under a key of
        its own gets other answers.
        """
        ...

    def at(self, sampling: Sampling) -> Sampler:
        """One that draws from the same policy otherwise."""
        ...

    def close(self) -> None:
        """Let go of what it holds elsewhere. Those that `at` gave share it."""
        ...


def uniforms(seed: int, key: str, answer: int, count: int) -> np.ndarray:
    """(count,) numbers in [0, 1), the same for the same arguments, whatever else is drawn: a draw a token."""
    digest = blake2b(f"{seed}\0{answer}\0{key}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little"))).random(count)


def seed_of(seed: int, key: str) -> int:
    """A seed of its own for the answers to one prompt, below 2**62, for who draws elsewhere and counts on from it."""
    return int.from_bytes(blake2b(f"{seed}\0{key}".encode(), digest_size=8).digest(), "little") >> 2
