"""Apply the mend of a finding: the file again, without the rows that it names."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from likelier.data.audit.catalogue import CATALOGUE, entry_of
from likelier.data.audit.findings import Audit
from likelier.data.records import Record, Source
from likelier.utils.errors import ConfigError, DataError, nearest
from likelier.utils.files import write_output


def check_names(names: Sequence[str]) -> None:
    """Raises `ConfigError` for a finding that is unknown, or that no row can be blamed for."""
    droppable = sorted(name for name, entry in CATALOGUE.items() if entry.droppable)
    for name in names:
        if name not in CATALOGUE:
            close = nearest(name, droppable)
            raise ConfigError(f"--drop {name}: no such finding{close}; known: {', '.join(droppable)}")
        if not entry_of(name).droppable:
            raise ConfigError(f"--drop {name}: no single row is to blame for it. {entry_of(name).mend}")


def rows_to_drop(audit: Audit, records: Sequence[Record], names: Iterable[str]) -> set[Source]:
    """The rows that the named findings would take out, by their places in the files, whatever their data sets are
    called.

    Raises `DataError` where a row gave several records and only some of them are to go.
    """
    findings = [finding for name in names if (finding := audit.finding(name)) is not None]
    dropped = {number for finding in findings for number in finding.records}
    per_row = Counter(record.source for record in records)
    gone = Counter(records[number].source for number in dropped)
    for source, count in gone.items():
        if count < per_row[source]:
            raise DataError(
                f"{source}: the row holds {per_row[source]} pairs, of which {count} would have to go; make a row of "
                "each pair first, with likelier convert, and audit that file"
            )
    named = {*gone, *(source for finding in findings for source in finding.sources)}
    return {replace(source, data_set="") for source in named}


def write_clean(rows: Iterable[tuple[Source, Mapping[str, Any]]], dropped: set[Source], output: str) -> int:
    """Write the rows that are kept as JSON lines, each as it was read; gives their number.

    Raises `ConfigError` if the file cannot be written, or nothing would be left.
    """
    kept = [row for source, row in rows if source not in dropped]
    if not kept:
        raise ConfigError("every row would be dropped; nothing was written")
    lines = "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in kept)
    write_output(output, lines.encode("utf-8", "surrogatepass"))
    return len(kept)
