"""The seam: a model and a batch of answers in, sums and counts of log-probabilities out."""

from likelier.objectives.scored import SequenceScores
from likelier.scoring.attach import ScorerChoice, ScorerName, attach_scorer, scorer_of
from likelier.scoring.batch import Batch, collate
from likelier.scoring.plain import score_plain
from likelier.scoring.shared_prefix import score_shared_prefix

__all__ = [
    "Batch",
    "ScorerChoice",
    "ScorerName",
    "SequenceScores",
    "attach_scorer",
    "collate",
    "score_plain",
    "score_shared_prefix",
    "scorer_of",
]
