"""Rows that say outright what they are: pairs, labelled answers and demonstrations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import isfinite
from typing import Any, TypeAlias

from likelier.data.formats.beside import joined, settled
from likelier.data.formats.codings import Reading, key_of
from likelier.data.formats.messages import (
    Row,
    Unfit,
    answer_to,
    check_prompt,
    hh_messages,
    is_conversation,
    is_hh,
    read_messages,
    read_token_ids,
    split_conversation,
    split_conversations,
    with_system,
)
from likelier.data.records import Demonstration, Labelled, Message, Pair, Record, Source, Unusable

Conversion: TypeAlias = "Callable[[Row, Source, Reading], Iterable[Record | Unusable]]"


def one(read: Callable[[Row, Source, Reading], Record]) -> Conversion:
    """A conversion that gives one record a row."""
    return lambda row, source, reading: (read(row, source, reading),)


def pair_with_prompt(row: Row, source: Source, reading: Reading) -> Pair:
    """prompt, chosen, rejected: as text, or as messages; these may be whole conversations."""
    answers = [row["chosen"], row["rejected"]]
    if isinstance(row["prompt"], str) and is_conversation(answers[0]):
        chosen, rejected = joined(row, answers, source, reading.columns)
        return Pair(*split_conversations(chosen, rejected), source)
    content, answers = settled(row, answers, source, reading.columns)
    chosen, rejected = map(answer_to, (content, content), answers, ("chosen", "rejected"))
    return Pair(content, chosen, rejected, source)


def pair_implicit(row: Row, source: Source, reading: Reading) -> Pair:
    """chosen, rejected: two conversations that begin alike."""
    chosen, rejected = (with_system(row, read_messages(row[name])) for name in ("chosen", "rejected"))
    return Pair(*split_conversations(chosen, rejected), source)


def pair_hh(row: Row, source: Source, reading: Reading) -> Pair:
    """chosen, rejected: two HH-RLHF dialogue strings."""
    chosen, rejected = (with_system(row, hh_messages(row[name])) for name in ("chosen", "rejected"))
    return Pair(*split_conversations(chosen, rejected), source)


def pair_sharegpt(row: Row, source: Source, reading: Reading) -> Pair:
    """conversations, chosen, rejected, system: as ShareGPT and LLaMA-Factory have them."""
    prompt = check_prompt(with_system(row, read_messages(row["conversations"])))
    chosen, rejected = (answer_to(prompt, row[name], name) for name in ("chosen", "rejected"))
    return Pair(prompt, chosen, rejected, source)


def any_pair(row: Row, source: Source, reading: Reading) -> Pair:
    """chosen, rejected, with a prompt or with one that both share."""
    if "prompt" in row:
        return pair_with_prompt(row, source, reading)
    read = pair_hh if is_hh(row["chosen"]) else pair_implicit
    return read(row, source, reading)


def pair_tokenized(row: Row, source: Source, reading: Reading) -> Pair:
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


def completion(row: Row, source: Source, reading: Reading) -> Demonstration:
    """prompt, completion."""
    content, (answer,) = settled(row, [row["completion"]], source, reading.columns)
    return Demonstration(content, answer_to(content, answer, "completion"), source)


def last_turn(row: Row, source: Source, reading: Reading) -> Demonstration:
    """messages or conversations, system: the answer is what the assistant (and its tools) said at the end."""
    messages = with_system(row, read_messages(row["messages" if "messages" in row else "conversations"]))
    return Demonstration(*split_conversation(messages), source)


def instruction(row: Row, source: Source, reading: Reading) -> Demonstration:
    """instruction, input, output, system: as Alpaca has them."""
    task, more, answer = (row.get(name) or "" for name in ("instruction", "input", "output"))
    for name, value in (("instruction", task), ("input", more), ("output", answer)):
        if not isinstance(value, str):
            raise Unfit("not-text", f"{name} is {type(value).__name__}")
    if not task.strip():
        raise Unfit("no-prompt")
    asked = Message("user", f"{task}\n{more}" if more else task)
    return Demonstration(with_system(row, (asked,)), (Message("assistant", answer),), source)


def labelled(read: Callable[[Row, Source, Reading], Demonstration]) -> Conversion:
    """The same layout with a column `label`."""

    def convert(row: Row, source: Source, reading: Reading) -> Iterable[Record]:
        found = read(row, source, reading)
        return (Labelled(found.prompt, found.answer, _coded(row, source, reading), source),)

    return convert


def labelled_turns(row: Row, source: Source, reading: Reading) -> Iterable[Record | Unusable]:
    """A conversation with a label for its last answer, or a list of them: one for each message or each of the
    assistant's, of which every labelled one becomes an answer to all before it.
    """
    if not isinstance(row["label"], (list, tuple)):
        yield from labelled(last_turn)(row, source, reading)
        return
    messages = read_messages(row["messages" if "messages" in row else "conversations"])
    found = False
    for place, label in _labels_by_turn(messages, row["label"]):
        if key_of(label) is None:
            continue
        found = True
        try:
            prompt, answer = split_conversation(with_system(row, messages[: place + 1]))
            yield Labelled(prompt, answer, _coded({"label": label}, source, reading), source)
        except Unfit as unfit:
            yield Unusable(source, unfit.reason, f"message {place + 1}: {unfit.detail or unfit.reason}")
    if not found:
        raise Unfit("no-label", "no message has one")


def _labels_by_turn(messages: Sequence[Message], labels: Sequence[Any]) -> list[tuple[int, Any]]:
    """(place of a message, its label)"""
    own = [place for place, one in enumerate(messages) if one.role == "assistant"]
    places = range(len(messages)) if len(labels) == len(messages) else own
    if len(labels) != len(places):
        raise Unfit("labels-not-one-a-turn", f"{len(labels)} for {len(messages)} messages, {len(own)} the assistant's")
    return list(zip(places, labels, strict=True))


def _coded(row: Row, source: Source, reading: Reading) -> bool:
    assert reading.coding is not None
    label = reading.coding.read(row["label"], source, "label")
    if label is None or label == 0.5:
        raise Unfit("no-label", "" if label is None else f"{row['label']!r} is neither good nor bad")
    return label == 1.0
