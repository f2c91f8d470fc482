"""The audit of a run's own rows, as its folder keeps it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from likelier.data.audit.checks import audit_records
from likelier.data.records import Record, Unusable

MOST = 100_000  # records; of more, so many are looked at (a minute's work is beyond this)


def run_audit(train: Sequence[Record], held_out: Sequence[Record], unusable: Iterable[Unusable]) -> dict[str, Any]:
    """Look at the rows that a run trains on, and whether its held-out prompts are among them. Of more than `MOST`
    records an evenly spaced part is looked at, and `records_looked_at` says so.
    """
    step = max(1, -(-len(train) // MOST))
    looked_at = train[::step]
    found = audit_records(looked_at, unusable, held_out=held_out or None).as_json()
    return found if step == 1 else found | {"records_looked_at": len(looked_at)}
