"""The seam: a model and a batch of answers in, sums and counts of log-probabilities out."""

from likelier.scoring.batch import Batch, collate
from likelier.scoring.score import SequenceScores, attach_scorer, score_plain

__all__ = ["Batch", "SequenceScores", "attach_scorer", "collate", "score_plain"]
