"""The methods that learn from answers they write themselves, by name: each a preset of its kind's options."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from likelier.objectives.grpo_family import GRPO_FAMILY, GRPO_OF_ITS_PAPER
from likelier.objectives.online_base import OnlineObjective
from likelier.objectives.online_preference import ONLINE_PREFERENCE
from likelier.objectives.ppo import PPO_OF_N_PLUS

_PRESETS = (*GRPO_FAMILY, *ONLINE_PREFERENCE, PPO_OF_N_PLUS)
ONLINE_METHODS: dict[str, OnlineObjective] = {preset.method: preset for preset in _PRESETS}
# Where the preset of a name is not what its paper has.
PAPER_PRESETS: dict[str, OnlineObjective] = {preset.method: preset for preset in (GRPO_OF_ITS_PAPER,)}


def online_method(name: str, *, paper: bool = False, **options: Any) -> OnlineObjective:
    """The preset of this name, or its paper's own, with some options changed.

    Raises `ValueError` for an unknown name or option, for `paper` where the preset is the paper's, and for values that
    cannot work or have no effect.
    """
    if name not in ONLINE_METHODS:
        raise ValueError(f"unknown online method {name!r}; there are {', '.join(ONLINE_METHODS)}")
    if paper and name not in PAPER_PRESETS:
        raise ValueError(f"{name}: the preset is the paper's already; paper is for {', '.join(PAPER_PRESETS)}")
    preset = (PAPER_PRESETS if paper else ONLINE_METHODS)[name]
    if unknown := options.keys() - preset.hyperparameters().keys():
        raise ValueError(f"{name} has no option {', '.join(sorted(unknown))}")
    made = replace(preset, **options)
    if told := made.inert(options.keys()):
        raise ValueError(told)
    return made


def changed_options(objective: OnlineObjective) -> dict[str, Any]:
    """The options that differ from the preset of this method's name, with their values."""
    preset = ONLINE_METHODS[objective.method].hyperparameters()
    return {name: value for name, value in objective.hyperparameters().items() if value != preset[name]}
