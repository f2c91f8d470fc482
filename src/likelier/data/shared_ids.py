"""Token ids in memory, for several runs on the same records in one process.

Within `sharing_ids()` nothing is tokenized twice by one tokenizer and template: a record is known by its content, and
so is each answer of a pair under its prompt, which serves methods that take pairs as well as those that take labels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from likelier.data.masks import each_mask, together
from likelier.data.options import ChatOptions
from likelier.data.records import Record, answers_of, content_key
from likelier.data.token_cache import RecordIds, tokenizer_digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Tokenize: TypeAlias = "Callable[[Sequence[Record]], Iterable[RecordIds]]"


class KnownIds:
    """The ids of records under one tokenizer and template."""

    def __init__(self) -> None:
        self._ids: dict[bytes, RecordIds] = {}

    def of(self, records: Sequence[Record], tokenize: Tokenize) -> list[RecordIds]:
        """The ids of the records; those that are not known yet are tokenized, each once."""
        keys = [_keys(record) for record in records]
        missing = {own: record for own, record in zip(keys, records, strict=True) if self._find(own) is None}
        for own, ids in zip(missing, tokenize(list(missing.values())) if missing else (), strict=True):
            self._add(own, ids)
        found = (self._find(own) for own in keys)
        return [ids for ids in found if ids is not None]

    def _find(self, keys: tuple[bytes, ...]) -> RecordIds | None:
        whole = self._ids.get(b"".join(keys))
        if whole is not None or len(keys) == 1:
            return whole
        parts = [part for key in keys if (part := self._ids.get(key)) is not None and not part.merged]
        if len(parts) < len(keys) or not all(np.array_equal(part.prompt, parts[0].prompt) for part in parts):
            return None
        masks = together(each_mask(part.masks, 1)[0] for part in parts)
        return RecordIds(parts[0].prompt, tuple(part.answers[0] for part in parts), merged=False, masks=masks)

    def _add(self, keys: tuple[bytes, ...], ids: RecordIds) -> None:
        """Where a token merges across the boundary, it moved for all answers of the record: they are known together."""
        if ids.merged or ids.unfit:
            self._ids[b"".join(keys)] = ids
            return
        for key, answer, mask in zip(keys, ids.answers, each_mask(ids.masks, len(keys)), strict=True):
            self._ids.setdefault(key, RecordIds(ids.prompt, (answer,), merged=False, masks=together((mask,))))


def _keys(record: Record) -> tuple[bytes, ...]:
    """A key for each answer under its prompt."""
    prompt = f"{content_key(record.prompt)}\x02{record.tools}\x02"
    texts = (prompt + content_key(answer) for answer in answers_of(record))
    return tuple(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest() for text in texts)


_SHARED: ContextVar[dict[bytes, KnownIds] | None] = ContextVar("shared_ids", default=None)


@contextmanager
def sharing_ids() -> Iterator[None]:
    """Within it, what was tokenized once is found again."""
    token = _SHARED.set({})
    try:
        yield
    finally:
        _SHARED.reset(token)


def ids_in_common(
    records: Sequence[Record], tokenizer: PreTrainedTokenizerBase, chat: ChatOptions, tokenize: Tokenize
) -> Iterable[RecordIds]:
    """The ids of the records: within `sharing_ids` those that are known, and `tokenize` for the rest."""
    shared = _SHARED.get()
    digest = None if shared is None else tokenizer_digest(tokenizer, chat)
    if shared is None or digest is None:
        return tokenize(records)
    return shared.setdefault(digest.digest(), KnownIds()).of(records, tokenize)
