"""Token ids as readable text, token by token."""

from __future__ import annotations

from typing import Any


def token_texts(tokenizer: Any, ids: Any) -> list[str]:
    """What each token adds to the text; joined they are the text.

    A token that is only a part of a character adds nothing: the one that completes it adds the character.
    """
    ids = [int(token) for token in ids]
    texts: list[str] = []
    begin = done = 0  # the text before is decoded again, since a token may read otherwise at the beginning
    for end in range(1, len(ids) + 1):
        before, whole = tokenizer.decode(ids[begin:done]), tokenizer.decode(ids[begin:end])
        if whole.endswith("\ufffd") and end < len(ids):
            texts.append("")
            continue
        texts.append(whole[len(before) :])
        begin, done = done, end
    return texts
