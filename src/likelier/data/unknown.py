"""Answers of which a tokenizer writes a part as its token for the unknown: the model would learn to say that token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from likelier.data.masks import Mask
from likelier.data.records import Content, TokenIds

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Unknown:
    """Finds the unknown token in answers. Tokenizers that have none, or whose token for it is the one that begins or
    ends a text (those of bytes, which know everything), never write it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        token = tokenizer.unk_token_id
        self.token = None if token in (tokenizer.eos_token_id, tokenizer.bos_token_id) else token

    def lost(self, contents: Sequence[Content], answers: Sequence[np.ndarray], masks: Sequence[Mask]) -> str:
        """What of the answers is not in their trained tokens, in words; empty where all is. An answer that came as ids,
        or whose text spells the unknown token as often, says it itself.
        """
        for content, ids, mask in zip(contents, answers, masks, strict=True):
            if self.token is None or isinstance(content, TokenIds):
                continue
            text = content if isinstance(content, str) else "\n".join(one.content for one in content)
            count = int(((ids == self.token) if mask is None else (ids == self.token) & mask).sum())
            if count > text.count(str(self.tokenizer.unk_token)):
                return (
                    f"the tokenizer has no tokens for a part of the answer, {self._first(text)}, and writes "
                    f"{self.tokenizer.unk_token!r}, which the model would learn to say. Mend it, or leave the row out"
                )
        return ""

    def _first(self, text: str) -> str:
        words = (word for word in text.split() if word != self.tokenizer.unk_token)
        found = (word for word in words if self.token in self.tokenizer.encode(word, add_special_tokens=False))
        word = next(found, "")
        return repr(word[:80]) if word else "something that the chat template writes"
