"""Objectives: a pure loss, its hyperparameters with that method's own defaults, and what it needs to be computed.

An objective is a frozen dataclass. It turns `Scored` (the seam's sums and counts, plus indices that say which answer is
which) into one loss per item and one logged reward per answer. It never sees a model, a tokenizer or a file.
"""

from likelier.objectives.base import DataKind, Objective, Scored
from likelier.objectives.pairwise import DPO, DPOP, IPO, APODown, APOZero, Hinge, RobustDPO, SigmoidNorm, SimPO
from likelier.objectives.pointwise import KTO, SFT

METHODS: dict[str, type[Objective]] = {
    objective.method: objective
    for objective in (DPO, RobustDPO, IPO, KTO, SimPO, Hinge, SigmoidNorm, APOZero, APODown, DPOP, SFT)
}

__all__ = [
    "DPO",
    "DPOP",
    "IPO",
    "KTO",
    "METHODS",
    "SFT",
    "APODown",
    "APOZero",
    "DataKind",
    "Hinge",
    "Objective",
    "RobustDPO",
    "Scored",
    "SigmoidNorm",
    "SimPO",
]
