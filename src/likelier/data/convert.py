"""Records as canonical JSON lines, under the column names that TRL and others read; labels as pairs, pairs as labels.

A file that is written here and read again gives the same records.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from math import isfinite
from pathlib import Path
from typing import Any

from likelier.data.load import load_preferences
from likelier.data.options import DataSet
from likelier.data.records import (
    Content,
    Demonstration,
    Labelled,
    Pair,
    Record,
    RecordKind,
    TokenIds,
    Unusable,
    UnusableRows,
    spoken_key,
    to_demonstrations,
    to_labels,
)
from likelier.data.rendering import as_dict
from likelier.data.split import prompt_key
from likelier.utils.console import say, warn
from likelier.utils.errors import ConfigError, DataError, writing
from likelier.utils.files import local
from likelier.utils.outputs import check_output


def convert_file(
    source: DataSet | Sequence[DataSet],
    output: str | Path,
    *,
    to: RecordKind | None = None,
    keep_undecided: bool = False,
    merge_votes: bool = False,
    overwrite: bool = False,
) -> str:
    """Write `source` (several one behind the other) as canonical JSON lines: as what it is, or as pairs, labels or
    answers. Returns a summary.

    Raises `ConfigError` for an output that cannot be written, `DataError` for rows that cannot become what is asked.
    """
    path = local(output)
    if path.suffix not in (".jsonl", ".ndjson"):
        raise ConfigError(f"{output}: JSON lines are written; give a name that ends in .jsonl")
    sources = [source] if isinstance(source, DataSet) else source
    check_output(output, inputs=[one.path for one in sources], overwrite=overwrite)
    data = load_preferences(sources, merge_votes=merge_votes)
    records, left_out = converted(data.train, to or data.kind, keep_undecided=keep_undecided)
    if not records:
        names = ", ".join(one.path for one in sources)
        raise DataError(f"{names}: no row is left to write:\n{_left_out(left_out, to or data.kind)}")
    write_records(records, path)
    said = f"{len(records)} {_WORDS[type(records[0])]} written to {output}"
    return said + (f"; {len(left_out)} left out:\n{_left_out(left_out, to or data.kind)}" if left_out else "")


_WORDS = {Pair: "pairs", Labelled: "labelled answers", Demonstration: "answers"}


def _left_out(rows: list[Unusable], to: RecordKind) -> str:
    """What was left out and why, and how ties stay where they can."""
    said = UnusableRows(rows).summary()
    if to == "pairs" and any(row.reason == "undecided-pair" for row in rows):
        said += "\nTies are pairs for --use-votes soft, which trains on them: --keep-undecided writes them too."
    return said


# --- from one kind to another --------------------------------------------------------------------------------------


def converted(
    records: Sequence[Record], to: RecordKind, *, keep_undecided: bool = False
) -> tuple[Sequence[Record], list[Unusable]]:
    """The records as pairs, labels or answers, and what had to be left out."""
    undecided = [record for record in records if isinstance(record, Pair) and not record.is_decided]
    if keep_undecided and (to != "pairs" or not undecided):
        raise ConfigError("keep_undecided has no effect: no undecided pair would be written; drop it")
    left_out: list[Unusable] = []
    if undecided and not keep_undecided:
        left_out = [Unusable(pair.source, "undecided-pair") for pair in undecided]
        records = [record for record in records if not isinstance(record, Pair) or record.is_decided]
    if to == "pairs":
        pairs, alone = to_pairs(records)
        return pairs, left_out + alone
    _say_what_is_lost(records, to)
    if to == "answers":
        return to_demonstrations(records), left_out
    unfit = next((record for record in records if isinstance(record, Demonstration)), None)
    if unfit is not None:
        raise DataError(f"{unfit.source}: an answer without a judgement is no label; convert to answers instead")
    return to_labels(records), left_out


def _say_what_is_lost(records: Sequence[Record], to: RecordKind) -> None:
    pairs = [record for record in records if isinstance(record, Pair)]
    names = ("votes", "flip_chance", "margin", "scores", "ref_logps")
    lost = [name for name in names if any(getattr(pair, name) is not None for pair in pairs)]
    if lost:
        say(f"{to} have no {', '.join(lost)}: left behind")


def to_pairs(records: Iterable[Record]) -> tuple[list[Pair], list[Unusable]]:
    """Labelled answers as pairs: under each prompt the first good answer with the first bad one, and so on.

    Where one kind has more answers, those of the other come again, so that every answer is in a pair. An answer whose
    prompt has none of the other kind is left out. Pairs stay as they are.
    """
    pairs: list[Pair] = []
    by_prompt: dict[tuple[bytes, str], tuple[list[Labelled], list[Labelled]]] = {}
    for record in records:
        if isinstance(record, Pair):
            pairs.append(record)
        elif isinstance(record, Labelled):
            sides = by_prompt.setdefault((prompt_key(record), record.tools), ([], []))
            sides[0 if record.desirable else 1].append(record)
        else:
            raise DataError(f"{record.source}: an answer without a judgement cannot become a pair; add a label")
    left_out: list[Unusable] = []
    for good, bad in by_prompt.values():
        if good and bad:
            _pair_up(good, bad, pairs, left_out)
        else:
            left_out += [Unusable(row.source, "no-answer-of-the-other-label") for row in (*good, *bad)]
    return pairs, left_out


def _pair_up(good: list[Labelled], bad: list[Labelled], pairs: list[Pair], left_out: list[Unusable]) -> None:
    count = max(len(good), len(bad))
    for up, down in zip(islice(cycle(good), count), islice(cycle(bad), count), strict=True):
        if spoken_key(up.answer) == spoken_key(down.answer):
            left_out.append(Unusable(up.source, "identical-answers", f"good here, bad in {down.source}"))
        else:
            weight = (up.weight + down.weight) / 2
            pairs.append(Pair(up.prompt, up.answer, down.answer, up.source, weight=weight, tools=up.tools))


# --- JSON lines ----------------------------------------------------------------------------------------------------


def write_records(records: Sequence[Record], path: Path) -> None:
    """Write records of one kind as JSON lines, whole or not at all. Raises `ConfigError` if that cannot be done."""
    extras = [extra for extra in _EXTRAS if extra.is_used(records)]
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    _warn_about_mixture(records)
    try:
        with writing(path):
            temporary.unlink(missing_ok=True)  # of a process that was killed; or a link that somebody put there
            with open(temporary, "x", encoding="utf-8") as stream:
                for row in _rows(records, extras):
                    stream.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _warn_about_mixture(records: Sequence[Record]) -> None:
    kinds: dict[type, Record] = {}
    for record in records:
        kinds.setdefault(type(record.prompt), record)
    if len(kinds) > 1:
        places = " and ".join(str(record.source) for record in kinds.values())
        warn(f"some prompts are text and some are messages or token ids ({places}); other tools want one kind")


@dataclass(frozen=True)
class _Extra:
    """Columns beside prompt and answers, written for every row where any row has something to say."""

    names: tuple[str, ...]
    values: Callable[[Any], tuple[Any, ...]]
    silent: tuple[Any, ...]

    def is_used(self, records: Sequence[Record]) -> bool:
        """Whether to write them. A column with what is no number says nothing to others and is left out, aloud."""
        used = False
        for record in records:
            values = self.values(record)
            if any(isinstance(value, float) and not isfinite(value) for value in values):
                say(f"{', '.join(self.names)}: left out, since {record.source} has no number there")
                return False
            used = used or values != self.silent
        return used


def _of(name: str) -> Callable[[Any], tuple[Any, ...]]:
    return lambda record: (getattr(record, name, None),)


_EXTRAS = (
    _Extra(("votes",), lambda record: (getattr(record, "votes", None) and list(record.votes),), (None,)),
    _Extra(("flip_chance",), _of("flip_chance"), (None,)),
    _Extra(("weight",), _of("weight"), (1.0,)),
    _Extra(("margin",), _of("margin"), (None,)),
    _Extra(
        ("score_chosen", "score_rejected"), lambda record: getattr(record, "scores", None) or (None, None), (None, None)
    ),
    _Extra(
        ("ref_chosen_logps", "ref_rejected_logps"),
        lambda record: getattr(record, "ref_logps", None) or (None, None),
        (None, None),
    ),
    _Extra(("tools",), lambda record: (record.tools or None,), (None,)),
)


def _rows(records: Iterable[Record], extras: Sequence[_Extra]) -> Iterator[Mapping[str, Any]]:
    for record in records:
        row = _row(record)
        for extra in extras:
            row |= zip(extra.names, extra.values(record), strict=True)
        yield row


def _row(record: Record) -> dict[str, Any]:
    if isinstance(record, Pair):
        named: dict[str, Content] = {"prompt": record.prompt, "chosen": record.chosen, "rejected": record.rejected}
        if isinstance(record.prompt, TokenIds):
            return {f"{name}_ids": _json(content, record) for name, content in named.items()}
        return {name: _json(content, record) for name, content in named.items()}
    if isinstance(record.prompt, TokenIds):
        raise DataError(f"{record.source}: single answers of token ids have no layout; give text, or convert to pairs")
    row = {"prompt": _json(record.prompt, record), "completion": _json(record.answer, record)}
    return row | {"label": record.desirable} if isinstance(record, Labelled) else row


def _json(content: Content, record: Record) -> Any:
    if isinstance(content, TokenIds):
        return list(content.ids)
    return content if isinstance(content, str) else [as_dict(message, record.source) for message in content]
