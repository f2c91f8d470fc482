"""What is known of a file while its rows pass by: those left out, and the columns that were read and of use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from likelier.data.formats.annotations import ignored_extras
from likelier.data.formats.codings import Reading
from likelier.data.formats.mapping import first_answer
from likelier.data.formats.messages import Row, Unfit
from likelier.data.formats.recognised import Recognised
from likelier.data.formats.words import in_words
from likelier.data.records import Content, Record, Source, Unusable, UnusableRows
from likelier.utils.errors import DataError


def holds_nothing(row: Row) -> bool:
    """Whether a row has no value at all."""
    return all(value is None or (isinstance(value, str) and not value) for value in row.values())


class Account:
    """What is known of a file while its rows pass by."""

    def __init__(self, found: Recognised) -> None:
        self.found, self.rows = found, 0
        self.columns: set[str] = set()
        self.unusable = UnusableRows()
        self.example: str | None = None
        self.ranked_by = ""
        self.talks = False  # whether texts became conversations since there is a column `system`
        self.judged: set[str] = set()  # ranks, scores: what rankings were made by
        self.kept: Counter[str] = Counter()  # rows in which a column said something of use
        self.ignored: Counter[str] = Counter()  # and of none
        self.prompts: dict[type[Content], Source] = {}  # the first of each kind

    def mapped(self, rows: Iterable[tuple[Source, Row]]) -> Iterator[tuple[Source, Row]]:
        """The rows under the layout's column names. One that misses a column raises `DataError`, unless it is empty."""
        layout, mapping = self.found.layout, self.found.map
        for source, row in rows:
            self.rows += 1
            self.columns.update(row)
            try:
                named = mapping.row(row, source)
            except Unfit as unfit:
                self.unusable.append(Unusable(source, unfit.reason, unfit.detail))
                continue
            except DataError:
                if not holds_nothing(row):
                    raise
                named = {}
            missing = layout.columns - named.keys()
            if missing and holds_nothing(row):
                self.unusable.append(Unusable(source, "blank-row"))
                continue
            if missing:
                raise DataError(
                    f"{source}: the column {', '.join(sorted(missing))} is missing; row 1 was read as "
                    f"'{self.found.name}', this row has {sorted(row.keys())}. Add it, or take the row out"
                )
            yield source, named

    def first(self, row: Row, record: Record, reading: Reading) -> None:
        """Note in words what the first row says, unless its columns are named for what they mean."""
        if self.example is not None:
            return
        if "answers" in row and reading.coding is None:
            self.ranked_by = "ranks" if row.get("ranks") is not None else "scores"
        told = reading.coding is not None or self.ranked_by or self.found.preset is not None
        self.example = in_words(row, record, self.found.layout, reading) if told else ""

    def note(self, row: Row, record: Record) -> None:
        """Note what was made of a row."""
        self.prompts.setdefault(type(record.prompt), record.source)
        self.judged |= {"ranks", "scores"} & row.keys()
        self.ignored.update(ignored_extras(row, record, self.found.layout.read))
        if "system" in row and self.found.map.columns.system is None and isinstance(record.prompt, tuple):
            self.talks |= isinstance(row.get("prompt"), str) and isinstance(first_answer(row), str)
        self.kept["tools"] += bool(record.tools) and isinstance(record.prompt, tuple)
        self.kept["votes"] += isinstance(row.get("votes"), (list, tuple))

    def mixture(self) -> str:
        """Why some prompts are text and some messages, where that follows from how cells were read; else empty."""
        places = " and ".join(map(str, self.prompts.values()))
        if len(self.prompts) < 2:
            return ""
        if self.found.map.spelled is not None:
            return f"some cells spell messages and others are plain text ({places})"
        half_system = "system" in self.columns & self.found.layout.read and not self.found.map.has_system
        return f"some rows have a system prompt and others no column for it ({places})" if half_system else ""

    def unread(self) -> list[str]:
        """Columns that nothing read."""
        read = self.found.layout.read | self.found.map.used
        read -= {name for name in self.ignored if not self.kept[name]}
        read -= {"system"} if self.found.map.without_system else set()
        if self.found.layout.expand is not None:
            read -= {name for name in ("rank", "score") if f"{name}s" not in self.judged}
        for pair in (("score_chosen", "score_rejected"), ("score_first", "score_second")):
            if not set(pair) <= self.columns | self.found.map.columns.roles.keys():
                read -= set(pair)  # half a pair of scores says nothing
        return sorted(self.columns - read)
