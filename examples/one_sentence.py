"""A reward that can be checked: an answer of one whole sentence with at most twelve words."""

from __future__ import annotations

import re
from typing import Any

MOST_WORDS, FEWEST_WORDS = 12, 4
_ENDS = re.compile(r"[.!?]+(?=\s|$)")


def reward(completions: list[Any], stop_reasons: list[str], **columns: Any) -> list[float]:
    """1 for an answer that keeps the rule, less the further it is from it. The answer must end by itself."""
    return [_of(_text(one), stop) for one, stop in zip(completions, stop_reasons, strict=True)]


def success(completions: list[Any], stop_reasons: list[str], **columns: Any) -> list[float]:
    """1 where the rule is kept, else 0: what held-out answers are judged by."""
    return [float(_keeps(_text(one), stop)) for one, stop in zip(completions, stop_reasons, strict=True)]


def _keeps(text: str, stop: str) -> bool:
    ends = _ENDS.findall(text)
    words = len(text.split())
    return stop == "eos" and len(ends) == 1 and _ENDS.split(text)[-1] == "" and FEWEST_WORDS <= words <= MOST_WORDS


def _of(text: str, stop: str) -> float:
    if _keeps(text, stop):
        return 1.0
    words = len(text.split())
    if stop != "eos" or words < FEWEST_WORDS:
        return 0.0
    return 0.5 * min(1.0, MOST_WORDS / words)


def _text(completion: Any) -> str:
    return (completion if isinstance(completion, str) else completion[-1]["content"]).strip()
