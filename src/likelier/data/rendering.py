"""Conversations as text, by the tokenizer's chat template."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from likelier.console import warn
from likelier.errors import ConfigError, DataError, ModelError
from likelier.jsontext import BrokenJson, parse_json
from likelier.options import ChatOptions
from likelier.records import Message, Record, Source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def check_template(records: Sequence[Record], tokenizer: PreTrainedTokenizerBase, chat: ChatOptions) -> None:
    """Raises `ModelError` for conversations without a template, `ConfigError` for options of one that nothing uses."""
    talk = next((record for record in records if isinstance(record.prompt, tuple)), None)
    if talk is not None and chat.fold_system and not any(map(_has_system_turn, records)) and not chat.system_prompt:
        raise ConfigError("fold_system has no effect: no conversation begins with a system turn; drop it")
    if talk is None and chat.given:
        raise ConfigError(f"{chat.given[0]} has no effect: no row is a conversation, and plain text has no template")
    if talk is not None and not tokenizer.chat_template:
        raise ModelError(
            f"{talk.source}: the row is a conversation and the tokenizer of {tokenizer.name_or_path or 'this model'} "
            "has no chat template. Use an instruction-tuned model, name a template with --chat-template, or give plain "
            "text prompts and answers"
        )


def _has_system_turn(record: Record) -> bool:
    return isinstance(record.prompt, tuple) and record.prompt[0].role == "system"


def check_tools(records: Sequence[Record], tokenizer: PreTrainedTokenizerBase) -> None:
    """A template that takes no tools leaves them out of the text."""
    with_tools = next((record for record in records if record.tools), None)
    if with_tools is not None and "tools" not in str(tokenizer.chat_template or ""):
        warn(
            f"{with_tools.source}: the row names tools, and the chat template takes none, so the model does not see "
            "them; name a template that does with --chat-template"
        )


class RowRefused(DataError):
    """One row that cannot become tokens: a short stable reason, and what was found."""

    def __init__(self, place: Source | str, reason: str, detail: str) -> None:
        super().__init__(f"{place}: {detail}")
        self.reason, self.detail = reason, detail


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: tuple[Message, ...],
    chat: ChatOptions,
    source: Source | str,
    tools: str = "",
) -> str:
    """A conversation as text, by the tokenizer's chat template. Before an answer, the template's generation prompt.

    `tools` is the JSON text of the tools that the template is given. Raises `RowRefused`.
    """
    conversation = [as_dict(message, source) for message in as_given(messages, chat)]
    to_answer = messages[-1].role != "assistant"
    given = {"tools": _parsed(tools, "tools", source)} if tools else {}
    given |= chat.chat_template_kwargs or {}
    try:
        text = tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=to_answer, **given)
    except Exception as error:  # templates raise whatever they like, most often about the order of roles
        roles = " ".join(message["role"] for message in conversation)
        detail = f"the chat template refuses the roles '{roles}': {error}"
        raise RowRefused(source, "template-refuses", detail + _way_out(conversation)) from error
    return str(text)


def _way_out(conversation: list[dict[str, Any]]) -> str:
    has_system = any(message["role"] == "system" for message in conversation)
    return ". --fold-system puts a system turn in front of the first user's text" if has_system else ""


def as_given(messages: tuple[Message, ...], chat: ChatOptions) -> tuple[Message, ...]:
    """The conversation as the template is given it: with the system prompt, the system turn folded where asked for."""
    if chat.system_prompt and messages[0].role != "system":
        messages = (Message("system", chat.system_prompt), *messages)
    return _folded(messages) if chat.fold_system else messages


def _folded(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """System turns at the beginning in front of the first user's text, an empty line between; empty ones fall."""
    count = next((place for place, one in enumerate(messages) if one.role != "system"), len(messages))
    if not count or count == len(messages) or messages[count].role != "user":
        return messages
    first = messages[count]
    texts = [one.content for one in messages[: count + 1] if one.content.strip()]
    return (replace(first, content="\n\n".join(texts)), *messages[count + 1 :])


def as_dict(message: Message, source: Source | str) -> dict[str, Any]:
    """A message as chat templates and other tools take it."""
    found: dict[str, Any] = {"role": message.role, "content": message.content}
    found |= json.loads(message.fields) if message.fields else {}
    return found | {"tool_calls": _parsed(message.tool_calls, "tool_calls", source)} if message.tool_calls else found


def _parsed(text: str, name: str, source: Source | str) -> Any:
    try:
        return parse_json(text)
    except BrokenJson as error:
        raise RowRefused(source, f"broken-{name.replace('_', '-')}", f"{name} is no JSON: {error}") from error
