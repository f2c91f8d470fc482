"""Records of a file of preferences: a few in memory, many in a mapped file, and the same to whoever reads them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, islice
from typing import TypeAlias

from likelier.data import views
from likelier.data.record_table import RecordTable, folder_of_rows
from likelier.data.records import Record
from likelier.data.views import Filed, Listed, View, as_view

Records: TypeAlias = View[Record]


def as_records(records: Iterable[Record]) -> Records:
    """The same as a view; of an iterator those beyond the first few are put into a file as they come."""
    if isinstance(records, Sequence):
        return as_view(records)
    stream = iter(records)
    first = list(islice(stream, views.IN_MEMORY + 1))
    folder = folder_of_rows() if len(first) > views.IN_MEMORY else None
    return Listed([*first, *stream]) if folder is None else Filed(RecordTable.written(chain(first, stream), folder))
