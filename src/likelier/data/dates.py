"""The date that a chat template writes: one moment for all rows of a run, whenever they are rendered.

Templates ask a clock (`strftime_now`, as transformers gives it) or are given a `date_string`. The clock that they are
given here stands still. It is a macro put in front of the template, since transformers passes plain values only into
its sandbox, and since a clock changed for the whole process would change it for others as well.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from datetime import datetime
from functools import lru_cache
from string import ascii_letters
from typing import Any

from likelier.data.options import ChatOptions, parsed_date
from likelier.utils.errors import ConfigError

_CLOCK, _GIVEN = "strftime_now", "date_string"
_GIVEN_FORMAT = "%d %b %Y"  # that of the templates which take one: Llama 3.1 and its kin
_FLAGS = ("-", "_", "0", "^", "#", "E", "O")
_ASKED_FOR = re.compile(_CLOCK + r"\s+is\s+(?:not\s+)?defined")
_LITERAL = re.compile(_CLOCK + r"""\(\s*(?:format\s*=\s*)?(?:'([^'\\]*)'|"([^"\\]*)")\s*\)""")

_MOMENT: ContextVar[str | None] = ContextVar("moment", default=None)


def now() -> str:
    """The local time to the second, as ISO 8601; within `as_of` the moment given there."""
    return _MOMENT.get() or datetime.now().isoformat(timespec="seconds")


@contextmanager
def as_of(moment: str) -> Iterator[None]:
    """Within it, runs that begin take this moment: several that belong together."""
    token = _MOMENT.set(moment)
    try:
        yield
    finally:
        _MOMENT.reset(token)


def asks_for_date(template: Any) -> bool:
    """Whether a chat template (text, or several by name) asks the clock."""
    return _CLOCK in str(template or "")


def check_date(template: Any, chat: ChatOptions) -> None:
    """Raises `ConfigError` for a date that the template does not write, or that is given to it twice."""
    if chat.date is None or asks_for_date(template):
        return
    if _GIVEN not in str(template or ""):
        raise ConfigError(f"date={chat.date!r} has no effect: the chat template asks for no date; drop it")
    if _GIVEN in (chat.chat_template_kwargs or {}):
        raise ConfigError(f"date and chat_template_kwargs: {_GIVEN} were both given; keep one of them")


def dated(chat: ChatOptions, template: Any) -> ChatOptions:
    """The options with a date, where the template asks the clock and none is given: it stands still from here on."""
    return replace(chat, date=now()) if asks_for_date(template) and chat.date is None else chat


def date_arguments(template: Any, chat: ChatOptions) -> dict[str, Any]:
    """What `apply_chat_template` is given besides: a template (text) with a clock that stands still, or its date."""
    if chat.date is None or not isinstance(template, str):
        return {}
    if asks_for_date(template):
        return {"chat_template": _with_clock(template, chat.date)}
    return {_GIVEN: parsed_date(chat.date).strftime(_GIVEN_FORMAT)} if _GIVEN in template else {}


def dates_written(template: str, date: str) -> str:
    """What of a date can reach the text, to be part of a digest: the day alone, where no more is asked for."""
    found, rest = _LITERAL.findall(template), _ASKED_FOR.sub("", _LITERAL.sub("", template))
    if _CLOCK in rest:  # with a format that is made elsewhere
        return date
    return json.dumps([parsed_date(date).strftime(one or other) for one, other in found])


@lru_cache(maxsize=16)
def _with_clock(template: str, date: str) -> str:
    """The template behind a macro that knows the formats which stand in it, and puts together any other."""
    moment = parsed_date(date)
    whole = {one or other: moment.strftime(one or other) for one, other in _LITERAL.findall(template)}
    known = {f"%{flag}{letter}" for flag in ("", *_FLAGS) for letter in (*ascii_letters, "%")} - {"%E", "%O"}
    parts = {spec: text for spec in sorted(known) if (text := _formatted(moment, spec)) != spec}
    made = {"WHOLE": whole, "PARTS": parts, "FLAGS": "".join(_FLAGS)}
    return re.sub("|".join(made), lambda found: json.dumps(made[found[0]], ensure_ascii=False), _MACRO) + template


def _formatted(moment: datetime, spec: str) -> str:
    try:
        return moment.strftime(spec)
    except ValueError:  # a directive that this system does not have
        return spec


_MACRO = (
    "{%- macro strftime_now(format) -%}{%- set whole = WHOLE -%}"
    "{%- if format in whole -%}{{ whole[format] }}{%- else -%}"
    "{%- set parts = PARTS -%}{%- set at = namespace(spec='') -%}{%- for one in format -%}"
    "{%- if at.spec -%}{%- set at.spec = at.spec ~ one -%}"
    "{%- if one not in FLAGS -%}{{ parts.get(at.spec, at.spec) }}{%- set at.spec = '' -%}{%- endif -%}"
    "{%- elif one == '%' -%}{%- set at.spec = one -%}{%- else -%}{{ one }}{%- endif -%}"
    "{%- endfor -%}{{ at.spec }}{%- endif -%}{%- endmacro -%}"
)
