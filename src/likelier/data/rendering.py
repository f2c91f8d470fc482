"""Conversations as text, by the tokenizer's chat template."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from likelier.console import warn
from likelier.errors import ConfigError, DataError, ModelError
from likelier.jsontext import BrokenJson, parse_json
from likelier.options import ChatOptions
from likelier.records import Message, Record, Source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def check_template(records: Iterable[Record], tokenizer: PreTrainedTokenizerBase, chat: ChatOptions) -> None:
    """Raises `ModelError` for conversations without a template, `ConfigError` for options of one that nothing uses."""
    talk = next((record for record in records if isinstance(record.prompt, tuple)), None)
    if talk is None and chat.given:
        raise ConfigError(f"{chat.given[0]} has no effect: no row is a conversation, and plain text has no template")
    if talk is not None and not tokenizer.chat_template:
        raise ModelError(
            f"{talk.source}: the row is a conversation and the tokenizer of {tokenizer.name_or_path or 'this model'} "
            "has no chat template. Use an instruction-tuned model, name a template with --chat-template, or give plain "
            "text prompts and answers"
        )


def check_tools(records: Iterable[Record], tokenizer: PreTrainedTokenizerBase) -> None:
    """A template that takes no tools leaves them out of the text."""
    with_tools = next((record for record in records if record.tools), None)
    if with_tools is not None and "tools" not in str(tokenizer.chat_template or ""):
        warn(
            f"{with_tools.source}: the row names tools, and the chat template takes none, so the model does not see "
            "them; name a template that does with --chat-template"
        )


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: tuple[Message, ...],
    chat: ChatOptions,
    source: Source | str,
    tools: str = "",
) -> str:
    """A conversation as text, by the tokenizer's chat template. Before an answer, the template's generation prompt.

    `tools` is the JSON text of the tools that the template is given.
    """
    if chat.system_prompt and messages[0].role != "system":
        messages = (Message("system", chat.system_prompt), *messages)
    conversation = [as_dict(message, source) for message in messages]
    to_answer = messages[-1].role != "assistant"
    given = {"tools": _parsed(tools, "tools", source)} if tools else {}
    given |= chat.chat_template_kwargs or {}
    try:
        text = tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=to_answer, **given)
    except Exception as error:  # templates raise whatever they like, most often about the order of roles
        roles = " ".join(message.role for message in messages)
        raise DataError(f"{source}: the chat template refuses the roles '{roles}': {error}") from error
    return str(text)


def as_dict(message: Message, source: Source | str) -> dict[str, Any]:
    """A message as chat templates and other tools take it."""
    found: dict[str, Any] = {"role": message.role, "content": message.content}
    found |= json.loads(message.fields) if message.fields else {}
    return found | {"tool_calls": _parsed(message.tool_calls, "tool_calls", source)} if message.tool_calls else found


def _parsed(text: str, name: str, source: Source | str) -> Any:
    try:
        return parse_json(text)
    except BrokenJson as error:
        raise DataError(f"{source}: {name} is no JSON: {error}; mend the row") from error
