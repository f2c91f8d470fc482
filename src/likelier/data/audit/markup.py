"""Chat markup inside texts, as a finding."""

from __future__ import annotations

from likelier.data.audit.findings import EXAMPLES, Finding, places, severity_of
from likelier.data.audit.material import Material
from likelier.data.markup import find_markup


def chat_markup(material: Material) -> list[Finding]:
    """Rows whose texts spell what chat templates write around turns, with what the tokenizer makes of it."""
    found = find_markup(material.records, material.tokenizer)
    if not found.rows:
        return []
    rows, total = list(found.rows), len(material.records)
    finding = Finding(
        "chat-markup",
        len(rows),
        "info" if found.is_harmless else severity_of("chat-markup", len(rows) / total),
        f"rows whose texts hold chat markup: {len(rows):,} of {total:,}. {found.in_words()}",
        places(material.sources(rows)),
        details={"marks": found.counts()},
        quotes=tuple(filter(None, (material.quote(number) for number in rows[:EXAMPLES]))),
        records=tuple(rows),
    )
    return [finding]
