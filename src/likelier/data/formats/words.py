"""What a row says, in words: which answer it prefers, or whether its answer is good."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from likelier.data.columns import Columns
from likelier.data.formats.codings import Coding, Reading, key_of
from likelier.data.formats.layouts import Format
from likelier.data.formats.meanings import sides_of
from likelier.data.formats.messages import Row, as_list
from likelier.data.records import Content, Labelled, Pair, Record, Source, TokenIds, answer_text

_LONGEST = 60  # characters of a text that are shown
_LOOKED_AT = 100_000  # characters of a text that are looked at


def in_words(row: Row, record: Record, layout: Format, reading: Reading) -> str:
    """What a row says as it was understood: which answer is preferred, or whether the answer is good."""
    if not isinstance(record, Pair):
        return answers_in_words(record)
    if "answers" in row:
        names = ranked_names(row, record)
    elif layout.coded is None or reading.coding is None:
        names = _column(reading.columns.chosen or "chosen"), _column(reading.columns.rejected or "rejected")
    else:
        first, second = called(layout, reading.columns)
        names = (first, second) if share_of(as_list(row["winner"]), reading.coding) >= 0.5 else (second, first)  # type: ignore[operator]
    return f"{place(record.source)}: {verdict(record, 1 - record.rejected_share, names)}"


def answers_in_words(record: Record) -> str:
    """What a record prefers or judges, its answers without names; empty where it judges nothing."""
    if isinstance(record, Pair):
        said = verdict(record, 1 - record.rejected_share, ("", ""))
    elif isinstance(record, Labelled):
        said = verdict(record, float(record.desirable), ("", ""))
    else:
        return ""
    return f"{place(record.source)}: {said}"


def place(source: Source) -> str:
    """Where a row stands, without its file: `line 1`."""
    return f"{source.unit} {source.number}"


def called(layout: Format, columns: Columns) -> tuple[str, str]:
    """The two answers that a coded value compares, by their columns."""
    first, second = sides_of(layout.coded or "winner", columns)
    return _column(first), _column(second)


def _column(name: str) -> str:
    return f"`{name}`"


def share_of(values: list[Any], coding: Coding) -> float | None:
    """The mean of coded values, None where all are missing or without a meaning."""
    keys = [key for one in values if (key := key_of(one)) is not None]
    shares = [share for key in keys if (share := coding.meaning(key)) is not None]
    return sum(shares) / len(shares) if shares else None


def verdict(record: Record, share: float | None, names: tuple[str, str]) -> str:
    """What a share says: of the first answer (the chosen one of the record) against the other, or of a single one."""
    if not isinstance(record, Pair):
        said = {None: "has no label", 1.0: "is good", 0.0: "is bad"}.get(share, "is neither good nor bad, and left out")
        return f"the answer {said}: {quoted(record.answer)}"
    texts = both_quoted(record)
    if share is None:
        return "says nothing"
    if share == 0.5:
        return f"neither is preferred: {with_name(names[0], texts[0])} and {with_name(names[1], texts[1])}"
    (better, worse), name = (texts, names[0]) if share > 0.5 else (texts[::-1], names[1])
    certain = max(share, 1 - share)
    start = f"{name} is preferred: {better} over" if name else f"{better} is preferred to"
    return f"{start} {worse}" + (f" (by a share of {certain:.4g})" if certain < 1 else "")


def with_name(name: str, text: str) -> str:
    """A text behind what it is called, if it is called anything."""
    return f"{name} {text}" if name else text


def ranked_names(row: Row, record: Pair) -> tuple[str, str]:
    """`answer 2` for each side, found by its text; nothing where that is not found once."""
    texts = [_one_line(_text(value)) for value in as_list(row["answers"])]
    sides = [_one_line(answer_text(side) or "") for side in (record.chosen, record.rejected)]
    if any(texts.count(side) != 1 for side in sides):
        return "", ""
    return f"answer {texts.index(sides[0]) + 1}", f"answer {texts.index(sides[1]) + 1}"


def _text(value: Any) -> str:
    """The text of an answer as rows hold it."""
    if isinstance(value, (list, tuple)) and value:
        value = value[-1]
    if isinstance(value, Mapping):
        value = value.get("content", value.get("value", value.get("text")))
    return value if isinstance(value, str) else ""


def both_quoted(pair: Pair) -> tuple[str, str]:
    """The two answers, shortened; from where they part if they begin alike."""
    texts = [_shown(pair.chosen), _shown(pair.rejected)]
    parted = (at for at, (left, right) in enumerate(zip(*texts, strict=False)) if left != right)
    alike = next(parted, min(map(len, texts)))
    if alike >= _LONGEST - 3:
        texts = ["..." + text[max(0, alike - 10) :] for text in texts]
    return _shortened(texts[0]), _shortened(texts[1])


def quoted(content: Content) -> str:
    """An answer, shortened."""
    return _shortened(_shown(content))


def shown(text: str) -> str:
    """A text on one line, in quotation marks, shortened."""
    return _shortened(_one_line(text))


def _shown(content: Content) -> str:
    if isinstance(content, TokenIds):
        return f"{len(content.ids)} tokens {list(content.ids)}"
    text = answer_text(content) or ""
    return _one_line(text or (content[-1].tool_calls if isinstance(content, tuple) and content else ""))


def _one_line(text: str) -> str:
    return " ".join(text[:_LOOKED_AT].split())


def _shortened(text: str) -> str:
    return f'"{text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."}"'
