"""Which script a text is written in. Not its language: what a tokenizer charges goes by script."""

from __future__ import annotations

import numpy as np

# The first character of each range, and whose it is; "" for what belongs to no script (digits, signs, spaces).
_RANGES = [
    (0x0000, ""),
    (0x0041, "Latin"),
    (0x005B, ""),
    (0x0061, "Latin"),
    (0x007B, ""),
    (0x00C0, "Latin"),
    (0x0250, ""),
    (0x0370, "Greek"),
    (0x0400, "Cyrillic"),
    (0x0530, "Armenian"),
    (0x0590, "Hebrew"),
    (0x0600, "Arabic"),
    (0x0780, ""),
    (0x0900, "Devanagari"),
    (0x0980, "other Indic"),
    (0x0E00, "Thai"),
    (0x0E80, "other"),
    (0x10A0, "Georgian"),
    (0x1100, "Korean"),
    (0x1200, "other"),
    (0x1E00, "Latin"),
    (0x1F00, "Greek"),
    (0x2000, ""),
    (0x3040, "Japanese"),
    (0x3100, "other"),
    (0x3130, "Korean"),
    (0x3190, ""),
    (0x3400, "Chinese"),
    (0xA000, "other"),
    (0xAC00, "Korean"),
    (0xD7B0, ""),
    (0xF900, "Chinese"),
    (0xFB00, ""),
    (0x20000, "Chinese"),
    (0x32000, ""),
]
_STARTS = np.array([start for start, _ in _RANGES], dtype=np.uint32)
_NAMES = sorted({name for _, name in _RANGES})
_NUMBERS = np.array([_NAMES.index(name) for _, name in _RANGES])
_LOOKED_AT = 4000


def main_script(text: str) -> str:
    """The script of most of the letters at the beginning of a text; Japanese where any of it is kana; "none" without.

    Chinese characters stand in both Chinese and Japanese texts, kana only in Japanese ones.
    """
    codes = np.frombuffer(text[:_LOOKED_AT].encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    numbers = _NUMBERS[np.searchsorted(_STARTS, codes, side="right") - 1]
    counts = np.bincount(numbers, minlength=len(_NAMES))
    counts[_NAMES.index("")] = 0
    if not counts.any():
        return "none"
    found = _NAMES[int(counts.argmax())]
    return "Japanese" if found == "Chinese" and counts[_NAMES.index("Japanese")] > 0.05 * counts.sum() else found
