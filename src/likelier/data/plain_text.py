"""Plain text as token ids: no special token doubled, and an end of the turn behind every answer, exactly once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from likelier.data.ends import Ends

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# A text that a template wrote; plain text; with an answer behind it that lacks an end, or that spells one.
TextKind: TypeAlias = Literal["templated", "plain", "open", "ended"]


def kind_of_answer(prompt: str, answer: str, ends: Ends) -> TextKind:
    """Of plain text whether its answer spells an end already, white space behind it or not."""
    whole = prompt + answer
    spelled = ends.spelled_in(whole) and (bool(answer.strip()) or not whole[-1:].isspace())
    return "ended" if spelled else "open"


def encode(tokenizer: PreTrainedTokenizerBase, kind: TextKind, texts: Sequence[str], ends: Ends) -> list[list[int]]:
    """The ids of texts of one kind."""
    if not texts:
        return []
    if kind == "templated":
        return _ids(tokenizer, texts, special=False)
    if kind == "plain" or ends.appended is None:
        return _encode_plain(tokenizer, texts)
    if kind == "open":
        return _with_end(tokenizer, texts, ends.appended, ends)
    return [
        ids if ends.is_last(ids) else _with_end(tokenizer, [text], ends.appended, ends)[0]
        for text, ids in zip(texts, _encode_plain(tokenizer, texts), strict=True)
    ]


def plain_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The ids of a plain prompt."""
    return _encode_plain(tokenizer, [text])[0]


def _with_end(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], end: int, ends: Ends) -> list[list[int]]:
    """The end is put behind the text, where a tokenizer may join it with what stands before; and behind the ids where
    it does not read such a token in a text.
    """
    found = _encode_plain(tokenizer, [text + ends.name(end) for text in texts])
    return [
        ids if ids[-1:] == [end] else [*_encode_plain(tokenizer, [text])[0], end]
        for text, ids in zip(texts, found, strict=True)
    ]


def _encode_plain(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Plain text with no special token doubled: a BOS that the text has itself, an EOS that the tokenizer appends.

    (A tokenizer that appends EOS would also end the prompt with one, and double ours behind the answer.)
    """
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    appends = eos is not None and _ids(tokenizer, ["a"], special=True)[0][-1:] == [eos]
    found = []
    for ids in _ids(tokenizer, texts, special=True):
        ids = ids[1:] if bos is not None and ids[:2] == [bos, bos] else ids
        found.append(ids[:-1] if appends and len(ids) > 1 else ids)
    return found


def _ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, special: bool) -> list[list[int]]:
    encoded: Any = tokenizer(list(texts), add_special_tokens=special, return_attention_mask=False)
    return encoded["input_ids"]
