"""Texts as sets of hashed word pairs, for all of a block of texts at once.

A word is a run of letters and digits in lower case; signs of scripts that put no space between words (Chinese,
Japanese, Thai, ...) are words of their own. Each word is hashed with the word before it (the first with a mark), so
that order counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2**64
_INVERSE = pow(_BASE, -1, 2**64)
_KNOWN = 0x20000
_PIECE = (1 << 18) - 1  # characters
_WORD, _SIGN = 1, 2
_SIGNS = ((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF), (0x3400, 0x9FFF), (0xF900, 0xFAFF))


@cache
def _kinds() -> np.ndarray:
    """For each character below 0x20000 whether it is part of a word (1), a word of its own (2), or neither (0)."""
    kinds = np.array([chr(code).isalnum() or chr(code) == "_" for code in range(_KNOWN)], dtype=np.uint8)
    for low, high in _SIGNS:
        kinds[low : high + 1] *= _SIGN
    kinds[-1] = _SIGN  # stands for all beyond: rare Chinese characters
    return kinds


def word_pairs(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(hashes (n,) uint64, offsets (texts + 1,)): the word pairs of text i are hashes[offsets[i]:offsets[i + 1]]."""
    lower = [text.lower() for text in texts]
    begins = np.cumsum([0, *(len(text) + 1 for text in lower)])
    words, offsets = _joined_pieces("\n".join(lower), begins)
    del lower  # large where a text is
    before = np.empty_like(words)
    before[1:] = words[:-1]
    before[offsets[:-1][offsets[:-1] < len(words)]] = 1
    pairs = _mix_(before)
    pairs += words
    return _mix_(pairs), offsets


def _joined_pieces(text: str, begins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(hashes of the words of a text, how many words lie before each of the places `begins`): a piece at a time, since
    they take many times its size in between. The hash of a word that goes on in the next piece is put together.
    """
    hashes = [np.empty(0, np.uint64)]
    offsets = np.zeros(len(begins), np.int64)
    goes_on, latest = False, 0
    for at in range(0, len(text), _PIECE):
        codes = np.frombuffer(text[at : at + _PIECE].encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        kinds = _kinds()[np.minimum(codes, _KNOWN - 1)]
        starts, ends = _words(kinds)
        own = _hashes(codes, starts, ends)
        if goes_on and kinds[0] == _WORD:
            hashes[-1][-1:] += own[:1] * np.uint64(pow(_BASE, at - latest, 2**64))
            starts, own = starts[1:], own[1:]
        offsets += np.searchsorted(starts + at, begins)
        if len(own):
            hashes.append(own)
            latest = at + int(starts[-1])
        goes_on = kinds[-1] == _WORD
    return np.concatenate(hashes), offsets


def _words(kinds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where words start and where they end (the place behind)."""
    inside = kinds == _WORD
    before, behind = np.zeros_like(inside), np.zeros_like(inside)
    before[1:], behind[:-1] = inside[:-1], inside[1:]
    alone = kinds == _SIGN
    return np.flatnonzero(alone | inside & ~before), np.flatnonzero(alone | inside & ~behind) + 1


def _hashes(codes: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """A polynomial hash of each word, modulo 2**64, from differences of prefix sums."""
    prefix = np.zeros(len(codes) + 1, dtype=np.uint64)
    np.cumsum((codes.astype(np.uint64) + np.uint64(1)) * _powers(_BASE, len(codes)), out=prefix[1:])
    return (prefix[ends] - prefix[starts]) * _powers(_INVERSE, len(codes) + 1)[starts]


@cache
def _some_powers(base: int, size: int) -> np.ndarray:
    factors = np.full(size, base, dtype=np.uint64)
    factors[0] = 1
    return np.cumprod(factors, dtype=np.uint64)


def _powers(base: int, count: int) -> np.ndarray:
    """(count,): the powers of `base` modulo 2**64, from 0 on."""
    return _some_powers(base, 1 << max(16, (count - 1).bit_length()))[:count]


def _mix_(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finish, in place: every bit depends on every bit."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        values ^= values >> np.uint64(shift)
        values *= np.uint64(factor)
    values ^= values >> np.uint64(31)
    return values


def shingles(text: str) -> np.ndarray:
    """The set of a text's word pairs, sorted."""
    return np.unique(word_pairs([text])[0])


def common_share(left: np.ndarray, right: np.ndarray) -> float:
    """How much of two sets is common (Jaccard): their intersection over their union; 0 for two empty ones."""
    both = len(np.intersect1d(left, right, assume_unique=True))
    return both / max(1, len(left) + len(right) - both)
