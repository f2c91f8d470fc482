"""Prompts and answers as rows hold them: plain text, message lists, HH dialogues, token ids."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from math import isfinite, nan
from typing import Any

from likelier.data.formats.spelled import NotSpelled, parse_spelled
from likelier.data.records import Content, Message, TokenIds, spoken_key

Row = Mapping[str, Any]

_ROLES = {
    "human": "user",
    "user": "user",
    "prompter": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "system": "system",
    "developer": "system",
    "tool": "tool",
    "observation": "tool",
    "function_call": "assistant",
}
_HH_TURN = re.compile(r"\n\n(Human|Assistant):")


class Unfit(Exception):
    """One row cannot be used: a short stable reason and what was found."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


def as_number(value: Any) -> float:
    """A number, also one that stands there as text; NaN for anything else."""
    try:
        number = nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return nan
    return number if isfinite(number) else nan


def as_list(value: Any) -> list[Any]:
    """Several values, or one."""
    return list(value) if isinstance(value, (list, tuple)) else [value]


def plain(value: Any) -> Any:
    """Lists for tuples and for arrays of numpy."""
    if isinstance(value, tuple):
        return list(value)
    return value.tolist() if hasattr(value, "tolist") else value


def as_objects(value: Any) -> Any:
    """An object of lists that are equally long, as `datasets` has sequences of objects, as a list of objects."""
    if not isinstance(value, Mapping) or not value:
        return value
    columns = [plain(as_objects(one)) for one in value.values()]
    if not all(isinstance(one, list) and len(one) == len(columns[0]) for one in columns):
        return value
    return [dict(zip(value, row, strict=True)) for row in zip(*columns, strict=True)]


def speaker(message: Mapping[Any, Any]) -> Any:
    """Who speaks, as the message says it."""
    return _either(message, "role", "from")


def _either(message: Mapping[Any, Any], name: str, other: str) -> Any:
    return message.get(other) if message.get(name) is None else message[name]


def role_of(value: Any) -> str:
    """The usual name of a role: system, user, assistant or tool."""
    if not isinstance(value, str) or value not in _ROLES:
        raise Unfit("unknown-role", repr(value)[:60])
    return _ROLES[value]


def is_role(value: Any) -> bool:
    """Whether this is the name of a role that is known."""
    return isinstance(value, str) and value in _ROLES


def is_assistant(value: Any) -> bool:
    """Whether this is one of the assistant's names."""
    return isinstance(value, str) and _ROLES.get(value) == "assistant"


def read_messages(value: Any) -> tuple[Message, ...]:
    """A message list in the OpenAI style (role, content) or in ShareGPT's (from, value)."""
    value = as_objects(value)
    items = value if isinstance(value, (list, tuple)) else [value]
    return tuple(item if isinstance(item, Message) else _message(item) for item in items)


def _message(item: Any) -> Message:
    if not isinstance(item, Mapping):
        raise Unfit("not-a-message", repr(item)[:60])
    if (said := speaker(item)) is None:
        raise Unfit("unknown-role", f"no role among {', '.join(map(str, item))}"[:100])
    role = role_of(said)
    text, calls = _either(item, "content", "value"), json_text(item.get("tool_calls"))
    if text is None and calls:
        text = ""
    if text is None and not {"content", "value"} & item.keys():
        raise Unfit(
            "not-text",
            f"the message of role {role} has neither content nor value, but {', '.join(map(str, item))}"[:100],
        )
    return Message(role, _spoken(text, role), calls, _fields(item))


_TEXT_PARTS = ("text", "input_text", "output_text")
_PARTS = re.compile(r"""\s*\[\s*\{\s*['"](?:type['"]\s*:\s*['"](?:in|out)?(?:put_)?text['"]|text['"]\s*:)""")


def _spoken(content: Any, role: str) -> str:
    """The text of a message: a text, or text parts, which follow each other without anything between."""
    if isinstance(content, str):
        return _spelled_parts(content, role)
    parts = as_objects(plain(content))
    if not isinstance(parts, list):
        raise Unfit("not-text", f"content of a {role} message is {type(content).__name__}")
    return "".join(_part(part, role) for part in parts)


def _part(part: Any, role: str) -> str:
    if isinstance(part, str):
        return part
    held = {name: value for name, value in part.items() if value is not None} if isinstance(part, Mapping) else {}
    kind = held.pop("type", "text")
    text = held.pop("text", None)
    if kind not in _TEXT_PARTS or not isinstance(text, str):
        what = f"{kind!r}" if isinstance(part, Mapping) else type(part).__name__
        raise Unfit("not-text", f"content of a {role} message has a part that is no text: {what}"[:100])
    unread = [str(name) for name, value in held.items() if value not in ([], {}, "")]
    if unread:
        raise Unfit("not-text", f"a text part of a {role} message holds more: {', '.join(unread)}"[:100])
    return text


def _spelled_parts(text: str, role: str) -> str:
    """A text that spells a list of text parts is read as these; any other is itself."""
    if not _PARTS.match(text):
        return text
    try:
        found = parse_spelled(text)
    except NotSpelled as error:
        if error.is_prose or "type" not in text[:200]:
            return text
        raise Unfit("broken-structure", f"content of a {role} message begins {text[:40]!r}: {error}") from error
    parts = [one for one in found if isinstance(one, Mapping) and one.get("type") in _TEXT_PARTS and "text" in one]
    return _spoken(found, role) if len(parts) == len(found) else text


_READ = frozenset({"role", "from", "content", "value", "tool_calls"})


def _fields(item: Mapping[Any, Any]) -> str:
    """What a message holds besides, for the chat template: a null says nothing, as padding of a table does."""
    more = {str(name): value for name, value in item.items() if name not in _READ and value is not None}
    if item.get("content") is not None and item.get("value") not in (None, item["content"]):
        more["value"] = item["value"]  # a second text: whoever names what is not printed names it
    return as_json(more)


def json_text(value: Any) -> str:
    """Tools or tool calls as JSON text, whether they came as text or as objects; empty where there are none."""
    text = value if isinstance(value, str) else ""
    while isinstance(value, str):
        try:
            value = parse_spelled(value) if value.strip() else None
        except NotSpelled:
            return text  # whoever renders it says so
    value = as_objects(plain(value))
    if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
        value = [_unspelled(one) for one in value]
    return as_json(value)


def _unspelled(text: str) -> Any:
    """The object that a text spells, if it does."""
    try:
        found = parse_spelled(text)
    except NotSpelled:
        return text
    return found if isinstance(found, Mapping) else text


def as_json(value: Any) -> str:
    """A structure as JSON text, its names in the order of the file: a template prints them as they come. Empty where
    there is none.
    """
    return json.dumps(as_written(value), ensure_ascii=False, default=str) if value else ""


def as_written(value: Any) -> Any:
    """A structure without what tables put into it, so that every kind of file gives the same: Arrow fills objects with
    nulls under other rows' names, and makes 1 into 1.0 where another row has 1.5. No file tells such nulls and numbers
    from those that somebody wrote, so they fall in all.
    """
    if isinstance(value, Mapping):
        return {name: as_written(one) for name, one in value.items() if one is not None}
    value = plain(value)
    if isinstance(value, list):
        return [as_written(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def is_messages(value: Any) -> bool:
    """Whether this looks like a list of messages."""
    return isinstance(value, (list, tuple)) and bool(value) and isinstance(value[0], Mapping)


def content_of(value: Any, column: str) -> Content:
    """A prompt: text or messages."""
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple, Mapping)):
        return read_messages(value)
    raise Unfit("not-text", f"{column} is {type(value).__name__}")


def answer_turns(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The messages, if they begin and end with a turn of the assistant; tools and users may speak in between."""
    if not messages or {messages[0].role, messages[-1].role} != {"assistant"}:
        raise Unfit("answer-not-the-assistants", " ".join(message.role for message in messages) or "no message")
    return messages


def check_prompt(prompt: tuple[Message, ...]) -> tuple[Message, ...]:
    """The prompt, if an assistant can go on from it: with a turn of its own, or with one that the prompt begins."""
    if not prompt:
        raise Unfit("no-prompt")
    if prompt[-1].role == "assistant" and prompt[-1].tool_calls:
        raise Unfit("prompt-ends-with-tool-calls", "nothing can be added to a turn that has called its tools")
    return prompt


def prompt_of(row: Row, answer: Any) -> Content:
    """The row's prompt; text becomes a user's turn where `answer` is a message list, or the row has a system prompt."""
    content = content_of(row["prompt"], "prompt")
    if isinstance(content, str) and (is_messages(answer) or "system" in row):
        content = (Message("user", content),)
    return with_system(row, check_prompt(content)) if isinstance(content, tuple) else content


def answer_to(prompt: Content, value: Any, column: str) -> Content:
    """An answer in the prompt's own kind: plain text to plain text, a message or several to messages."""
    if isinstance(prompt, str):
        if isinstance(value, str):
            return value
        raise Unfit("not-text", f"{column} is {type(value).__name__} and the prompt is text")
    if isinstance(value, str):
        return (Message("assistant", value),)
    if value is None or isinstance(value, (bool, int, float)):
        raise Unfit("not-text", f"{column} is {type(value).__name__}")
    messages = read_messages(value)
    return answer_turns(messages[_repeated(prompt, messages) :])


def is_answer(value: Any) -> bool:
    """Whether this is one turn of the assistant alone, which no prompt can be found in."""
    return is_messages(value) and len(value) == 1 and is_assistant(speaker(value[0]))


def is_conversation(value: Any) -> bool:
    """Whether an answer brings its prompt with it; one that the assistant begins does not."""
    return is_messages(value) and len(value) > 1 and not is_assistant(speaker(value[0]))


def _repeated(prompt: Content, messages: tuple[Message, ...]) -> int:
    """How many messages in front of an answer are the prompt over again, its system turn perhaps left out."""
    if not isinstance(prompt, tuple) or messages[:1] == () or messages[0].role == "assistant":
        return 0
    start = 1 if prompt[0].role == "system" and messages[0].role != "system" else 0
    return len(prompt) - start if starts_with(messages, prompt[start:]) else 0


def starts_with(messages: tuple[Message, ...], start: tuple[Message, ...]) -> bool:
    """Whether a conversation begins with these messages."""
    return bool(start) and common_start(messages, start) == len(start)


def common_start(left: tuple[Message, ...], right: tuple[Message, ...]) -> int:
    """How many messages at the beginning say the same in both."""
    length = 0
    while length < min(len(left), len(right)) and _same(left[length : length + 1], right[length : length + 1]):
        length += 1
    return length


def _same(left: tuple[Message, ...], right: tuple[Message, ...]) -> bool:
    return spoken_key(left) == spoken_key(right)


def split_conversations(chosen: tuple[Message, ...], rejected: tuple[Message, ...]) -> tuple[Content, Content, Content]:
    """The prompt is what the two conversations share, cut before the assistant's turn in which they part, or before the
    last one in front of that; never inside a message.
    """
    for messages in (chosen, rejected):
        if not messages or messages[-1].role != "assistant":
            raise Unfit("answer-not-the-assistants", "the conversation does not end with the assistant")
    shared = common_start(chosen, rejected)
    starts = [place for place in _turn_starts(chosen[: shared + 1]) if is_turn(rejected, place)]
    if is_turn(chosen, 0) and is_turn(rejected, 0) and not starts:
        raise Unfit("no-prompt")
    if not starts:
        raise Unfit("prompts-differ", f"the conversations part at message {shared + 1}, before the assistant speaks")
    start = starts[-1]
    return check_prompt(chosen[:start]), chosen[start:], rejected[start:]


def is_turn(messages: Sequence[Message], place: int) -> bool:
    """Whether the assistant speaks at this place."""
    return place < len(messages) and messages[place].role == "assistant"


def _turn_starts(messages: Sequence[Message]) -> list[int]:
    """Where turns of the assistant begin, the first message aside: several in a row are one."""
    return [place for place in range(1, len(messages)) if is_turn(messages, place) and not is_turn(messages, place - 1)]


def split_conversation(messages: tuple[Message, ...]) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """Prompt and answer of one conversation: the answer is all that the assistant and its tools said after the last
    other turn. That is the last turn, or a whole trajectory of tool calls.
    """
    others = [place for place, one in enumerate(messages) if one.role not in ("assistant", "tool")]
    after = others[-1] + 1 if others else 0
    start = next((place for place in range(after, len(messages)) if is_turn(messages, place)), len(messages))
    answer = answer_turns(messages[start:] or messages[-1:])
    return check_prompt(messages[:start]), answer


def is_hh(value: Any) -> bool:
    """Whether this is an HH-RLHF dialogue string."""
    return isinstance(value, str) and bool(_HH_TURN.match(value))


def hh_messages(text: Any) -> tuple[Message, ...]:
    """An HH-RLHF dialogue string as messages; exactly one space after each marker is removed."""
    if not isinstance(text, str):
        raise Unfit("not-text", f"a dialogue is {type(text).__name__}")
    parts = _HH_TURN.split(text)
    if parts[0].strip() or len(parts) < 3:
        raise Unfit("not-a-dialogue", "the text does not begin with '\\n\\nHuman:'")
    roles = {"Human": "user", "Assistant": "assistant"}
    turns = zip(parts[1::2], parts[2::2], strict=True)
    return tuple(Message(roles[who], text.removeprefix(" ")) for who, text in turns)


def with_system(row: Row, messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The conversation behind the row's system prompt, which it may already begin with."""
    system = row.get("system")
    if is_messages(system):
        read = read_messages(system)
        system = read[0].content if len(read) == 1 and read[0].role == "system" else system
    if system is None or system == "":
        return messages
    if not isinstance(system, str):
        raise Unfit("not-text", f"system is {type(system).__name__}")
    if messages and messages[0].role == "system":
        if messages[0].content.strip() == system.strip():
            return messages
        other = messages[0].content
        raise Unfit("two-system-prompts", f"{system[:40]!r}, and the conversation begins with {other[:40]!r}")
    return (Message("system", system), *messages)


def read_token_ids(row: Row, column: str) -> TokenIds:
    """A list of token ids."""
    value = row[column]
    if not isinstance(value, (list, tuple)) or not all(isinstance(token, int) for token in value):
        raise Unfit("not-token-ids", f"{column} is not a list of whole numbers")
    return TokenIds(tuple(value))
