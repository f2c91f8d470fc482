"""The reference: which model it is, its scores in a store on disk, and the proof that it is the right one."""

from likelier.scoring.reference.identity import Reference, base_reference, other_reference, start_reference
from likelier.scoring.reference.store import ReferenceScoring, ReferenceStore

__all__ = [
    "Reference",
    "ReferenceScoring",
    "ReferenceStore",
    "base_reference",
    "other_reference",
    "start_reference",
]
