"""Records: what a row means, whatever format it came in."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    `tool_calls` is the JSON text of the calls that an assistant makes, if any; `fields` that of all else that the
    message holds (`reasoning_content`, `tool_call_id`, `name`, ...), for the chat template to use.
    """

    role: str
    content: str
    tool_calls: str = ""
    fields: str = ""


@dataclass(frozen=True, slots=True)
class TokenIds:
    """Text that came already tokenized."""

    ids: tuple[int, ...]


Content: TypeAlias = "str | tuple[Message, ...] | TokenIds"


BLANK: Final = object()  # what a reader gives in place of a row where a line or a row of a sheet holds nothing


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class Pair:
    """One prompt and two answers, the first preferred to the second.

    `votes` counts the judgements for the chosen answer, for the rejected one, and ties; `flip_chance` is the share of
    the rejected one where the data give shares. The chosen answer never has less than the rejected one; with as much,
    the pair is undecided and only soft labels can use it. `weight`, `margin` and `scores` (chosen, rejected) are what
    the data say, NaN for what is no number; nothing reads them unless asked to. `tools` is the JSON text of the tools
    that the chat template is given; `judge` is who judged, where the data tell.
    """

    prompt: Content
    chosen: Content
    rejected: Content
    source: Source
    ref_logps: tuple[float, float] | None = None
    votes: tuple[int, int, int] | None = None
    flip_chance: float | None = None
    weight: float = 1.0
    margin: float | None = None
    scores: tuple[float, float] | None = None
    tools: str = ""
    judge: str = field(default="", compare=False)

    @property
    def rejected_share(self) -> float:
        """The share of the judgements that prefer the rejected answer, ties counted half; 0 without any account."""
        if self.flip_chance is not None:
            return self.flip_chance
        if self.votes is None:
            return 0.0
        return (self.votes[1] + self.votes[2] / 2) / sum(self.votes)

    @property
    def is_decided(self) -> bool:
        """Whether more judgements prefer the chosen answer than the rejected one."""
        return self.rejected_share < 0.5


@dataclass(frozen=True, slots=True)
class Labelled:
    """One prompt and one answer with a thumb up (`desirable`) or down."""

    prompt: Content
    answer: Content
    desirable: bool
    source: Source
    weight: float = 1.0
    tools: str = ""
    judge: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Demonstration:
    """One prompt and one answer to learn by heart, without a judgement."""

    prompt: Content
    answer: Content
    source: Source
    weight: float = 1.0
    tools: str = ""


Record: TypeAlias = "Pair | Labelled | Demonstration"
RecordKind = Literal["pairs", "labels", "answers"]


@dataclass(frozen=True, slots=True)
class Unusable:
    """A row that cannot be trained on, and why; `record` is what was read of it, where that much could be read."""

    source: Source
    reason: str
    detail: str = ""
    record: Record | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        return f"{self.source}: {self.reason}" + (f" ({self.detail})" if self.detail else "")


UNJUDGED: Final = frozenset({"no-label", "no-judgement"})  # reasons that are no fault


class UnusableRows(list[Unusable]):
    """The rows that were left out, in order of discovery: counted, named, never dropped in silence."""

    def counts(self) -> dict[str, int]:
        """How many rows were left out for each reason, the most frequent first."""
        return dict(Counter(row.reason for row in self).most_common())

    def in_words(self) -> str:
        """How many rows cannot be used, and how many hold no verdict, each with its reasons; empty without any."""
        unjudged = UnusableRows(row for row in self if row.reason in UNJUDGED)
        faulty = UnusableRows(row for row in self if row.reason not in UNJUDGED)
        parts = (("rows cannot be used", faulty), ("rows hold no verdict", unjudged))
        said = [f"{len(rows)} {what}:\n{rows.summary()}" for what, rows in parts if rows]
        return "; " + "\n".join(said) if said else ""

    def summary(self, examples: int = 5) -> str:
        """A few lines: each reason with its count and the first places."""
        lines = []
        for reason, count in self.counts().items():
            places = [str(row.source) for row in self if row.reason == reason]
            more = f" and {count - examples} more" if count > examples else ""
            lines.append(f"  {count} x {reason}: {'; '.join(places[:examples])}{more}")
        return "\n".join(lines)


def answer_text(content: Content) -> str | None:
    """The text of an answer, or None if it came as token ids."""
    if isinstance(content, TokenIds):
        return None
    return content if isinstance(content, str) else "".join(message.content for message in content)


def content_key(content: Content) -> str:
    """A text by which equal contents are recognised: all that can decide the tokens."""
    return _key(content, lambda message: message.fields)


def spoken_key(content: Content) -> str:
    """A text by which contents are recognised that say the same to the model: of a message's `fields`, only those that
    templates usually print count, so that numbers or dates of messages do not make two prompts of one.
    """
    return _key(content, _spoken_fields)


SPOKEN_FIELDS = frozenset({"name", "tool_call_id", "reasoning_content", "reasoning", "thinking"})


def _spoken_fields(message: Message) -> str:
    if not message.fields:
        return ""
    kept = {name: value for name, value in json.loads(message.fields).items() if name in SPOKEN_FIELDS}
    return json.dumps(kept, ensure_ascii=False) if kept else ""


def _key(content: Content, fields: Callable[[Message], str]) -> str:
    if isinstance(content, TokenIds):
        return "ids:" + ",".join(map(str, content.ids))
    if isinstance(content, str):
        return "text:" + content
    parts = ((f"{one.role}\x01{one.content}", one.tool_calls, fields(one)) for one in content)
    return "messages:" + "\x00".join(
        text + (f"\x01{calls}" if calls else "") + (f"\x02{more}" if more else "") for text, calls, more in parts
    )


def answers_of(record: Record) -> tuple[Content, ...]:
    """(chosen, rejected) of a pair, the one answer of any other row."""
    return (record.chosen, record.rejected) if isinstance(record, Pair) else (record.answer,)


def to_labels(records: Iterable[Record]) -> list[Labelled]:
    """Each pair as two labelled rows, chosen desirable, rejected not (order is the sampler's affair); an undecided pair
    gives none.
    """
    return [row for record in records for row in labels_of(record)]


def labels_of(record: Record) -> list[Labelled]:
    """The labelled rows of one record; none of an answer without a judgement."""
    if not isinstance(record, Pair):
        return [record] if isinstance(record, Labelled) else []
    sides = ((record.chosen, True), (record.rejected, False)) if record.is_decided else ()
    return [
        Labelled(record.prompt, answer, desirable, record.source, record.weight, record.tools)
        for answer, desirable in sides
    ]


def to_demonstrations(records: Iterable[Record]) -> list[Demonstration]:
    """The answers worth writing: the chosen one of a pair, a desirable one, a demonstration; undesirable ones fall, and
    undecided pairs.
    """
    return [row for record in records for row in demonstrations_of(record)]


def demonstrations_of(record: Record) -> list[Demonstration]:
    """The answer of one record, where it is worth writing."""
    wanted = record.desirable if isinstance(record, Labelled) else not isinstance(record, Pair) or record.is_decided
    answer = answers_of(record)[0]
    return [Demonstration(record.prompt, answer, record.source, record.weight, record.tools)] if wanted else []


def last_turn(prompt: Content) -> str:
    """A prompt's last turn in words: what an answer answers. Empty for token ids, which have none."""
    if isinstance(prompt, TokenIds):
        return ""
    return prompt if isinstance(prompt, str) else prompt[-1].content
