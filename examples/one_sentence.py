"""A reward that can be checked: one whole sentence of at most twelve words about what was asked."""

from __future__ import annotations

import re
from typing import Any

MOST_WORDS, FEWEST_WORDS = 12, 4
_ENDS = re.compile(r"[.!?]+(?=\s|$)")
_STEM = 4  # letters that words must share: "magnets" and "magnetic"
_NOT_ABOUT = {"what", "does", "work", "used", "make", "made", "need", "from", "have", "take", "their"}


def reward(completions: list[Any], stop_reasons: list[str], question: list[str], **more: Any) -> list[float]:
    """1 for an answer that keeps the rule, less the further it is from it. The answer must end by itself."""
    rows = zip(question, completions, stop_reasons, strict=True)
    return [_of(asked, _text(answer), stop) for asked, answer, stop in rows]


def success(completions: list[Any], stop_reasons: list[str], question: list[str], **more: Any) -> list[float]:
    """1 where the rule is kept, else 0: what held-out answers are judged by."""
    rows = zip(question, completions, stop_reasons, strict=True)
    return [float(_keeps(asked, _text(answer), stop)) for asked, answer, stop in rows]


def _keeps(question: str, answer: str, stop: str) -> bool:
    ends, words = _ENDS.findall(answer), len(answer.split())
    whole = stop == "eos" and len(ends) == 1 and _ENDS.split(answer)[-1] == ""
    return whole and FEWEST_WORDS <= words <= MOST_WORDS and _is_about(question, answer)


def _of(question: str, answer: str, stop: str) -> float:
    if _keeps(question, answer, stop):
        return 1.0
    words = len(answer.split())
    if stop != "eos" or words < FEWEST_WORDS:
        return 0.0
    return min(1.0, MOST_WORDS / words) * (0.5 if _is_about(question, answer) else 0.1)


def _is_about(question: str, answer: str) -> bool:
    """Whether they share a word. Without this, one sentence that fits every question would do."""
    return bool(_stems(question) & _stems(answer))


def _stems(text: str) -> set[str]:
    words = re.findall(r"[a-z]+", text.lower())
    return {word[:_STEM] for word in words if len(word) >= _STEM and word not in _NOT_ABOUT}


def _text(completion: Any) -> str:
    return (completion if isinstance(completion, str) else completion[-1]["content"]).strip()
