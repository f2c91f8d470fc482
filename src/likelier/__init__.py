"""Offline preference optimization of language models: DPO, IPO, KTO, SimPO and their family."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from likelier.utils.versions import __version__

if TYPE_CHECKING:
    from likelier.data.columns import Columns
    from likelier.data.load import PreferenceData, load_preferences
    from likelier.data.options import ChatOptions, DataSet
    from likelier.models.options import LoraOptions
    from likelier.models.policy import Policy, load_policy
    from likelier.objectives import (
        DPO,
        DPOP,
        IPO,
        KTO,
        METHODS,
        SFT,
        APODown,
        APOZero,
        Hinge,
        Objective,
        RewardModel,
        RobustDPO,
        SigmoidNorm,
        SimPO,
    )
    from likelier.training.options import TrainingOptions
    from likelier.training.trainer import PreferenceTrainer

# torch and transformers take seconds to import: each name is imported when it is first used, those that are not named
# here from `objectives`.
_HOMES = {
    "Columns": "data.columns",
    "PreferenceData": "data.load",
    "load_preferences": "data.load",
    "Policy": "models.policy",
    "load_policy": "models.policy",
    "ChatOptions": "data.options",
    "DataSet": "data.options",
    "LoraOptions": "models.options",
    "TrainingOptions": "training.options",
    "PreferenceTrainer": "training.trainer",
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
    "ChatOptions",
    "Columns",
    "DataSet",
    "Hinge",
    "LoraOptions",
    "Objective",
    "Policy",
    "PreferenceData",
    "PreferenceTrainer",
    "RewardModel",
    "RobustDPO",
    "SigmoidNorm",
    "SimPO",
    "TrainingOptions",
    "__version__",
    "load_policy",
    "load_preferences",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module(f"likelier.{_HOMES.get(name, 'objectives')}"), name)
    raise AttributeError(f"module 'likelier' has no attribute {name!r}")
