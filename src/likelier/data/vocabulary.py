"""Whether a model has a row of its embedding for every token that its tokenizer writes.

A tokenizer may hold more tokens than its model (Gemma 3 1B knows a mark for pictures that its weights lack): only what
is written matters. An embedding with more rows than tokens is usual.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from likelier.data.options import ChatOptions
from likelier.utils.console import say
from likelier.utils.errors import ModelError

_MEND = (
    "resize the model to its tokenizer, train and save it first (model.resize_token_embeddings(len(tokenizer))), or "
    "take the tokenizer that belongs to the model"
)
_ASKED, _SYSTEM, _TOLD = ({"role": role, "content": "a"} for role in ("user", "system", "assistant"))
_TALKS = ([_ASKED, _TOLD], [_SYSTEM, _ASKED, _TOLD, _ASKED])


def embedding_rows(causal: Any) -> int:
    """How many tokens a model knows: ids from 0 to one less."""
    return int(causal.get_input_embeddings().weight.shape[0])


def require_rows(tokenizer: Any, rows: int, name: str, chat: ChatOptions | None = None, *, mend: str = _MEND) -> None:
    """Raises `ModelError` where the model has no row for what every text needs: the end of sequence, what the tokenizer
    puts around texts, what the chat template writes. A padding token without a row is replaced. The number of rows is
    kept with the tokenizer (see `without_row`).
    """
    tokenizer._likelier_rows = rows
    if len(tokenizer) <= rows:
        return
    beyond = sorted(token for token in _always_written(tokenizer, chat or ChatOptions()) if token >= rows)
    if beyond:
        raise ModelError(
            f"{name}: the tokenizer writes {tokens_in_words(tokenizer, beyond)}, and the model's embedding has {rows} "
            f"rows (ids 0 to {rows - 1}); {mend}"
        )
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id >= rows:
        other = tokenizer.eos_token if tokenizer.eos_token is not None else tokenizer.convert_ids_to_tokens(0)
        say(f"{name}: the padding token {tokenizer.pad_token!r} has no row in the embedding; {other!r} pads instead")
        tokenizer.pad_token = other


def _always_written(tokenizer: Any, chat: ChatOptions) -> set[int]:
    found = set(tokenizer("a")["input_ids"])
    if tokenizer.eos_token_id is not None:
        found.add(tokenizer.eos_token_id)
    for text in _rendered(tokenizer, chat):
        found |= set(tokenizer(text, add_special_tokens=False)["input_ids"])
    return found


def _rendered(tokenizer: Any, chat: ChatOptions) -> Iterator[str]:
    if not tokenizer.chat_template:
        return
    for talk in _TALKS:
        with suppress(Exception):  # a template refuses roles in its own words, and is told of where it is used
            text = tokenizer.apply_chat_template(
                talk,
                tokenize=False,
                add_generation_prompt=talk[-1] is _ASKED,
                **(chat.chat_template_kwargs or {}),
            )
            text.encode()  # half a character is no text for a tokenizer
            yield text


def require_rows_for(ids: Iterable[int], rows: int, place: str, tokenizer: Any = None) -> None:
    """Raises `ModelError` for token ids of a text that the model has no row for: texts can spell any token."""
    beyond = sorted({int(token) for token in ids if token >= rows})
    if beyond:
        raise ModelError(
            f"{place} holds {tokens_in_words(tokenizer, beyond)}, and the model's embedding has {rows} rows (ids 0 to "
            f"{rows - 1}); take it out of the text, or {_MEND}"
        )


def without_row(ids: Iterable[int], tokenizer: Any) -> set[int]:
    """Those of the ids that the tokenizer's model has no row for, as far as its rows are known (see `require_rows`)."""
    rows = getattr(tokenizer, "_likelier_rows", None)
    return set() if rows is None or len(tokenizer) <= rows else {int(token) for token in ids if token >= rows}


def tokens_in_words(tokenizer: Any, ids: Iterable[int]) -> str:
    """The first few tokens with their ids."""
    several = list(ids)
    named = [
        f"the token id {token}" if tokenizer is None else f"{tokenizer.convert_ids_to_tokens(token)!r} (id {token})"
        for token in several[:3]
    ]
    return ", ".join(named) + (f" and {len(several) - 3} more" if len(several) > 3 else "")
