"""Layouts of rows that may ask without an answer: what `load_prompts` reads beside those of preferences.

Such a row is read as a demonstration whose answer is empty, so that a column map, presets, system prompts and tools
mean what they mean for preferences.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from likelier.data.formats.codings import Reading
from likelier.data.formats.detect import check_unicode
from likelier.data.formats.layouts import FORMATS, Format
from likelier.data.formats.messages import Row, Unfit, check_prompt, prompt_of, read_messages, with_system
from likelier.data.formats.plain import last_turn, one
from likelier.data.records import Content, Demonstration, Record, Source, TokenIds


def unanswered(prompt: Content, source: Source, tools: str = "") -> Demonstration:
    """A prompt as a record, its answer empty and of the prompt's own kind."""
    answer: Content = "" if isinstance(prompt, str) else TokenIds(()) if isinstance(prompt, TokenIds) else ()
    return Demonstration(prompt, answer, source, tools=tools)


def _prompt_alone(row: Row, source: Source, reading: Reading) -> Demonstration:
    """prompt: as text, or as messages."""
    return unanswered(prompt_of(row, ""), source)


def _asked(row: Row, source: Source, reading: Reading) -> Demonstration:
    """messages or conversations: all that stands before the assistant's answer at the end, if there is one."""
    messages = with_system(row, read_messages(row["messages" if "messages" in row else "conversations"]))
    if messages and messages[-1].role == "assistant":
        return last_turn(row, source, reading)
    return unanswered(check_prompt(messages), source)


def _may_ask(layout: Format) -> Format:
    """The layout of conversations, whose last turn may be the user's."""
    return replace(layout, convert=one(_asked)) if layout.columns in _TALKS else layout


_TALKS = (frozenset({"messages"}), frozenset({"conversations"}))


PROMPT_FORMATS = (
    *map(_may_ask, FORMATS),
    Format(
        "prompts",
        frozenset({"prompt"}),
        '{"prompt": "..."}, or messages [{"role": "user", "content": "..."}], with any further columns, for rewards',
        one(_prompt_alone),
        recognises=lambda row: not isinstance(row["prompt"], Mapping),
        settings=frozenset({"chat"}),
    ),
)


def check_asked(record: Record) -> None:
    """Raise `Unfit` for an empty prompt, or one that is no Unicode; whatever its answers are."""
    prompt = record.prompt
    check_unicode(prompt)
    if isinstance(prompt, TokenIds):
        is_empty = not prompt.ids
    else:
        is_empty = not (prompt if isinstance(prompt, str) else "".join(one.content for one in prompt)).strip()
    if is_empty:
        raise Unfit("no-prompt")
