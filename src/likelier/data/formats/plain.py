"""Rows that say outright what they are: pairs, labelled answers and demonstrations."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import isfinite
from typing import Any, TypeAlias

from likelier.data.formats.codings import Reading
from likelier.data.formats.content import (
    Row,
    Unfit,
    answer_to,
    check_prompt,
    hh_messages,
    is_assistant,
    is_hh,
    is_messages,
    prompt_of,
    read_messages,
    read_token_ids,
    split_conversation,
    split_conversations,
    system_turn,
)
from likelier.records import Demonstration, Labelled, Message, Pair, Record, Source, Unusable

Conversion: TypeAlias = "Callable[[Row, Source, Reading], Iterable[Record | Unusable]]"


def one(read: Callable[[Row, Source], Record]) -> Conversion:
    """A conversion that gives one record a row."""
    return lambda row, source, reading: (read(row, source),)


def pair_with_prompt(row: Row, source: Source) -> Pair:
    """prompt, chosen, rejected: as text, or as messages."""
    prompt = row["prompt"]
    if isinstance(prompt, str) and _are_conversations(row["chosen"]):
        return pair_implicit(row, source)
    content = prompt_of(row, row["chosen"])
    chosen, rejected = (answer_to(content, row[name], name) for name in ("chosen", "rejected"))
    return Pair(content, chosen, rejected, source)


def _are_conversations(value: Any) -> bool:
    """Whether an answer brings its prompt with it; one that the assistant begins does not."""
    return is_messages(value) and len(value) > 1 and not is_assistant(value[0].get("role", value[0].get("from")))


def pair_implicit(row: Row, source: Source) -> Pair:
    """chosen, rejected: two conversations that begin alike."""
    return Pair(*split_conversations(read_messages(row["chosen"]), read_messages(row["rejected"])), source)


def pair_hh(row: Row, source: Source) -> Pair:
    """chosen, rejected: two HH-RLHF dialogue strings."""
    return Pair(*split_conversations(hh_messages(row["chosen"]), hh_messages(row["rejected"])), source)


def pair_sharegpt(row: Row, source: Source) -> Pair:
    """conversations, chosen, rejected, system: as ShareGPT and LLaMA-Factory have them."""
    prompt = check_prompt(system_turn(row) + read_messages(row["conversations"]))
    chosen, rejected = (answer_to(prompt, row[name], name) for name in ("chosen", "rejected"))
    return Pair(prompt, chosen, rejected, source)


def any_pair(row: Row, source: Source) -> Pair:
    """chosen, rejected, with a prompt or with one that both share."""
    if "prompt" in row:
        return pair_with_prompt(row, source)
    return pair_hh(row, source) if is_hh(row["chosen"]) else pair_implicit(row, source)


def pair_tokenized(row: Row, source: Source) -> Pair:
    """prompt_ids, chosen_ids, rejected_ids, and what the reference gives them."""
    prompt, chosen, rejected = (read_token_ids(row, f"{name}_ids") for name in ("prompt", "chosen", "rejected"))
    return Pair(prompt, chosen, rejected, source, _ref_logps(row))


def _ref_logps(row: Row) -> tuple[float, float] | None:
    chosen, rejected = row.get("ref_chosen_logps"), row.get("ref_rejected_logps")
    if chosen is None and rejected is None:
        return None
    for value in (chosen, rejected):
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not isfinite(value):
            raise Unfit("ref-logps-not-two-numbers", f"{chosen!r} and {rejected!r}")
    return float(chosen), float(rejected)  # type: ignore[arg-type]


def completion(row: Row, source: Source) -> Demonstration:
    """prompt, completion."""
    content = prompt_of(row, row["completion"])
    return Demonstration(content, answer_to(content, row["completion"], "completion"), source)


def last_turn(row: Row, source: Source) -> Demonstration:
    """messages or conversations, system: the answer is what the assistant (and its tools) said at the end."""
    messages = system_turn(row) + read_messages(row["messages" if "messages" in row else "conversations"])
    return Demonstration(*split_conversation(messages), source)


def instruction(row: Row, source: Source) -> Demonstration:
    """instruction, input, output, system: as Alpaca has them."""
    task, more, answer = (row.get(name) or "" for name in ("instruction", "input", "output"))
    for name, value in (("instruction", task), ("input", more), ("output", answer)):
        if not isinstance(value, str):
            raise Unfit("not-text", f"{name} is {type(value).__name__}")
    if not task.strip():
        raise Unfit("no-prompt")
    asked = Message("user", f"{task}\n{more}" if more else task)
    return Demonstration((*system_turn(row), asked), (Message("assistant", answer),), source)


def labelled(read: Callable[[Row, Source], Demonstration]) -> Conversion:
    """The same layout with a column `label`."""

    def convert(row: Row, source: Source, reading: Reading) -> Iterable[Record]:
        found = read(row, source)
        return (Labelled(found.prompt, found.answer, _coded(row, source, reading), source),)

    return convert


def _coded(row: Row, source: Source, reading: Reading) -> bool:
    assert reading.coding is not None
    label = reading.coding.read(row["label"], source, "label")
    if label is None or label == 0.5:
        raise Unfit("no-label", "" if label is None else f"{row['label']!r} is neither good nor bad")
    return label == 1.0
