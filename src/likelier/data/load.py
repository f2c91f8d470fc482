"""`load_preferences`: from what a user names to records, with every row accounted for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from likelier.console import say
from likelier.data.formats import convert
from likelier.data.sources import read_rows
from likelier.data.split import split_by_prompt
from likelier.errors import ConfigError, DataError
from likelier.records import Labelled, Pair, Record, UnusableRows

Source = str | Path | Iterable[Mapping[str, Any]]


@dataclass
class PreferenceData:
    """Training and held-out records, and an account of every row that is in neither."""

    train: list[Record]
    test: list[Record]
    unusable: UnusableRows = field(default_factory=UnusableRows)
    format: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def kind(self) -> Literal["pairs", "labels"]:
        """What the training records are."""
        return "pairs" if isinstance(self.train[0], Pair) else "labels"

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
    """Load preferences from a JSON, JSON lines, CSV or Parquet file, a `datasets` folder, a hub id or a list of rows.

    The format is recognised from the columns (`formats.FORMATS`). `eval_data` names held-out rows; `eval_fraction`
    holds out that share of the prompts instead; with neither, nothing is held out. Rows that cannot be used stand in
    `unusable` with file and line. Raises `DataError` for files that cannot be read or rows of no known format.
    """
    if eval_data is not None and eval_fraction is not None:
        raise ConfigError("eval data and an eval fraction were both given; keep one of them")
    found = convert(read_rows(source))
    notes = []
    if found.unread_columns:
        notes.append(f"columns not used: {', '.join(found.unread_columns)}")
    train, test, unusable = found.records, [], found.unusable
    if eval_data is not None:
        held = convert(read_rows(eval_data))
        if isinstance(held.records[0], Labelled) != isinstance(train[0], Labelled):
            raise DataError(f"the training data are '{found.format}' and the eval data '{held.format}'; use one kind")
        test = held.records
        unusable.extend(held.unusable)
    elif eval_fraction is not None:
        train, test = split_by_prompt(train, eval_fraction, seed)
    data = PreferenceData(train, test, unusable, found.format, notes)
    say(f"data: {data}")  # every row is accounted for before anything is done with them
    return data
