"""What the checks read: the records of one file, with what is computed once for all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, TypeAlias

import numpy as np

from likelier.data.audit.findings import EXAMPLES, Finding, Severity, places, severity_of
from likelier.data.groups import Group
from likelier.data.options import ChatOptions
from likelier.data.records import Content, Labelled, Pair, Record, Source, TokenIds, Unusable, answers_of, spoken_key

# For each case the records that say one thing and those that say the other.
Cases: TypeAlias = "dict[tuple[int, ...], tuple[list[int], list[int]]]"
_TO_SPACE = dict.fromkeys((code for code in range(0x3001) if chr(code).isspace()), " ")


class Ranker(Protocol):
    """What ranks the answers of pairs: a model, in rooms that this one does not know (`scoring.ranking`)."""

    @property
    def words(self) -> str:
        """The model, as a person would say it."""
        ...

    @property
    def tokenizer(self) -> Any:
        """The model's own."""
        ...

    def margins(self, groups: Sequence[Group]) -> np.ndarray:
        """(groups, 2): log-probability of the chosen answer minus the rejected one's, in sums and in means a token."""
        ...


@dataclass
class Material:
    """One file's records and unusable rows, and what else an audit was given.

    Contents are numbered: equal prompts and equal answers have equal numbers, so that the checks compare small tuples
    and never texts.
    """

    records: Sequence[Record]
    unusable: Sequence[Unusable] = ()
    held_out: Sequence[Record] | None = None
    tokenizer: Any = None
    max_length: int | None = None
    chat: ChatOptions = field(default_factory=ChatOptions)
    ranker: Ranker | None = None
    sample: int = 0
    show: bool = False

    @cached_property
    def pairs(self) -> list[int]:
        """Which records are pairs."""
        return [number for number, record in enumerate(self.records) if isinstance(record, Pair)]

    @cached_property
    def labels(self) -> list[int]:
        """Which records are labelled answers."""
        return [number for number, record in enumerate(self.records) if isinstance(record, Labelled)]

    @property
    def set_aside(self) -> list[Pair]:
        """Pairs that were read but cannot be trained on (an empty answer); their votes tell of the annotators."""
        return [row.record for row in self.unusable if isinstance(row.record, Pair)]

    @cached_property
    def keys(self) -> list[tuple[int, ...]]:
        """Each record as content numbers: the prompt's, then its answers'."""
        return [numbered(record, self.known) for record in self.records]

    @cached_property
    def known(self) -> dict[bytes, int]:
        """The number of each content, by its digest."""
        return {}

    @cached_property
    def decided(self) -> list[int]:
        """Which records are pairs that a majority decided (a pair without votes is)."""
        return [number for number in self.pairs if self.pair(number).is_decided]

    @cached_property
    def pair_cases(self) -> Cases:
        """Each distinct (prompt, unordered answers): records that prefer the one, and records that prefer the other."""
        cases: Cases = {}
        for number in self.decided:
            prompt, chosen, rejected = self.keys[number]
            sides = cases.setdefault((prompt, min(chosen, rejected), max(chosen, rejected)), ([], []))
            sides[chosen > rejected].append(number)
        return cases

    @cached_property
    def label_cases(self) -> Cases:
        """Each distinct (prompt, answer): records with a thumb up, and records with a thumb down."""
        cases: Cases = {}
        for number, desirable in zip(self.labels, self.desirable.tolist(), strict=True):
            cases.setdefault(self.keys[number], ([], []))[not desirable].append(number)
        return cases

    def pair(self, number: int) -> Pair:
        """A record that is a pair."""
        record = self.records[number]
        assert isinstance(record, Pair)
        return record

    @cached_property
    def prompts(self) -> np.ndarray:
        """(records,): each record's prompt number."""
        return np.fromiter((key[0] for key in self.keys), dtype=np.int64, count=len(self.keys))

    @cached_property
    def lengths(self) -> np.ndarray:
        """(records, 3): characters of the prompt and of up to two answers, -1 where there is no second one."""
        found = np.full((len(self.records), 3), -1, dtype=np.int64)
        for number, record in enumerate(self.records):
            found[number, 0] = len(text_of(record.prompt))
            for place, answer in enumerate(answers_of(record), 1):
                found[number, place] = len(text_of(answer))
        return found

    @cached_property
    def desirable(self) -> np.ndarray:
        """(labels,) bool: the thumbs of the labelled records."""
        rows = (self.records[number] for number in self.labels)
        return np.array([row.desirable for row in rows if isinstance(row, Labelled)], dtype=bool)

    @cached_property
    def rows(self) -> int:
        """Distinct rows of the file."""
        return len({*(record.source for record in self.records), *(row.source for row in self.unusable)})

    @cached_property
    def usable(self) -> int:
        """Distinct rows that at least one record came from."""
        return len({record.source for record in self.records})

    @property
    def kind(self) -> str:
        """What the records are: pairs, labels, answers without a judgement, or some of several."""
        found = [("pairs", len(self.pairs)), ("labels", len(self.labels))]
        found.append(("answers", len(self.records) - len(self.pairs) - len(self.labels)))
        return " and ".join(name for name, count in found if count) or "nothing"

    def sources(self, numbers: Iterable[int]) -> list[Source]:
        """The places of some records."""
        return [self.records[number].source for number in numbers]

    def quote(self, number: int, limit: int = 160) -> str:
        """The beginning of each part of a record, in one line; empty where text was not asked for."""
        if not self.show:
            return ""
        record = self.records[number]
        parts = (_evenly_spaced(text_of(content)) for content in (record.prompt, *answers_of(record)))
        return " | ".join(text if len(text) <= limit else text[: limit - 1] + "…" for text in parts)

    def quotes(self, numbers: Sequence[int]) -> tuple[str, ...]:
        """The first of some records, quoted."""
        return tuple(filter(None, map(self.quote, numbers[:EXAMPLES])))

    def finding(
        self,
        name: str,
        examples: Sequence[int],
        words: str,
        *,
        count: int | None = None,
        of: int | None = None,
        more: str = "",
        severity: Severity | None = None,
        related: Iterable[object] = (),
        details: Mapping[str, Any] | None = None,
        records: Sequence[int] | None = None,
    ) -> list[Finding]:
        """A finding about records, of which the first `examples` are named and quoted; none where there are none.

        `count` (by default all examples) `of` so many (by default all records) decide how bad it is and stand behind
        `words`; `records` (by default the examples) are what `--drop` takes out.
        """
        if not examples:
            return []
        count, of = len(examples) if count is None else count, of or len(self.records)
        return [
            Finding(
                name,
                count,
                severity or severity_of(name, count / of),
                f"{words}: {count:,} of {of:,}{more}",
                places(self.sources(examples)),
                places(related),
                details or {},
                self.quotes(examples),
                tuple(examples if records is None else records),
            )
        ]


def numbered(record: Record, known: dict[bytes, int]) -> tuple[int, ...]:
    """The numbers of a record's prompt (with its tools) and answers; new contents are added to `known`."""
    keys = [spoken_key(content) for content in (record.prompt, *answers_of(record))]
    keys[0] += record.tools
    digests = (hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest() for key in keys)
    return tuple(known.setdefault(digest, len(known)) for digest in digests)


def text_of(content: Content) -> str:
    """A content as plain text, messages one below the other; token ids as numbers."""
    if isinstance(content, TokenIds):
        return " ".join(map(str, content.ids))
    if isinstance(content, str):
        return content
    return "\n".join(message.content + message.tool_calls for message in content)


def _evenly_spaced(text: str) -> str:
    """With one space for all white space between words: in place of a list of words, which takes many times a text."""
    text = text.translate(_TO_SPACE).strip()
    while "  " in text:
        text = text.replace("  ", " ")
    return text


def plain_prompt(content: Content) -> str:
    """A prompt by which it is recognised in another file and layout: letter case and white space do not count."""
    if isinstance(content, TokenIds):
        return spoken_key(content)
    return _evenly_spaced(text_of(content)).casefold()


def sampled(numbers: Sequence[int], limit: int) -> list[int]:
    """At most `limit` of them, evenly spaced, so that every part of a file is seen."""
    if len(numbers) <= limit:
        return list(numbers)
    return [numbers[place * len(numbers) // limit] for place in range(limit)]
