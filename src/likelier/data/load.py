"""`load_preferences`: from what a user names to records, with every row accounted for."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from likelier.console import say
from likelier.data.formats import convert
from likelier.data.sources import read_rows
from likelier.data.split import split_by_prompt
from likelier.errors import ConfigError, DataError
from likelier.options import DataSet
from likelier.records import Demonstration, Pair, Record, UnusableRows

if TYPE_CHECKING:
    from likelier.objectives import DataKind

Source: TypeAlias = "str | Path | DataSet | Sequence[str | Path | DataSet] | Iterable[Mapping[str, Any]]"


@dataclass
class PreferenceData:
    """Training and held-out records, and an account of every row that is in neither."""

    train: list[Record]
    test: list[Record]
    unusable: UnusableRows = field(default_factory=UnusableRows)
    format: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def kind(self) -> DataKind:
        """What the training records are: `labels` also where some are pairs, `answers` where any has no judgement."""
        if any(isinstance(record, Demonstration) for record in self.train):
            return "answers"
        return "pairs" if all(isinstance(record, Pair) for record in self.train) else "labels"

    def __str__(self) -> str:
        held = f", {len(self.test)} held out" if self.test else ""
        left_out = (
            f"; {len(self.unusable)} rows cannot be used:\n{self.unusable.summary()}" if self.unusable.rows else ""
        )
        notes = "".join(f"\n  {note}" for note in self.notes)
        return f"{len(self.train)} {self.kind} ({self.format}){held}{left_out}{notes}"


def load_preferences(
    source: Source, *, eval_data: Source | None = None, eval_fraction: float | None = None, seed: int = 42
) -> PreferenceData:
    """Load preferences from a JSON, JSON lines, CSV or Parquet file, a `datasets` folder, a hub id or a list of rows;
    or from several of these, as `DataSet`s with names and weights.

    The format is recognised from the columns (`formats.FORMATS`). `eval_data` names held-out rows; `eval_fraction`
    holds out that share of the prompts instead; with neither, nothing is held out. Rows that cannot be used stand in
    `unusable` with file and line. Raises `DataError` for files that cannot be read or rows of no known format.
    """
    if eval_data is not None and eval_fraction is not None:
        raise ConfigError("eval data and an eval fraction were both given; keep one of them")
    sets = _data_sets(source)
    found = _read(sets, source)
    train, test = found.train, found.test
    if eval_data is not None:
        held_sets = _data_sets(eval_data)
        weighted = next((one for one in held_sets or [] if one.weight != 1), None)
        if weighted:
            raise ConfigError(f"{weighted.path}: a weight has no effect on evaluation data; drop it")
        held = _read(held_sets, eval_data)
        if held.kind != found.kind:
            raise DataError(f"the training data are {found.kind} and the eval data {held.kind}; use one kind")
        test = held.train
        found.unusable.extend(held.unusable)
    elif eval_fraction is not None:
        train, test = split_by_prompt(train, eval_fraction, seed)
    train = _weighted(train, sets or [], seed, found.notes)
    data = replace(found, train=train, test=test)
    say(f"data: {data}")  # every row is accounted for before anything is done with them
    return data


def _data_sets(source: Source) -> list[DataSet] | None:
    """The named data sets, or None for rows in memory. Raises `ConfigError` for two of one name."""
    if isinstance(source, (str, Path, DataSet)):
        source = [source]
    if not isinstance(source, Sequence) or not source or not isinstance(source[0], (str, Path, DataSet)):
        return None
    sets = [one if isinstance(one, DataSet) else DataSet(str(one)) for one in source]  # type: ignore[arg-type]
    twice = [name for name, count in Counter(one.name for one in sets).items() if count > 1]
    if twice:
        raise ConfigError(f"two data sets are called {twice[0]!r}; give each a name of its own")
    return sets


def _read(sets: list[DataSet] | None, source: Source) -> PreferenceData:
    """All records as training records, those of several data sets marked with its name."""
    if sets is None:
        return _converted(read_rows(source), "")  # type: ignore[arg-type]
    parts = [_converted(read_rows(one), one.name if len(sets) > 1 else "") for one in sets]
    if len(parts) == 1:
        return parts[0]
    unusable = UnusableRows([row for part in parts for row in part.unusable])
    notes = [
        f"{one.name}: {len(part.train)} {part.kind} ({part.format})"
        + (f", weight {one.weight:g}" if one.weight != 1 else "")
        for one, part in zip(sets, parts, strict=True)
    ]
    notes += [f"{one.name}: {note}" for one, part in zip(sets, parts, strict=True) for note in part.notes]
    records = [record for part in parts for record in part.train]
    return PreferenceData(records, [], unusable, f"{len(sets)} data sets", notes)


def _converted(rows: Any, name: str) -> PreferenceData:
    found = convert(rows)
    notes = [f"columns not used: {', '.join(found.unread_columns)}"] if found.unread_columns else []
    records: list[Record] = found.records
    if name:
        records = [replace(record, source=replace(record.source, data_set=name)) for record in records]
    return PreferenceData(records, [], found.unusable, found.format, notes)


def _weighted(records: list[Record], sets: Sequence[DataSet], seed: int, notes: list[str]) -> list[Record]:
    """Each data set's rows as often as its weight says; the share of a row that is left is drawn by `seed`."""
    if all(one.weight == 1 for one in sets):
        return records
    weights = {(one.name if len(sets) > 1 else ""): one.weight for one in sets}
    found: list[Record] = []
    for name, weight in weights.items():
        own = [record for record in records if record.source.data_set == name]
        whole = int(weight)
        more = set(random.Random(f"{seed} {name}").sample(range(len(own)), round((weight - whole) * len(own))))
        taken = own * whole + [record for number, record in enumerate(own) if number in more]
        if not taken:
            raise ConfigError(f"{name or sets[0].path}: weight={weight} of its {len(own)} rows is none; raise it")
        notes.append(f"{name or sets[0].name}: {len(taken)} rows an epoch from {len(own)}")
        found += taken
    return found
