"""What the checks read: the records of one file, with what is computed once for all of them."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from likelier.data.audit.facts import LABEL, PAIR, Cases, Facts, Keys, digests_of, text_of
from likelier.data.audit.findings import EXAMPLES, Finding, Severity, places, severity_of
from likelier.data.groups import Group
from likelier.data.options import ChatOptions
from likelier.data.records import Content, Pair, Record, Source, TokenIds, Unusable, answers_of, spoken_key

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
    def facts(self) -> Facts:
        """What one pass over the records finds out."""
        return Facts.of(self.records)

    @cached_property
    def pairs(self) -> array[int]:
        """Which records are pairs."""
        return _where(self.facts.kinds == PAIR)

    @cached_property
    def labels(self) -> array[int]:
        """Which records are labelled answers."""
        return _where(self.facts.kinds == LABEL)

    @property
    def set_aside(self) -> list[Pair]:
        """Pairs that were read but cannot be trained on (an empty answer); their votes tell of the annotators."""
        return [row.record for row in self.unusable if isinstance(row.record, Pair)]

    @property
    def keys(self) -> Keys:
        """Each record as content numbers: the prompt's, then its answers'."""
        return self.facts.keys

    def keys_of(self, record: Record) -> tuple[int, ...]:
        """The same of a record that is none of these; contents that these have not get numbers of their own."""
        return tuple(map(self._number_of, digests_of(record)))

    def _number_of(self, digest: bytes) -> int:
        distinct, number, _ = self.facts.contents
        wanted = np.array([digest], dtype=distinct.dtype)
        place = int(np.searchsorted(distinct, wanted)[0])
        if (distinct[place : place + 1] == wanted).any():
            return int(number[place])
        return self._others.setdefault(digest, len(distinct) + len(self._others))

    @cached_property
    def _others(self) -> dict[bytes, int]:
        return {}

    @cached_property
    def decided(self) -> array[int]:
        """Which records are pairs that a majority decided (a pair without votes is)."""
        return _where(self.facts.decided)

    @cached_property
    def pair_cases(self) -> Cases:
        """Each distinct (prompt, unordered answers): records that prefer the one, and records that prefer the other."""
        numbers = np.asarray(self.decided, dtype=np.int64)
        prompts, chosen, rejected = self.keys.numbers[numbers].T
        both = np.stack([prompts, np.minimum(chosen, rejected), np.maximum(chosen, rejected)], axis=1)
        return Cases(numbers, both, chosen > rejected)

    @cached_property
    def label_cases(self) -> Cases:
        """Each distinct (prompt, answer): records with a thumb up, and records with a thumb down."""
        numbers = np.asarray(self.labels, dtype=np.int64)
        return Cases(numbers, self.keys.numbers[numbers, :2], ~self.desirable)

    @property
    def prompts(self) -> np.ndarray:
        """(records,): each record's prompt number."""
        return self.keys.numbers[:, 0]

    @property
    def lengths(self) -> np.ndarray:
        """(records, 3): characters of the prompt and of up to two answers, -1 where there is no second one."""
        return self.facts.lengths

    @cached_property
    def desirable(self) -> np.ndarray:
        """(labels,) bool: the thumbs of the labelled records."""
        return self.facts.desirable[np.asarray(self.labels, dtype=np.int64)]

    @cached_property
    def rows(self) -> int:
        """Distinct rows of the file."""
        others = np.array([hash(row.source) for row in self.unusable], dtype=np.int64)
        return len(np.union1d(self.facts.rows, others))

    @cached_property
    def usable(self) -> int:
        """Distinct rows that at least one record came from."""
        return len(np.unique(self.facts.rows))

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


def _where(mask: np.ndarray) -> array[int]:
    """The numbers of the records of a mask."""
    return array("q", np.flatnonzero(mask).astype(np.int64).tobytes())


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
