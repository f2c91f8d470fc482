"""An online run as named values: the same names in YAML, as flags and in Python."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, field, fields
from typing import Any, ClassVar, get_type_hints

from likelier.data.options import ChatOptions
from likelier.models.options import LoraOptions
from likelier.objectives.online import ONLINE_METHODS, PAPER_PRESETS, online_method
from likelier.objectives.online_base import OnlineObjective
from likelier.online.options import OnlineOptions
from likelier.training.config import RunConfig, RunOptions, hyperparameter_fields, named_values, parse, section, taken
from likelier.training.options import TrainingOptions
from likelier.utils.errors import ConfigError, nearest
from likelier.utils.redaction import without_secrets

_SECTIONS: tuple[type, ...] = (LoraOptions, TrainingOptions, ChatOptions, OnlineOptions)


def online_fields() -> dict[str, tuple[Field[Any], Any]]:
    """Each option of an online method as the first of those that have it declares it, with its type."""
    found: dict[str, tuple[Field[Any], Any]] = {}
    for name, presets in online_hyperparameters().items():
        kind = type(presets[0])
        found[name] = next(one for one in fields(kind) if one.name == name), get_type_hints(kind)[name]
    return found


def online_hyperparameters() -> dict[str, list[OnlineObjective]]:
    """Each option of an online method, with the presets of those that have it."""
    found: dict[str, list[OnlineObjective]] = {}
    for preset in ONLINE_METHODS.values():
        for name in preset.hyperparameters():
            found.setdefault(name, []).append(preset)
    return found


ONLINE_NAMES = frozenset([item.name for item in fields(OnlineOptions)] + [*online_hyperparameters(), "paper"])


@dataclass(frozen=True)
class OnlineRunOptions(RunOptions):
    """What is trained, on which prompts, against what, and where to."""

    methods: ClassVar[Mapping[str, Any]] = ONLINE_METHODS

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.merge_votes:
            raise ConfigError(f"merge_votes has no effect on {self.method}, which reads no answers; drop it")


@dataclass(frozen=True)
class OnlineConfig:
    """A whole online run."""

    run: OnlineRunOptions
    objective: OnlineObjective
    online: OnlineOptions
    lora: LoraOptions = field(default_factory=LoraOptions)
    training: TrainingOptions = field(default_factory=TrainingOptions)
    chat: ChatOptions = field(default_factory=ChatOptions)

    def as_json(self) -> dict[str, Any]:
        """Everything that was given, as JSON holds it, without secrets."""
        parts: dict[str, Any] = {}
        for one in (self.run, self.lora, self.training, self.chat, self.online):
            parts |= asdict(one)
        parts |= self.objective.hyperparameters()
        kept = {name: value for name, value in parts.items() if value is not None}
        return json.loads(json.dumps(without_secrets(kept), default=str))


def parse_run(values: Mapping[str, Any]) -> OnlineConfig | RunConfig:
    """Make a single run of either kind from named values. Raises `ConfigError` naming option and mend."""
    method = values.get("method", "dpo")
    if method in ONLINE_METHODS:
        return parse_online(values)
    for given in values:
        name = str(given).replace("-", "_")
        if name in ONLINE_NAMES - hyperparameter_fields().keys():
            owners = _online_owners(name) or ONLINE_METHODS
            raise ConfigError(f"{given} has no effect on {method}; it belongs to {', '.join(owners)}")
    return parse(values)


def parse_online(values: Mapping[str, Any]) -> OnlineConfig:
    """Make an online run from named values (dashes or underscores). Raises `ConfigError` naming option and mend."""
    named = named_values(values)
    named.setdefault("batch_size", 8)  # prompts, each with a group of answers
    run = section(OnlineRunOptions, named)
    objective = _objective(run.method, named)
    for name, value in objective.run_defaults.items():
        named.setdefault(name, value)
    lora, training, chat, online = (section(kind, named) for kind in _SECTIONS)
    if named:
        _refuse(next(iter(named)), run.method)
    return OnlineConfig(run, objective, online, lora, training, chat)


def _objective(method: str, named: dict[str, Any]) -> OnlineObjective:
    """The preset with the options that were given. Raises `ConfigError`."""
    preset = ONLINE_METHODS[method]
    own = taken(type(preset), named, preset.hyperparameters())
    paper = named.pop("paper", False)
    if not isinstance(paper, bool):
        raise ConfigError(f"paper={paper!r} is no yes or no")
    try:
        return online_method(method, paper=paper, **own)
    except ValueError as error:
        raise ConfigError(str(error)) from error


# What other tools call options of ours.
ELSEWHERE = {
    "beta": "kl_coefficient",
    "kl_coef": "kl_coefficient",
    "num_generations": "answers_per_prompt",
    "max_completion_length": "max_new_tokens",
    "epsilon": "clip_low",
    "epsilon_high": "clip_high (weight_high, where weights are clamped)",
    "num_iterations": "updates_per_rollout",
    "reward_funcs": "reward",
    "loss_type": "preference_loss",
}
_OF_EVERY_METHOD = {item.name for item in fields(OnlineOptions)}
# What cuts or bends the distribution that answers are drawn from.
DISTORTIONS = ("top_p", "top_k", "min_p", "repetition_penalty")


def _refuse(name: str, method: str) -> None:
    if name in DISTORTIONS:
        raise ConfigError(
            f"{name} is no option of training: answers are drawn from the policy's whole distribution, because a cut "
            "one is not what the loss takes the gradient of; drop it (likelier sample has top_p, top_k and min_p)"
        )
    ours = ELSEWHERE.get(name, "")
    if ours.partition(" ")[0] in ONLINE_METHODS[method].hyperparameters().keys() | _OF_EVERY_METHOD:
        raise ConfigError(f"unknown option {name!r} of {method}; here it is called {ours}")
    if owners := [*hyperparameter_fields().get(name, ()), *_online_owners(name)]:
        raise ConfigError(f"{name} has no effect on {method}; it belongs to {', '.join(owners)}")
    known = [item.name for kind in (OnlineRunOptions, *_SECTIONS) for item in fields(kind)] + sorted(ONLINE_NAMES)
    raise ConfigError(f"unknown option {name!r} of {method}{nearest(name, known)}")


def _online_owners(name: str) -> list[str]:
    """The online methods that have this option."""
    return [preset.method for preset in online_hyperparameters().get(name, ())]


def preset_default(name: str) -> str:
    """What the presets have for an option: what most of them have, then those that differ. Nothing for what is off."""
    values = {preset.method: getattr(preset, name) for preset in online_hyperparameters()[name]}
    if len(values) == 1:
        return "".join(f"{method} {_word(value)}" for method, value in values.items())
    usual = Counter(values.values()).most_common(1)[0][0]
    others = [f"{method} {_word(value)}" for method, value in values.items() if value != usual]
    parts = [] if usual is None or usual is False else [_word(usual)]
    return "; ".join([*parts, ", ".join(others)] if others else parts)


def _word(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)


def paper_help() -> str:
    """What `--paper` is for."""
    return f"the preset as its paper has it ({', '.join(PAPER_PRESETS)}: ours differs)"
