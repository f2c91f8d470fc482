"""A `prompt` beside answers that are whole conversations: part of them already, or something that they do not hold.

Prompt messages that stand in front of the conversations once more are the prompt. A text that is one of their turns
says nothing new. Any other text may be a system prompt, a context of the first question, or a note that was never meant
for the model: which, is asked (`prompt_is`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from likelier.data.columns import Columns
from likelier.data.formats.messages import (
    Row,
    Unfit,
    check_prompt,
    common_start,
    content_of,
    hh_messages,
    is_conversation,
    is_hh,
    prompt_of,
    read_messages,
    split_conversation,
    starts_with,
    with_system,
)
from likelier.data.records import Content, Message, Source
from likelier.utils.errors import DataError

Talk = tuple[Message, ...]
_READINGS = ("system", "context", "unused")
_HOW = (
    "Say which: prompt_is under columns is system (a system turn), context (text in front of the first user's turn) or "
    "unused. As a flag: --columns prompt_is=system"
)


def settled(row: Row, answers: Sequence[Any], source: Source, columns: Columns) -> tuple[Content, list[Any]]:
    """The prompt, and the answers as they follow it or repeat it."""
    if not is_conversation(answers[0]):
        return prompt_of(row, answers[0]), list(answers)
    prompt = content_of(row["prompt"], "prompt")
    if isinstance(prompt, tuple) and any(message.role != "system" for message in prompt):
        return _extended(with_system(row, check_prompt(prompt)), read_messages(answers[0])), list(answers)
    whole = joined(row, answers, source, columns)
    return split_conversation(whole[0])[0], list(whole)


def joined(row: Row, answers: Sequence[Any], source: Source, columns: Columns) -> list[Talk]:
    """Whole conversations with what the system column and the prompt say beyond them.

    Raises `DataError` with the readings where that can be several things.
    """
    talks = [with_system(row, read_messages(answer)) for answer in answers]
    prompt = content_of(row["prompt"], "prompt")
    if isinstance(prompt, tuple):
        return [with_system({"system": prompt[0].content}, talk) if prompt else talk for talk in talks]
    assert isinstance(prompt, str)
    if all(_holds(talk, prompt) for talk in talks):
        return talks
    if columns.prompt_is is None:
        raise _question(prompt, talks[0], source)
    return [_with(prompt, talk, columns.prompt_is) for talk in talks]


def _extended(prompt: Talk, talk: Talk) -> Talk:
    """The prompt behind the system turn that only the conversation has."""
    lacks = talk[0].role == "system" and prompt[0].role != "system"
    return (talk[0], *prompt) if lacks and starts_with(talk[1:], prompt) else prompt


def _holds(talk: Talk, prompt: str) -> bool:
    """Whether a conversation says the prompt already, as a turn before its last or as its beginning."""
    if not prompt.strip():
        return True
    if is_hh(prompt):
        told = tuple(one for one in hh_messages(prompt) if one.content.strip())
        return common_start(talk, told) == len(told)
    return any(one.content.strip() == prompt.strip() for one in talk[:-1] if one.role != "assistant")


def _with(prompt: str, talk: Talk, prompt_is: str) -> Talk:
    if prompt_is == "unused":
        return talk
    if prompt_is == "system":
        return with_system({"system": prompt}, talk)
    place = next((number for number, one in enumerate(talk) if one.role == "user"), None)
    if place is None:
        raise Unfit("no-prompt", "no user speaks in the conversation")
    asked = replace(talk[place], content=f"{prompt}\n\n{talk[place].content}")
    return (*talk[:place], asked, *talk[place + 1 :])


def _question(prompt: str, talk: Talk, source: Source) -> DataError:
    where = f"{source.unit} {source.number}"
    lines = []
    for number, reading in enumerate(_READINGS, 1):
        try:
            read = " ".join(f"{one.role}: {_short(one.content)}" for one in _with(prompt, talk, reading)[:3])
        except Unfit as unfit:
            read = f"left out ({unfit.reason}: {unfit.detail})"
        lines.append(f"\n  reading {number} (prompt_is={reading}): {where}: {read}")
    head = f"{source}: the prompt {_short(prompt)} stands beside whole conversations that do not say it, and can mean"
    return DataError(f"{head} several things.{''.join(lines)}\n{_HOW}")


def _short(text: str) -> str:
    one_line = " ".join(text[:1000].split())
    return f'"{one_line if len(one_line) <= 60 else one_line[:57] + "..."}"'
