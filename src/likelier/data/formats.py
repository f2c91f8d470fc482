"""Recognise what a file holds and turn its rows into records.

A format is a name, a test on the column names and the first row, and a conversion of one row. Conversions raise
`Unfit` for a row that cannot be used; the row is counted under that reason and named, and the others go on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from likelier.data.sources import NamedRows
from likelier.errors import DataError
from likelier.records import (
    Content,
    Demonstration,
    Labelled,
    Message,
    Pair,
    Record,
    Source,
    TokenIds,
    Unusable,
    UnusableRows,
    answer_text,
    answers_of,
    content_key,
)

Row = Mapping[str, Any]

_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "system": "system",
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


@dataclass(frozen=True)
class Format:
    """A layout of rows that is recognised without configuration."""

    name: str
    columns: frozenset[str]
    example: str
    recognises: Callable[[Row], bool]
    convert: Callable[[Row, Source], Record]
    optional: frozenset[str] = frozenset()


@dataclass
class Converted:
    """Records of one file, the rows left out, the format's name, and columns that were present but not read."""

    records: list[Record]
    unusable: UnusableRows
    format: str
    unread_columns: list[str]


# --- content -------------------------------------------------------------------------------------------------------


def _messages(value: Any) -> tuple[Message, ...]:
    """A message list in the OpenAI style (role, content) or in ShareGPT's (from, value)."""
    items = value if isinstance(value, (list, tuple)) else [value]
    messages = []
    for item in items:
        if not isinstance(item, Mapping):
            raise Unfit("not-a-message", repr(item)[:60])
        role, text = item.get("role", item.get("from")), item.get("content", item.get("value"))
        if not isinstance(role, str) or role not in _ROLES:
            raise Unfit("unknown-role", repr(role)[:60])
        if not isinstance(text, str):
            raise Unfit("not-text", f"content of a {role} message is {type(text).__name__}")
        messages.append(Message(_ROLES[role], text))
    return tuple(messages)


def _is_messages(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and isinstance(value[0], Mapping)


def _content(value: Any, column: str) -> Content:
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple, Mapping)):
        return _messages(value)
    raise Unfit("not-text", f"{column} is {type(value).__name__}")


def _answer_messages(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    if len(messages) != 1 or messages[0].role != "assistant":
        raise Unfit("answer-not-one-assistant-turn", " ".join(message.role for message in messages) or "no message")
    return messages


def _check_prompt(prompt: tuple[Message, ...]) -> tuple[Message, ...]:
    if not prompt:
        raise Unfit("no-prompt")
    if prompt[-1].role == "assistant":
        raise Unfit("prompt-ends-with-assistant")
    return prompt


def _side(row: Row, column: str, prompt: Content) -> Content:
    """An answer in the prompt's own kind: plain text to plain text, a message to messages."""
    value = row[column]
    if isinstance(prompt, str):
        if isinstance(value, str):
            return value
        raise Unfit("not-text", f"{column} is {type(value).__name__} and the prompt is text")
    if isinstance(value, str):
        return (Message("assistant", value),)
    return _answer_messages(_messages(value))


def _common_start(left: tuple[Message, ...], right: tuple[Message, ...]) -> int:
    length = 0
    while length < min(len(left), len(right)) and left[length] == right[length]:
        length += 1
    return length


def _split_conversations(
    chosen: tuple[Message, ...], rejected: tuple[Message, ...]
) -> tuple[Content, Content, Content]:
    """The prompt is what the two conversations share, cut before the last assistant turn; never inside a message."""
    for messages in (chosen, rejected):
        if not messages or messages[-1].role != "assistant":
            raise Unfit("answer-not-one-assistant-turn", "the conversation does not end with the assistant")
    if chosen[:-1] != rejected[:-1]:
        shared = _common_start(chosen, rejected)
        raise Unfit("prompts-differ", f"the conversations part at message {shared + 1}")
    return _check_prompt(chosen[:-1]), chosen[-1:], rejected[-1:]


# --- conversions ---------------------------------------------------------------------------------------------------


def _pair_with_prompt(row: Row, source: Source) -> Pair:
    prompt = row["prompt"]
    if isinstance(prompt, str) and _is_messages(row["chosen"]) and len(row["chosen"]) > 1:
        return _pair_implicit(row, source)
    content = _content(prompt, "prompt")
    if isinstance(content, str) and _is_messages(row["chosen"]):
        content = (Message("user", content),)
    if isinstance(content, tuple):
        _check_prompt(content)
    return Pair(content, _side(row, "chosen", content), _side(row, "rejected", content), source)


def _pair_implicit(row: Row, source: Source) -> Pair:
    return Pair(*_split_conversations(_messages(row["chosen"]), _messages(row["rejected"])), source)


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


def _pair_hh(row: Row, source: Source) -> Pair:
    return Pair(*_split_conversations(hh_messages(row["chosen"]), hh_messages(row["rejected"])), source)


def _system(row: Row) -> tuple[Message, ...]:
    system = row.get("system")
    return (Message("system", system),) if isinstance(system, str) and system else ()


def _pair_sharegpt(row: Row, source: Source) -> Pair:
    prompt = _check_prompt(_system(row) + _messages(row["conversations"]))
    return Pair(prompt, _side(row, "chosen", prompt), _side(row, "rejected", prompt), source)


def label_value(value: Any, source: Source) -> bool:
    """A thumb: true or false, or 1 or 0 (also as CSV text). Anything else is an error that shows the value."""
    known = {True: True, False: False, "true": True, "false": False, "1": True, "0": False}
    key = value.strip().lower() if isinstance(value, str) else value
    if isinstance(key, (bool, int, str)) and key in known:
        return known[key]
    raise DataError(
        f"{source}: label is {value!r} ({type(value).__name__}); a label must be true (desirable) or false "
        "(undesirable), or 1 or 0. Convert the column first"
    )


def _completion(row: Row, source: Source) -> Demonstration:
    content = _content(row["prompt"], "prompt")
    if isinstance(content, str) and _is_messages(row["completion"]):
        content = (Message("user", content),)
    if isinstance(content, tuple):
        _check_prompt(content)
    return Demonstration(content, _side(row, "completion", content), source)


def _last_turn(row: Row, source: Source) -> Demonstration:
    messages = _system(row) + _messages(row["messages" if "messages" in row else "conversations"])
    return Demonstration(_check_prompt(messages[:-1]), _answer_messages(messages[-1:]), source)


def _instruction(row: Row, source: Source) -> Demonstration:
    task, more, answer = (row.get(name) or "" for name in ("instruction", "input", "output"))
    for name, value in (("instruction", task), ("input", more), ("output", answer)):
        if not isinstance(value, str):
            raise Unfit("not-text", f"{name} is {type(value).__name__}")
    if not task.strip():
        raise Unfit("no-prompt")
    asked = Message("user", f"{task}\n{more}" if more else task)
    return Demonstration((*_system(row), asked), (Message("assistant", answer),), source)


def _labelled(read: Callable[[Row, Source], Demonstration]) -> Callable[[Row, Source], Labelled]:
    """The same layout with a column `label`."""

    def convert(row: Row, source: Source) -> Labelled:
        label = label_value(row["label"], source)
        found = read(row, source)
        return Labelled(found.prompt, found.answer, label, source)

    return convert


def _token_ids(row: Row, column: str) -> TokenIds:
    value = row[column]
    if not isinstance(value, (list, tuple)) or not all(isinstance(token, int) for token in value):
        raise Unfit("not-token-ids", f"{column} is not a list of whole numbers")
    return TokenIds(tuple(value))


def _ref_logps(row: Row) -> tuple[float, float] | None:
    chosen, rejected = row.get("ref_chosen_logps"), row.get("ref_rejected_logps")
    if chosen is None and rejected is None:
        return None
    for value in (chosen, rejected):
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not isfinite(value):
            raise Unfit("ref-logps-not-two-numbers", f"{chosen!r} and {rejected!r}")
    return float(chosen), float(rejected)  # type: ignore[arg-type]


def _pair_tokenized(row: Row, source: Source) -> Pair:
    prompt, chosen, rejected = (_token_ids(row, f"{name}_ids") for name in ("prompt", "chosen", "rejected"))
    return Pair(prompt, chosen, rejected, source, _ref_logps(row))


def _is_hh(row: Row) -> bool:
    return isinstance(row["chosen"], str) and bool(_HH_TURN.match(row["chosen"]))


def _has_no_judgement(row: Row) -> bool:
    """Half a pair is no demonstration: its other half is missing."""
    return not {"chosen", "rejected", "label"} & row.keys()


FORMATS = (
    Format(
        "tokenized pairs",
        frozenset({"prompt_ids", "chosen_ids", "rejected_ids"}),
        '{"prompt_ids": [1, 2], "chosen_ids": [3], "rejected_ids": [4]}, also ref_chosen_logps, ref_rejected_logps',
        lambda row: True,
        _pair_tokenized,
        frozenset({"ref_chosen_logps", "ref_rejected_logps"}),
    ),
    Format(
        "ShareGPT pairs",
        frozenset({"conversations", "chosen", "rejected"}),
        '{"conversations": [{"from": "human", "value": "..."}], "chosen": {"from": "gpt", "value": "..."}, ...}',
        lambda row: _is_messages(row["conversations"]),
        _pair_sharegpt,
        frozenset({"system"}),
    ),
    Format(
        "prompt, chosen, rejected",
        frozenset({"prompt", "chosen", "rejected"}),
        '{"prompt": "...", "chosen": "...", "rejected": "..."}, or message lists [{"role": "user", "content": "..."}]',
        lambda row: True,
        _pair_with_prompt,
    ),
    Format(
        "HH-RLHF dialogues",
        frozenset({"chosen", "rejected"}),
        '{"chosen": "\\n\\nHuman: ...\\n\\nAssistant: ...", "rejected": "..."}',
        _is_hh,
        _pair_hh,
    ),
    Format(
        "conversations with an implicit prompt",
        frozenset({"chosen", "rejected"}),
        '{"chosen": [{"role": "user", ...}, {"role": "assistant", ...}], "rejected": [...]}',
        lambda row: _is_messages(row["chosen"]),
        _pair_implicit,
    ),
    Format(
        "prompt, completion, label",
        frozenset({"prompt", "completion", "label"}),
        '{"prompt": "...", "completion": "...", "label": true}',
        lambda row: True,
        _labelled(_completion),
    ),
    Format(
        "messages, label",
        frozenset({"messages", "label"}),
        '{"messages": [{"role": "user", ...}, {"role": "assistant", ...}], "label": true}',
        lambda row: _is_messages(row["messages"]),
        _labelled(_last_turn),
        frozenset({"system"}),
    ),
    Format(
        "ShareGPT conversations, label",
        frozenset({"conversations", "label"}),
        '{"conversations": [{"from": "human", ...}, {"from": "gpt", ...}], "label": true}',
        lambda row: _is_messages(row["conversations"]),
        _labelled(_last_turn),
        frozenset({"system"}),
    ),
    Format(
        "prompt, completion",
        frozenset({"prompt", "completion"}),
        '{"prompt": "...", "completion": "..."}, answers without a judgement, for sft',
        _has_no_judgement,
        _completion,
    ),
    Format(
        "messages",
        frozenset({"messages"}),
        '{"messages": [{"role": "user", ...}, {"role": "assistant", ...}]}, for sft on the last turn',
        lambda row: _is_messages(row["messages"]) and _has_no_judgement(row),
        _last_turn,
        frozenset({"system"}),
    ),
    Format(
        "ShareGPT conversations",
        frozenset({"conversations"}),
        '{"conversations": [{"from": "human", ...}, {"from": "gpt", ...}]}, for sft on the last turn',
        lambda row: _is_messages(row["conversations"]) and _has_no_judgement(row),
        _last_turn,
        frozenset({"system"}),
    ),
    Format(
        "instruction, output",
        frozenset({"instruction", "output"}),
        '{"instruction": "...", "input": "...", "output": "..."}, for sft',
        lambda row: isinstance(row["output"], str) and _has_no_judgement(row),
        _instruction,
        frozenset({"input", "system"}),
    ),
)


def recognise(named: NamedRows) -> Format:
    """The format of these rows, from the first row. Raises `DataError` showing columns, a row and the known formats."""
    source, row = named.rows[0]
    for layout in FORMATS:
        if layout.columns <= row.keys() and layout.recognises(row):
            return layout
    known = "\n".join(f"  {layout.name}: {layout.example}" for layout in FORMATS)
    raise DataError(
        f"{source}: {_what_is_missing(row)}\nThe row: {_shown(row)}\nKnown formats:\n{known}\n"
        "Rename the columns, or convert the rows to one of these"
    )


def _what_is_missing(row: Row) -> str:
    columns = f"the columns are {sorted(row.keys())}"
    if {"chosen", "rejected"} <= row.keys():
        kind = "plain text" if isinstance(row["chosen"], str) else "no list of messages"
        return (
            f"{columns}, without a prompt, and chosen is {kind}: a prompt is never guessed inside a text. "
            "Add a prompt column"
        )
    incomplete = [layout for layout in FORMATS if layout.columns - row.keys()]
    nearest = min(incomplete, key=lambda layout: (len(layout.columns - row.keys()), -len(layout.columns)))
    missing = sorted(nearest.columns - row.keys())
    if 0 < len(missing) < len(nearest.columns):
        return f"{columns}; for '{nearest.name}' the column {', '.join(missing)} is missing"
    return f"{columns}: not a format known here"


def _shown(row: Row, limit: int = 300) -> str:
    cells = {key: (value if len(repr(value)) <= 60 else repr(value)[:57] + "...") for key, value in row.items()}
    text = repr(cells)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def convert(named: NamedRows) -> Converted:
    """Turn rows into records by their format. Rows that cannot be used are counted by reason; missing columns raise."""
    layout = recognise(named)
    records: list[Record] = []
    unusable = UnusableRows()
    for source, row in named.rows:
        missing = layout.columns - row.keys()
        if missing:
            raise DataError(
                f"{source}: the column {', '.join(sorted(missing))} is missing; row 1 was read as '{layout.name}', "
                f"this row has {sorted(row.keys())}"
            )
        try:
            record = layout.convert(row, source)
            check_answers(record)
            records.append(record)
        except Unfit as unfit:
            unusable.add(Unusable(source, unfit.reason, unfit.detail))
    if not records:
        raise DataError(f"{named.name}: none of the {len(named.rows)} rows can be used:\n{unusable.summary()}")
    columns = {column for _, row in named.rows for column in row}
    unread = sorted(columns - layout.columns - layout.optional)
    return Converted(records, unusable, layout.name, unread)


def check_answers(record: Record) -> None:
    """Raise `Unfit` for an empty answer, a pair whose two answers are the same, or text that is no Unicode."""
    answers = answers_of(record)
    for content in (record.prompt, *answers):
        _check_unicode(content)
    for answer in answers:
        text = answer_text(answer)
        if (not answer.ids) if isinstance(answer, TokenIds) else not (text or "").strip():
            raise Unfit("empty-answer")
    if len(answers) == 2 and content_key(answers[0]) == content_key(answers[1]):
        raise Unfit("identical-answers")


def _check_unicode(content: Content) -> None:
    """JSON can escape half a surrogate pair (an emoji that was cut in two); no tokenizer takes that."""
    try:
        content_key(content).encode()
    except UnicodeEncodeError as error:
        raise Unfit("not-unicode", f"half a surrogate pair, {error.object[error.start]!a}") from error
