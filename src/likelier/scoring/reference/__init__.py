"""The reference: which model it is, its scores in a store on disk, and the proof that it is the right one."""

from likelier.scoring.reference.identity import Reference, base_reference, other_reference, released, start_reference
from likelier.scoring.reference.proof import ProvedReference, check_first_step, prove_reference
from likelier.scoring.reference.store import ReferenceScoring, ReferenceStore

__all__ = [
    "ProvedReference",
    "Reference",
    "ReferenceScoring",
    "ReferenceStore",
    "base_reference",
    "check_first_step",
    "other_reference",
    "prove_reference",
    "released",
    "start_reference",
]
