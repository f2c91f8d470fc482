"""Conversations as text, by the tokenizer's chat template."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from likelier.data.dates import date_arguments
from likelier.data.options import ChatOptions
from likelier.data.records import Message, Record, Source, answers_of
from likelier.utils.errors import ConfigError, DataError, ModelError, whole_reason
from likelier.utils.strict_json import BrokenJson, parse_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Then: TypeAlias = Literal["answer", "more", "nothing"]


def check_template(records: Sequence[Record], tokenizer: PreTrainedTokenizerBase, chat: ChatOptions) -> None:
    """Raises `ModelError` for conversations without a template, `ConfigError` for options of one that nothing uses."""
    talk = next((record for record in records if isinstance(record.prompt, tuple)), None)
    refuse_chat_options_of_text(records, chat)
    if talk is not None and not tokenizer.chat_template:
        raise ModelError(
            f"{talk.source}: the row is a conversation and the tokenizer of {tokenizer.name_or_path or 'this model'} "
            "has no chat template. Use an instruction-tuned model, name a template with --chat-template, or give plain "
            "text prompts and answers (texts of a file stay text with --columns chat=false)"
        )


def refuse_chat_options_of_text(records: Sequence[Record], chat: ChatOptions) -> None:
    """Raises `ConfigError` for an option of conversations where there is none."""
    if chat.given and not any(isinstance(record.prompt, tuple) for record in records):
        raise ConfigError(f"{chat.given[0]} has no effect: no row is a conversation, and plain text has no template")


def refuse_inert_chat_options(records: Sequence[Record], chat: ChatOptions) -> None:
    """Raises `ConfigError` for what is asked of system turns or reasoning that none of all the rows has."""
    firsts = (record.prompt[0] for record in records if isinstance(record.prompt, tuple))
    if chat.fold_system and not chat.system_prompt and all(first.role != "system" for first in firsts):
        raise ConfigError("fold_system has no effect: no conversation begins with a system turn; drop it")
    if chat.reasoning and not any(map(_has_reasoning, records)):
        raise ConfigError("reasoning has no effect: no message holds any; drop it")


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
    *,
    then: Then | None = None,
) -> str:
    """A conversation as text, by the tokenizer's chat template.

    `then` says what comes behind it: an `answer`, whose generation prompt is rendered as well; `more` of the last
    message, which is left open; or `nothing`. By default nothing follows the assistant, and an answer anyone else.
    `tools` is the JSON text of the tools that the template is given. Raises `RowRefused`.
    """
    conversation = [as_dict(message, source) for message in as_given(messages, chat)]
    then = then or ("nothing" if messages[-1].role == "assistant" else "answer")
    given = {"tools": _parsed(tools, "tools", source)} if tools else {}
    given |= chat.chat_template_kwargs or {}
    if chat.date is not None:
        given |= date_arguments(tokenizer.get_chat_template(tools=given.get("tools")), chat)
    given |= {"continue_final_message": True} if then == "more" else {"add_generation_prompt": then == "answer"}
    try:
        text = tokenizer.apply_chat_template(conversation, tokenize=False, **given)
    except Exception as error:  # templates raise whatever they like, most often about the order of roles
        roles = " ".join(message["role"] for message in conversation)
        detail = f"the chat template refuses the roles '{roles}': {whole_reason(error)}"
        if any(message["role"] == "system" for message in conversation):
            detail += ". --fold-system puts a system turn in front of the first user's text"
        raise RowRefused(source, "template-refuses", detail) from error
    return _tokenizable(str(text), source)


def _tokenizable(text: str, source: Source | str) -> str:
    """What a template wrote, where it is a text. Raises `RowRefused`."""
    if not text:
        raise RowRefused(source, "template-refuses", f"the chat template writes nothing; {_OTHER_TEMPLATE}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        sign = f"U+{ord(text[error.start]):04X}"
        detail = f"the chat template writes half a character ({sign}), which no tokenizer reads; {_OTHER_TEMPLATE}"
        raise RowRefused(source, "template-refuses", detail) from error
    return text


_OTHER_TEMPLATE = "name another one with --chat-template"


def as_given(messages: tuple[Message, ...], chat: ChatOptions) -> tuple[Message, ...]:
    """The conversation as the template is given it: with the system prompt, reasoning and system turn as they are
    asked for.
    """
    if chat.reasoning:
        messages = tuple(_WITH_REASONING[chat.reasoning](message) for message in messages)
    if chat.system_prompt and messages[0].role != "system":
        messages = (Message("system", chat.system_prompt), *messages)
    return _folded(messages) if chat.fold_system else messages


# What reasoning models write before their answer, as fields of a message and as marked parts of its text.
REASONING_FIELDS = frozenset({"reasoning_content", "reasoning", "thinking"})
_OPENING = re.compile(r"<(?:think|thinking|thought|reasoning)>|\[THINK\]")


def _marked(text: str) -> Iterator[tuple[int, int, str]]:
    """(begin, end, text inside) of each part that is marked as reasoning. An opening mark without its end is text."""
    behind, without_end = 0, set[str]()
    for mark in _OPENING.finditer(text):
        closing = f"{mark[0][0]}/{mark[0][1:]}"
        if mark.start() < behind or closing in without_end:
            continue
        end = text.find(closing, mark.end())
        if end < 0:
            without_end.add(closing)
            continue
        behind = end + len(closing)
        yield mark.start(), behind, text[mark.end() : end]


def reasoning_in(text: str) -> str:
    """The reasoning that stands in a message's text, empty without any."""
    return next((inside for _, _, inside in _marked(text)), "")


def without_reasoning(text: str) -> str:
    """A message's text without the reasoning in it."""
    kept, behind = [], 0
    for begin, end, _ in _marked(text):
        kept.append(text[behind:begin])
        behind = end
    return "".join((*kept, text[behind:])).lstrip() if behind else text


def _reasoning_kept(message: Message) -> Message:
    """Reasoning that stands in a field, written into the text in front of the answer."""
    held: dict[str, Any] = json.loads(message.fields) if message.fields else {}
    texts = [value.strip() for name, value in held.items() if name in REASONING_FIELDS and isinstance(value, str)]
    if not any(texts):
        return message
    thought = "<think>\n" + "\n".join(texts) + "\n</think>\n\n"
    return replace(message, content=thought + message.content, fields=_other_fields(held))


def _reasoning_dropped(message: Message) -> Message:
    held: dict[str, Any] = json.loads(message.fields) if message.fields else {}
    return replace(message, content=without_reasoning(message.content), fields=_other_fields(held))


def _other_fields(held: dict[str, Any]) -> str:
    kept = {name: value for name, value in held.items() if name not in REASONING_FIELDS}
    return json.dumps(kept, ensure_ascii=False) if kept else ""


_WITH_REASONING = {"keep": _reasoning_kept, "drop": _reasoning_dropped}


def _has_reasoning(record: Record) -> bool:
    """Whether any message of the row would be another one without its reasoning."""
    parts = (part for part in (record.prompt, *answers_of(record)) if isinstance(part, tuple))
    return any(_reasoning_dropped(message) != message for part in parts for message in part)


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
