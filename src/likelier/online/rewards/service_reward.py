"""A reward service: a server of the user's that is sent prompts and answers, and sends numbers back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from likelier.utils.service import ServiceError, check_url, post_json

SECONDS = 60.0  # that a service has for one request, where nobody says otherwise
_ANSWERS = 64  # in one request


class Service:
    """Posts `{"prompts": [...], "completions": [...], "completion_ids": [...], "stop_reasons": [...], COLUMN: [...]}`
    and reads `{"rewards": [0.5, null, ...]}`, at most 64 answers at a time.
    """

    def __init__(self, url: str, seconds: float = SECONDS) -> None:
        check_url(url)
        self.url, self.seconds = url, seconds

    def __call__(self, **given: Sequence[Any]) -> list[Any]:
        found: list[Any] = []
        count = len(given["completions"])
        for start in range(0, count, _ANSWERS):
            part = {name: list(values[start : start + _ANSWERS]) for name, values in given.items()}
            told = post_json(self.url, part, timeout=self.seconds)
            rewards = told.get("rewards") if isinstance(told, dict) else None
            asked = len(part["completions"])
            if not isinstance(rewards, list) or len(rewards) != asked:
                raise ServiceError(
                    f'{self.url}: it must answer {{"rewards": [...]}} with {asked} numbers, one an answer; it answered '
                    f"{str(told)[:200]}"
                )
            found += rewards
        return found
