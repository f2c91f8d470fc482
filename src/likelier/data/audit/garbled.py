"""Text that a program garbled on the way: HTML entities, UTF-8 that was read as another encoding, lost characters."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from likelier.data.audit.findings import Finding
from likelier.data.audit.material import Material
from likelier.data.records import Content, TokenIds, answers_of

_MOST_SHOWN = 4  # of the marks, by how many rows they are in
_ENTITY = re.compile(r"&(?:amp|lt|gt|quot|apos|nbsp|#\d{2,6}|#x[0-9a-fA-F]{2,5});")
# What follows the first byte of a character in UTF-8, as Latin-1 and Windows-1252 show it
_REST = "[\u0080-\u00bf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]"
_MISREAD = re.compile(f"[ÂÃ]{_REST}|[âã]{_REST}{{2}}|ð{_REST}{{2,3}}|\ufffd")


def garbled_text(material: Material) -> list[Finding]:
    """Rows with such text in a prompt or an answer, and what stands there most often."""
    marks: Counter[str] = Counter()
    rows = []
    for number, record in enumerate(material.records):
        found = {
            mark for part in (record.prompt, *answers_of(record)) for text in _texts(part) for mark in _marks(text)
        }
        marks.update(found)
        if found:
            rows.append(number)
    told = ", ".join(f"{mark} in {count:,}" for mark, count in marks.most_common(_MOST_SHOWN))
    more = f": {told} rows" if told else ""
    return material.finding("garbled-text", rows, "rows with garbled text", more=more, details={"marks": dict(marks)})


def _texts(content: Content) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif not isinstance(content, TokenIds):
        yield from (message.content for message in content)


def _marks(text: str) -> Iterator[str]:
    if "&" in text:
        yield from _ENTITY.findall(text)
    if not text.isascii():
        yield from _MISREAD.findall(text)
