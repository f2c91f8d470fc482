"""Objectives: a pure loss, its hyperparameters with that method's own defaults, and what it needs to be computed.

An objective is a frozen dataclass. It turns `Scored` (the seam's sums and counts, plus indices that say which answer is
which) into one loss per item and one logged reward per answer. It never sees a model, a tokenizer or a file.
"""

from likelier.objectives.base import DataKind, Objective
from likelier.objectives.listwise import InfoNCA, NCAScores
from likelier.objectives.mpo import MPO
from likelier.objectives.pairwise import DPO, DPOP, IPO, APODown, APOZero, Hinge, RobustDPO, SigmoidNorm, SimPO
from likelier.objectives.pointwise import KTO, SFT
from likelier.objectives.ratio_pairs import EXO, FDPO, NCA, SPPO, CalDPO, DiscoPOP
from likelier.objectives.reference_free_pairs import CPO, ORPO, AlphaPO, SLiC
from likelier.objectives.registry import METHODS, register
from likelier.objectives.reward_model import RewardModel
from likelier.objectives.running_means import BCO, BCOPair, BetaDPO
from likelier.objectives.scored import Items, Scored, SequenceScores
from likelier.objectives.sorted_pairs import AOT, AOTUnpaired
from likelier.objectives.weighted_pairs import LDDPO, WPO
from likelier.objectives.weighted_sum import WeightedSum

for kind in (
    *(DPO, RobustDPO, IPO, KTO, SimPO, Hinge, SigmoidNorm, APOZero, APODown, DPOP),
    *(EXO, NCA, SPPO, DiscoPOP, FDPO, CalDPO, CPO, ORPO, AlphaPO, SLiC, AOT, AOTUnpaired, WPO),
    *(SFT, RewardModel, BCOPair, BCO, BetaDPO, LDDPO, WeightedSum, MPO),
    *(InfoNCA, NCAScores),
):
    register(kind)

__all__ = [
    "AOT",
    "BCO",
    "CPO",
    "DPO",
    "DPOP",
    "EXO",
    "FDPO",
    "IPO",
    "KTO",
    "LDDPO",
    "METHODS",
    "MPO",
    "NCA",
    "ORPO",
    "SFT",
    "SPPO",
    "WPO",
    "AOTUnpaired",
    "APODown",
    "APOZero",
    "AlphaPO",
    "BCOPair",
    "BetaDPO",
    "CalDPO",
    "DataKind",
    "DiscoPOP",
    "Hinge",
    "InfoNCA",
    "Items",
    "NCAScores",
    "Objective",
    "RewardModel",
    "RobustDPO",
    "SLiC",
    "Scored",
    "SequenceScores",
    "SigmoidNorm",
    "SimPO",
    "WeightedSum",
    "register",
]
