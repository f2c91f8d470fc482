"""Small rewards that come along. Each is a function of the protocol, made from what stands behind its name."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from likelier.training.reward_function import Function
from likelier.utils.errors import ConfigError
from likelier.utils.strict_json import BrokenJson, parse_json

_LENGTH = re.compile(r"(?:(?P<target>\d+)|(?P<least>\d*)\.\.(?P<most>\d*))(?:[ ]?(?P<unit>words|tokens|characters))?")


@dataclass(frozen=True)
class OfColumn:
    """A verdict on an answer's text and its row's value in a column; none where the row has no value."""

    verdict: Callable[[str, Any], float | None]
    column: str

    @property
    def needs(self) -> tuple[str, ...]:
        """The columns without which it cannot be called."""
        return (self.column,)

    def __call__(self, completions: Sequence[Any], **columns: Sequence[Any]) -> list[float | None]:
        pairs = zip(map(text_of, completions), columns[self.column], strict=True)
        return [None if value is None else self.verdict(text, value) for text, value in pairs]


def text_of(talk: str | Sequence[dict[str, Any]]) -> str:
    """A completion's text, or that of a prompt's last message."""
    return talk if isinstance(talk, str) else str(talk[-1]["content"])


def exact(column: str, where: str) -> Function:
    """1 where the answer is the column's text, or one of its texts, white space at the ends aside; else 0."""

    def verdict(text: str, value: Any) -> float:
        return float(text.strip() in _texts(value))

    return OfColumn(verdict, column or "answer")


def contains(column: str, where: str) -> Function:
    """1 where the column's text, or one of its texts, stands in the answer; else 0."""

    def verdict(text: str, value: Any) -> float:
        wanted = _texts(value)
        if not all(wanted):
            raise ValueError(f"the column {column or 'answer'!r} holds an empty text, which every answer contains")
        return float(any(one in text for one in wanted))

    return OfColumn(verdict, column or "answer")


def _texts(value: Any) -> list[str]:
    return [str(one).strip() for one in (value if isinstance(value, (list, tuple)) else [value])]


def regex(pattern: str, where: str) -> Function:
    """1 where the pattern is found in the answer, else 0. Raises `ConfigError` for what is no pattern."""
    if not pattern:
        raise ConfigError(f"{where} needs a pattern, as in regex:^Answer: \\d+$")
    try:
        found = re.compile(pattern).search
    except (re.error, OverflowError, RecursionError) as error:
        raise ConfigError(f"{where}: no regular expression: {error}") from error

    def reward(completions: Sequence[Any]) -> list[float]:
        return [float(found(text_of(completion)) is not None) for completion in completions]

    return reward


def json(keys: str, where: str) -> Function:
    """1 where the whole answer is JSON, and with `keys` (by commas) an object that has them; else 0."""
    wanted = {key.strip() for key in keys.split(",")} if keys else set()

    def reward(completions: Sequence[Any]) -> list[float]:
        return [_is_json(text_of(completion), wanted) for completion in completions]

    return reward


def _is_json(text: str, wanted: set[str]) -> float:
    try:
        found = parse_json(text.strip())
    except BrokenJson:
        return 0.0
    return float(not wanted or (isinstance(found, dict) and wanted <= found.keys()))


def length(wish: str, where: str) -> Function:
    """`40`: how far the answer is from 40 words, as a share of 40 and below 0; `..12`, `5..` or `5..12`: 1 where it has
    so many, else 0. `40 tokens` and `40 characters` count these; tokens are those drawn, with the end token.
    """
    read = _LENGTH.fullmatch(wish)
    if read is None or not (read["target"] or read["least"] or read["most"]) or read["target"] == "0":
        raise ConfigError(f"{where}: give a length such as length:40, length:..12 or 'length:5..40 tokens'")
    count = _COUNTS[read["unit"] or "words"]

    def reward(completions: Sequence[Any], completion_ids: Sequence[Sequence[int]]) -> list[float]:
        sizes = [count(text_of(text), ids) for text, ids in zip(completions, completion_ids, strict=True)]
        if read["target"]:
            return [-abs(size / int(read["target"]) - 1) for size in sizes]
        least, most = int(read["least"] or 0), float(read["most"] or "inf")
        return [float(least <= size <= most) for size in sizes]

    return reward


_COUNTS: dict[str, Callable[[str, Sequence[int]], int]] = {
    "words": lambda text, ids: len(text.split()),
    "tokens": lambda text, ids: len(ids),
    "characters": lambda text, ids: len(text),
}
