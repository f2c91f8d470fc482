"""YAML that we write: whatever text others brought, a value stays a value and a comment stays a comment.

YAML ends a line at U+0085, U+2028 and U+2029 too, and what turns the direction of writing can hide a line from its
reader. So comments go through `one_line`, and values with such characters are written with escapes.
"""

from __future__ import annotations

from typing import Any

import yaml

from likelier.utils.console import one_line

_UNBROKEN = 10**6  # a width that no line reaches


def comment(text: str) -> str:
    """A comment of one line; spaces at its beginning stay."""
    indent = text[: len(text) - len(text.lstrip(" "))]
    return f"# {indent}{one_line(text)}".rstrip()


def as_yaml(content: Any, width: int = _UNBROKEN) -> str:
    """Names and values as a block of YAML, in which every character can be seen."""
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=width)
    if _is_visible(text):
        return text
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=False, width=width)


def inline_yaml(value: Any) -> str:
    """One value on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=_UNBROKEN).removesuffix("...\n").rstrip("\n")
    if _is_visible(text) and "\n" not in text:
        return text
    return yaml.safe_dump(value, default_flow_style=True, default_style='"', width=_UNBROKEN).rstrip("\n")


def _is_visible(text: str) -> bool:
    return text.replace("\n", "").isprintable()
