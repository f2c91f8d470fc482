"""Records: what a row means, whatever format it came in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True)
class TokenIds:
    """Text that came already tokenized."""

    ids: tuple[int, ...]


Content: TypeAlias = "str | tuple[Message, ...] | TokenIds"


@dataclass(frozen=True)
class Source:
    """Where a row came from: the file (or "rows" for rows in memory) and its line or record number, from 1.

    `data_set` is the name of its data set where a run has several.
    """

    file: str
    number: int
    unit: str = "line"
    data_set: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.number}" if self.unit == "line" else f"{self.file}, {self.unit} {self.number}"


@dataclass(frozen=True)
class Pair:
    """One prompt and two answers, the first preferred to the second."""

    prompt: Content
    chosen: Content
    rejected: Content
    source: Source
    ref_logps: tuple[float, float] | None = None


@dataclass(frozen=True)
class Labelled:
    """One prompt and one answer with a thumb up (`desirable`) or down."""

    prompt: Content
    answer: Content
    desirable: bool
    source: Source


@dataclass(frozen=True)
class Demonstration:
    """One prompt and one answer to learn by heart, without a judgement."""

    prompt: Content
    answer: Content
    source: Source


Record: TypeAlias = "Pair | Labelled | Demonstration"


@dataclass(frozen=True)
class Unusable:
    """A row that cannot be trained on, and why."""

    source: Source
    reason: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.source}: {self.reason}" + (f" ({self.detail})" if self.detail else "")


@dataclass
class UnusableRows:
    """The rows that were left out, in order of discovery: counted, named, never dropped in silence."""

    rows: list[Unusable] = field(default_factory=list)

    def add(self, row: Unusable) -> None:
        """Note one more row."""
        self.rows.append(row)

    def extend(self, rows: Iterable[Unusable]) -> None:
        """Note several rows."""
        self.rows.extend(rows)

    def counts(self) -> dict[str, int]:
        """How many rows were left out for each reason, the most frequent first."""
        return dict(Counter(row.reason for row in self.rows).most_common())

    def summary(self, examples: int = 5) -> str:
        """A few lines: each reason with its count and the first places."""
        lines = []
        for reason, count in self.counts().items():
            places = [str(row.source) for row in self.rows if row.reason == reason]
            more = f" and {count - examples} more" if count > examples else ""
            lines.append(f"  {count} x {reason}: {'; '.join(places[:examples])}{more}")
        return "\n".join(lines)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Unusable]:
        return iter(self.rows)


def answer_text(content: Content) -> str | None:
    """The text of an answer, or None if it came as token ids."""
    if isinstance(content, TokenIds):
        return None
    return content if isinstance(content, str) else "".join(message.content for message in content)


def content_key(content: Content) -> str:
    """A text by which equal contents are recognised."""
    if isinstance(content, TokenIds):
        return "ids:" + ",".join(map(str, content.ids))
    if isinstance(content, str):
        return "text:" + content
    return "messages:" + "\x00".join(f"{message.role}\x01{message.content}" for message in content)


def answers_of(record: Record) -> tuple[Content, ...]:
    """(chosen, rejected) of a pair, the one answer of any other row."""
    return (record.chosen, record.rejected) if isinstance(record, Pair) else (record.answer,)


def to_labels(records: Iterable[Pair | Labelled]) -> list[Labelled]:
    """Each pair as two labelled rows, chosen desirable, rejected not (order is the sampler's affair)."""
    rows = []
    for record in records:
        if isinstance(record, Pair):
            rows.append(Labelled(record.prompt, record.chosen, True, record.source))
            rows.append(Labelled(record.prompt, record.rejected, False, record.source))
        else:
            rows.append(record)
    return rows


def to_demonstrations(records: Iterable[Record]) -> list[Demonstration]:
    """The answers worth writing: the chosen one of a pair, a desirable one, a demonstration; undesirable ones fall."""
    rows = []
    for record in records:
        if isinstance(record, Labelled) and not record.desirable:
            continue
        rows.append(Demonstration(record.prompt, answers_of(record)[0], record.source))
    return rows
