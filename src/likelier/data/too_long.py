"""Rows that cannot fit, known by their characters: what a tokenizer makes of a text takes a hundred times its size, so
that a single answer of 100 MB would fill a machine's memory only to be left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from likelier.data.records import Content, Record, Source, TokenIds, answers_of
from likelier.data.rendering import RowRefused
from likelier.data.token_cache import RecordIds, no_ids
from likelier.utils.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Rendered: TypeAlias = "Sequence[tuple[Any, str] | list[int]]"

LARGE = 1 << 20  # characters of a row; of smaller ones the tokens are counted
_NFC = 4  # characters that it makes one of, at most
_KEEPS = {"ByteLevel", "Digits", "Metaspace", "Punctuation", "Split"}  # pre-tokenizers that drop nothing as they are
_LENGTHS = {"NFC": _NFC, "Prepend": 1}


def surely_too_long(
    records: Sequence[Record],
    tokenizer: PreTrainedTokenizerBase,
    limit: int,
    truncation: str,
    renderings: Callable[[Record], Rendered],
) -> dict[int, RecordIds]:
    """By their numbers, the records that `truncation` leaves out for certain, since they have more than `limit` tokens.

    `renderings` gives a record's prompt and prompt + answers as a tokenizer is given them. Raises `DataError` where the
    policy is that there must be none.
    """
    large = [number for number, record in enumerate(records) if _characters(record) > LARGE]
    width = characters_a_token(tokenizer) if large else None
    found = {}
    for number in large if width else ():
        record = records[number]
        try:
            texts = [part[1] for part in renderings(record) if isinstance(part, tuple)]
        except RowRefused:  # which is told where it is tokenized
            continue
        prompt, *wholes = [len(text) for text in texts[: 1 + len(answers_of(record))]]
        least = _COUNTED.get(truncation, _COUNTED["drop"])(prompt, max(wholes)) // width
        if least > limit:
            if truncation == "error":
                raise over_limit(record.source, f"more than {least}", limit)
            found[number] = no_ids("over-max-length", f"more than {least} tokens")
    return found


# Characters that no cut takes away (a token at the end of the prompt may merge with the first one of the answer).
_COUNTED = {
    "drop": lambda prompt, whole: max(prompt, whole),
    "cut-prompt-left": lambda prompt, whole: whole - prompt,
    "cut-answer-right": lambda prompt, whole: prompt // 2,
}


def over_limit(source: Source, tokens: str, limit: int) -> DataError:
    """What is said of a row of more tokens than are allowed, where there must be none."""
    return DataError(
        f"{source}: {tokens} tokens, the limit is {limit}; raise --max-length, or choose --truncation drop, "
        "cut-prompt-left or cut-answer-right"
    )


def _characters(record: Record) -> int:
    return sum(map(_length, (record.prompt, *answers_of(record))))


def _length(content: Content) -> int:
    if isinstance(content, TokenIds):
        return 0
    if isinstance(content, str):
        return len(content)
    return sum(len(one.content) + len(one.tool_calls) + len(one.fields) for one in content)


def characters_a_token(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The most characters of a text that one token can stand for; None where any number can (white space that is
    dropped, unknown words).
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    parts = json.loads(backend.to_str())
    model, added = parts["model"], parts["added_tokens"]
    factor = _factor(parts["normalizer"])
    if model.get("type") != "BPE" or factor is None or not _keeps_all(model, parts["pre_tokenizer"]):
        return None
    if any(token["lstrip"] or token["rstrip"] for token in added):
        return None
    return factor * max(map(len, (*model["vocab"], *(token["content"] for token in added))))


def _factor(normalizer: Any) -> int | None:
    """How many characters a normalizer makes one of, None where it may drop some."""
    factor = 1
    for one in _each(normalizer, "normalizers"):
        if one["type"] == "Replace" and one["pattern"] == {"String": " "} and len(one["content"]) == 1:
            continue
        if one["type"] not in _LENGTHS:
            return None
        factor *= _LENGTHS[one["type"]]
    return factor


def _keeps_all(model: Any, pre_tokenizer: Any) -> bool:
    """Whether every character of a text goes into some token: by bytes."""
    steps = list(_each(pre_tokenizer, "pretokenizers"))
    if any(one["type"] not in _KEEPS or one.get("behavior") == "Removed" for one in steps):
        return False
    if any(one["type"] == "ByteLevel" for one in steps):
        from tokenizers.pre_tokenizers import ByteLevel

        return all(sign in model["vocab"] for sign in ByteLevel.alphabet())
    return bool(model.get("byte_fallback")) and all(f"<0x{byte:02X}>" in model["vocab"] for byte in range(256))


def _each(part: Any, inner: str) -> Iterator[Any]:
    if part is not None and part["type"] == "Sequence":
        for one in part[inner]:
            yield from _each(one, inner)
    elif part is not None:
        yield part
