"""`load_preferences`: from what a user names to records, with every row accounted for."""

from __future__ import annotations

import random
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from likelier.data.columns import Columns, columns_of
from likelier.data.formats import Converted, convert
from likelier.data.names import Named, distinct_names, short_name
from likelier.data.options import DataSet
from likelier.data.record_views import Records, as_records
from likelier.data.records import Demonstration, Pair, Record, RecordKind, UnusableRows
from likelier.data.sources import NamedRows, stream_rows
from likelier.data.split import split_by_prompt
from likelier.data.views import as_view, by_numbers, joined
from likelier.data.votes import merge_votes as merged_votes
from likelier.utils.console import say
from likelier.utils.errors import ConfigError, DataError
from likelier.utils.shell import for_one_of_several
from likelier.utils.terminal import counting

Source: TypeAlias = "str | Path | DataSet | Sequence[str | Path | DataSet] | Iterable[Mapping[str, Any]]"


@dataclass
class PreferenceData:
    """Training and held-out records, and an account of every row that is in neither.

    `examples` say in words what the first row of each file prefers, where that follows from values and not from names.
    """

    train: Sequence[Record]
    test: Sequence[Record]
    unusable: UnusableRows = field(default_factory=UnusableRows)
    format: str = ""
    notes: list[str] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)

    @property
    def kind(self) -> RecordKind:
        """What the training records are: `labels` also where some are pairs, `answers` where any has no judgement."""
        kinds = {type(record) for record in self.train}
        if Demonstration in kinds:
            return "answers"
        return "pairs" if kinds <= {Pair} else "labels"

    def __str__(self) -> str:
        held = f", {len(self.test)} held out" if self.test else ""
        notes = "".join(f"\n  {note}" for note in self.notes)
        return f"{len(self.train)} {self.kind} ({self.format}){held}{self.unusable.in_words()}{notes}"


def load_preferences(
    source: Source,
    *,
    eval_data: Source | None = None,
    eval_fraction: float | None = None,
    seed: int = 42,
    columns: Columns | Mapping[str, Any] | None = None,
    merge_votes: bool = False,
) -> PreferenceData:
    """Load preferences from a JSON, JSON lines, CSV, Parquet or Excel file, a `datasets` folder, a hub id or a list of
    rows; or from several of these, as `DataSet`s with names and weights.

    The format is recognised from the columns (`formats.FORMATS`); `columns` says what the columns of other files are,
    for each data set that has no `columns` of its own. `eval_data` names held-out rows; `eval_fraction` holds out that
    share of the prompts instead; with neither, nothing is held out. `merge_votes` makes one row with votes of those
    that judge the same answers to the same prompt (`data.votes`). Rows that cannot be used stand in `unusable` with
    file and line. Raises `DataError` for files that cannot be read or rows of no known format.
    """
    sets, held_sets, shared = sides(source, eval_data, eval_fraction, columns)
    maps = ChatMaps()
    found = _read(sets, source, shared, merge_votes, maps)
    train, test = found.train, found.test
    if eval_data is not None:
        weighted = next((one for one in held_sets or [] if one.weight != 1), None)
        if weighted:
            raise ConfigError(f"{weighted.path}: a weight has no effect on evaluation data; drop it")
        held = _read(held_sets, eval_data, shared, merge_votes, maps)
        if held.kind != found.kind:
            raise DataError(f"the training data are {found.kind} and the eval data {held.kind}; use one kind")
        test = held.train
        found.unusable.extend(held.unusable)
        found.examples.extend(f"held out, {example}" for example in held.examples)
    elif eval_fraction is not None:
        train, test = split_by_prompt(train, eval_fraction, seed)
    maps.check()
    train = _weighted(train, sets or [], seed, found.notes)
    data = replace(found, train=train, test=test)
    for example in data.examples:
        say(f"data: {example}")
    say(f"data: {data}")  # every row is accounted for before anything is done with them
    return data


def sides(
    source: Source,
    eval_data: Source | None,
    eval_fraction: float | None,
    columns: Columns | Mapping[str, Any] | None,
) -> tuple[list[DataSet] | None, list[DataSet] | None, Columns | None]:
    """The named data sets of training and of evaluation (None for rows in memory), and the map for those without one.

    Raises `ConfigError` for two ways to hold out, two sets of one name, or a map that nothing needs.
    """
    if eval_data is not None and eval_fraction is not None:
        raise ConfigError("eval data and an eval fraction were both given; keep one of them")
    shared = columns_of(columns)
    sets, held_sets = _data_sets(source), None if eval_data is None else _data_sets(eval_data)
    every = [*(sets or [None]), *([] if eval_data is None else held_sets or [None])]
    if shared is not None and all(one is not None and one.columns is not None for one in every):
        raise ConfigError("columns has no effect: every data set has columns of its own; drop it")
    return sets, held_sets, shared


def _data_sets(source: Source) -> list[DataSet] | None:
    """The data sets, each under a name of its own, or None for rows in memory. Raises `ConfigError` for two of one
    name.
    """
    if isinstance(source, (str, Path, DataSet)):
        source = [source]
    if not isinstance(source, Sequence) or not source or not isinstance(source[0], (str, Path, DataSet)):
        return None
    sets = [one if isinstance(one, DataSet) else DataSet(str(one)) for one in source]  # type: ignore[arg-type]
    sets = _told_apart(sets)
    twice = [name for name, count in Counter(one.name for one in sets).items() if count > 1]
    if twice:
        raise ConfigError(f"two data sets are called {twice[0]!r}; give each a name of its own")
    return sets


def _told_apart(sets: list[DataSet]) -> list[DataSet]:
    """With longer names for those that got theirs from their paths and are called like another."""
    own = [one for one in sets if one.name == short_name(one.path)]
    given = {one.name for one in sets if one.name != short_name(one.path)}
    names = distinct_names([Named(one.path, one.subset or one.split) for one in own], given)
    longer = {id(one): name for one, name in zip(own, names, strict=True)}
    return [replace(one, name=longer.get(id(one), one.name)) for one in sets]


class ChatMaps:
    """Whether `chat=true` of a column map made a turn of a text in any of the files that are read by that map."""

    def __init__(self) -> None:
        self._made: dict[Columns, dict[str, bool]] = {}

    def note(self, name: str, columns: Columns | None, found: Converted) -> None:
        """A file that was read."""
        if columns is not None and columns.chat:
            self._made.setdefault(columns, {})[name] = found.made_turns

    def check(self) -> None:
        """Raise `ConfigError` for a map whose `chat=true` had no effect on any of its files."""
        for made in self._made.values():
            if not any(made.values()):
                names = ", ".join(made)
                raise ConfigError(f"columns: chat=true has no effect on {names}: no text becomes a turn; drop it")


def _read(
    sets: list[DataSet] | None, source: Source, columns: Columns | None, merge_votes: bool, maps: ChatMaps
) -> PreferenceData:
    """All records as training records, those that judge the same merged where that is asked for."""
    found = _joined(sets, source, columns, maps)
    if merge_votes:
        merged = merged_votes(found.train)
        found.unusable.extend(merged.left_out)
        found = replace(found, train=as_records(merged.records), notes=[*found.notes, merged.note])
    return replace(found, notes=[*found.notes, *_kept_for_asking(found.train)])


def _joined(sets: list[DataSet] | None, source: Source, columns: Columns | None, maps: ChatMaps) -> PreferenceData:
    """All records, those of several data sets marked with its name."""
    if sets is None:
        return _converted(stream_rows(source), "", columns, maps)  # type: ignore[arg-type]
    sets = [replace(one, columns=one.columns or columns) for one in sets]
    parts = [_converted(stream_rows(one), one.name if len(sets) > 1 else "", one.columns, maps) for one in sets]
    if len(parts) == 1:
        return parts[0]
    unusable = UnusableRows([row for part in parts for row in part.unusable])
    notes = [
        f"{one.name}: {len(part.train)} {part.kind} ({part.format})"
        + (f", weight {one.weight:g}" if one.weight != 1 else "")
        for one, part in zip(sets, parts, strict=True)
    ]
    notes += [f"{one.name}: {note}" for one, part in zip(sets, parts, strict=True) for note in part.notes]
    records = as_view(joined(*(part.train for part in parts)))
    examples = [f"{one.name}, {example}" for one, part in zip(sets, parts, strict=True) for example in part.examples]
    return PreferenceData(records, [], unusable, f"{len(sets)} data sets", notes, examples)


def _converted(rows: NamedRows, name: str, columns: Columns | None, maps: ChatMaps) -> PreferenceData:
    with for_one_of_several() if name else nullcontext():
        found = convert(replace(rows, rows=watched(rows)), columns, collect=lambda all_of_it: _named(all_of_it, name))
    maps.note(rows.name, columns, found)
    notes = [*found.notes]
    if found.unread_columns:
        notes.append(f"columns not used: {', '.join(found.unread_columns)}")
    examples = [found.example] if found.example else []
    return PreferenceData(found.records, [], found.unusable, found.format, notes, examples)


def _named(records: Iterator[Record], data_set: str) -> Records:
    """Records as they come, each with the name of its data set where there are several."""
    if not data_set:
        return as_records(records)
    return as_records(replace(record, source=replace(record.source, data_set=data_set)) for record in records)


_SHOWN_FROM = 5_000


def watched(rows: NamedRows) -> Iterator[Any]:
    """The rows, counted on the terminal."""
    with counting(f"reading {rows.name}", None) as report:
        for number, row in enumerate(rows.rows, 1):
            if number % _SHOWN_FROM == 0:
                report(_SHOWN_FROM)
            yield row


_ASKED_BY = {
    "votes": "--use-votes",
    "weights": "--use-weights",
    "margins": "--use-margins",
    "scores": "--use-weights, --use-margins, --min-score-gap",
}


def _kept_for_asking(records: Iterable[Record]) -> list[str]:
    """What the records hold that nothing reads unless it is asked for."""
    held = dict.fromkeys(("votes", "weights", "margins", "scores"), False)
    undecided = 0
    for record in records:
        held["weights"] |= record.weight != 1
        if isinstance(record, Pair):
            undecided += not record.is_decided
            held["votes"] |= bool(record.rejected_share)
            held["margins"] |= record.margin is not None
            held["scores"] |= record.scores is not None
    names = [f"{name} ({_ASKED_BY[name]})" for name, found in held.items() if found]
    notes = [f"kept for who asks: {', '.join(names)}"] if names else []
    if undecided:
        notes.append(f"{undecided} pairs are undecided (ties): only --use-votes soft trains on them")
    return notes


def _weighted(records: Sequence[Record], sets: Sequence[DataSet], seed: int, notes: list[str]) -> Sequence[Record]:
    """Each data set's rows as often as its weight says; the share of a row that is left is drawn by `seed`."""
    if all(one.weight == 1 for one in sets):
        return records
    weights = {(one.name if len(sets) > 1 else ""): one.weight for one in sets}
    of_set: dict[str, array[int]] = {name: array("q") for name in weights}
    for number, record in enumerate(records):
        of_set[record.source.data_set].append(number)
    found: list[int] = []
    for name, weight in weights.items():
        own, whole = of_set[name].tolist(), int(weight)
        more = set(random.Random(f"{seed} {name}").sample(range(len(own)), round((weight - whole) * len(own))))
        taken = own * whole + [one for number, one in enumerate(own) if number in more]
        if not taken:
            raise ConfigError(f"{name or sets[0].path}: weight={weight} of its {len(own)} rows is none; raise it")
        notes.append(f"{name or sets[0].name}: {len(taken)} rows an epoch from {len(own)}")
        found += taken
    return by_numbers(records, found)
