"""Secrets are taken out of what is written: run cards are shared, and a token in one is a token given away."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"
_PATTERNS = (
    (re.compile(r"(?<![A-Za-z0-9])(?:hf|api_org)_(?=[a-z0-9]*[A-Z])[A-Za-z0-9]{20,}"), HIDDEN),  # Hugging Face
    (re.compile(r"\b(?:gh[oprsu]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,})"), HIDDEN),
    (re.compile(r"(?<![A-Za-z0-9])sk-(?=[\w-]*\d)(?=[\w-]*[A-Z])[\w-]{20,}"), HIDDEN),
    (re.compile(r"\bAKIA[0-9A-Z]{16}\b"), HIDDEN),
    (re.compile(r"(?i)\b(bearer )[\w.~+/=-]{16,}"), rf"\1{HIDDEN}"),
    (re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)[^\s:/@]*:[^\s]*@"), rf"\1{HIDDEN}@"),  # user:password@host
    (re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)[^\s:/@]{16,}@"), rf"\1{HIDDEN}@"),  # a token instead of a user
    (re.compile(r"(?i)([?&](?:[\w-]+[_-])?(?:token|key|sig|signature|password|secret)=)[^&\s]+"), rf"\1{HIDDEN}"),
)
_NAMES = ("token", "hub_token", "api_key", "password", "secret")
_VARIABLE = re.compile(r"(?:TOKEN|API_KEY|SECRET|PASSWORD|SECRET_ACCESS_KEY)$", re.IGNORECASE)
_SHORTEST = 8  # characters: a shorter value of such a variable could be any word


def without_secrets(value: Any) -> Any:
    """JSON in which tokens, passwords in addresses, and the values of environment variables that hold such, are
    `***`. Names and numbers stay.
    """
    own = [text for name, text in os.environ.items() if _VARIABLE.search(name) and len(text) >= _SHORTEST]
    return _cleaned(value, sorted(own, key=len, reverse=True))


def _cleaned(value: Any, own: list[str]) -> Any:
    if isinstance(value, str):
        for secret in own:
            value = value.replace(secret, HIDDEN)
        for pattern, instead in _PATTERNS:
            value = pattern.sub(instead, value)
        return value
    if isinstance(value, Mapping):
        return {
            name: HIDDEN if name in _NAMES and isinstance(part, str) else _cleaned(part, own)
            for name, part in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_cleaned(part, own) for part in value]
    return value
