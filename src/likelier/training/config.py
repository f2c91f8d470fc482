"""One tree of dataclasses = the YAML file = the flags.

`RunOptions`, `LoraOptions`, `TrainingOptions` and the chosen objective share one flat space of names. A name that
nothing reads, or that has no effect beside the others, is an error.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Collection, Mapping
from dataclasses import Field, asdict, dataclass, field, fields
from datetime import date
from math import isfinite
from pathlib import Path
from typing import Any, ClassVar, Literal

from likelier.data.columns import (
    COLUMNS_HELP,
    EVAL_DATA_HELP,
    EVAL_FRACTION_HELP,
    MERGE_VOTES_HELP,
    Columns,
    columns_of,
)
from likelier.data.options import ChatOptions, DataSet, option
from likelier.models.options import Dtype, LoraOptions
from likelier.objectives import METHODS, Objective
from likelier.objectives.online import ONLINE_METHODS
from likelier.training.options import TrainingOptions, nearest, refuse_inert_options
from likelier.utils.errors import ConfigError
from likelier.utils.redaction import without_secrets
from likelier.utils.yaml_text import BrokenYaml, parse_yaml


@dataclass(frozen=True)
class RunOptions:
    """What is trained, on what, against what, and where to."""

    methods: ClassVar[Mapping[str, Any]] = METHODS

    method: str = option("dpo", "the objective: " + ", ".join((*METHODS, *ONLINE_METHODS)))
    model: str = option("", "a hub id, a model folder, an adapter folder, a .gguf file, or demo")
    data: str | tuple[DataSet, ...] = option(
        "",
        "a preference file, a datasets folder or a hub id (gym:TASK where answers are written); several are given one "
        "by one (--data a --data b), in YAML as a list, with names and weights",
        repeats=True,
    )
    output: str = option("", "the run folder")
    reference: str = option("start", "start (the policy as it is loaded), base (adapter off), or another model")
    eval_data: str | tuple[DataSet, ...] | None = option(None, EVAL_DATA_HELP)
    columns: Columns | None = option(None, COLUMNS_HELP, many="ROLE=COLUMN")
    merge_votes: bool = option(False, MERGE_VOTES_HELP)
    eval_fraction: float | None = option(None, EVAL_FRACTION_HELP)
    dtype: Dtype = option(
        "auto",
        "precision in which the model computes; auto takes what the hardware does well; pure-bfloat16 also keeps the "
        "weights in 16 bits, with an optimizer that does not lose small updates",
    )
    resume: bool = option(False, "go on from the newest checkpoint in --output")
    push_to_hub: str | None = option(None, "upload the finished run to this hub repository (owner/name), as private")

    def __post_init__(self) -> None:
        if self.method not in self.methods:
            online = self.method in ONLINE_METHODS
            raise ConfigError(trains_alone(self.method)) if online else unknown_method(self.method)
        for name in ("model", "data", "output"):
            if not getattr(self, name):
                raise ConfigError(f"--{name} is missing")
        if self.reference == "original":
            raise ConfigError("reference=original is for runs in stages; in a single run it is start")
        if self.eval_data is not None and self.eval_fraction is not None:
            raise ConfigError("eval_data and eval_fraction were both given; keep one of them")
        if self.eval_fraction is not None and not 0 < self.eval_fraction < 1:
            raise ConfigError(f"eval_fraction={self.eval_fraction} is out of range; it must lie between 0 and 1")


def unknown_method(name: str) -> ConfigError:
    """What to say of a method that is not there."""
    known = [*METHODS, *ONLINE_METHODS]
    return ConfigError(f"unknown method {name!r}{nearest(name, known)}; known: {', '.join(known)}")


def trains_alone(method: str) -> str:
    """Why a method that writes its answers is no part of a sweep."""
    return (
        f"{method} learns from answers that it writes itself, which is not done in a sweep; train it by itself: "
        f"likelier train --method {method}"
    )


@dataclass(frozen=True)
class RunConfig:
    """A whole run."""

    run: RunOptions
    objective: Objective
    lora: LoraOptions = field(default_factory=LoraOptions)
    training: TrainingOptions = field(default_factory=TrainingOptions)
    chat: ChatOptions = field(default_factory=ChatOptions)

    def as_json(self, but: Collection[str] = ()) -> dict[str, Any]:
        """Everything that was given, `but` some names, as JSON holds it, without secrets."""
        parts: dict[str, Any] = asdict(self.run) | asdict(self.lora) | asdict(self.training) | asdict(self.chat)
        parts |= self.objective.hyperparameters()
        kept = {name: value for name, value in parts.items() if value is not None and name not in but}
        return json.loads(json.dumps(without_secrets(kept), default=str))


# Options of which only one can be given: a flag takes the place of its rival in the file.
RIVALS = {
    "max_steps": "epochs",
    "epochs": "max_steps",
    "eval_data": "eval_fraction",
    "eval_fraction": "eval_data",
}
SECTIONS: tuple[type, ...] = (RunOptions, LoraOptions, TrainingOptions, ChatOptions)


def hyperparameter_fields() -> dict[str, dict[str, Field[Any]]]:
    """Each hyperparameter's name, with the methods that have it."""
    found: dict[str, dict[str, Field[Any]]] = {}
    for method, objective in METHODS.items():
        for item in fields(objective):
            found.setdefault(item.name, {})[method] = item
    return found


def is_hyperparameter(name: str) -> bool:
    """Whether some method has it: by its own name, or as METHOD.NAME in a sum of losses."""
    method, _, own = name.rpartition(".")
    return own in hyperparameter_fields() and (not method or method in METHODS)


def hyperparameter_help(owners: Mapping[str, Field[Any]]) -> str:
    """What the first of the methods that have a hyperparameter says of it."""
    told = (item.metadata["help"] for item in owners.values() if "help" in item.metadata)
    return next(told, f"of {', '.join(owners)}")


def parse(values: Mapping[str, Any]) -> RunConfig:
    """Make a run from named values (dashes or underscores). Raises `ConfigError` naming the option and the mend."""
    named = named_values(values)
    run = section(RunOptions, named)
    objective = _objective(run.method, named)
    lora, training, chat = (section(kind, named) for kind in (LoraOptions, TrainingOptions, ChatOptions))
    if named:
        _refuse(next(iter(named)), objective)
    config = RunConfig(run, objective, lora, training, chat)
    refuse_inert_options(objective, training, named_reference=run.reference != "start")
    return config


def objective_of(method: str, values: Mapping[str, Any]) -> Objective:
    """The method with those of the named values that are hyperparameters; what else they hold is somebody else's.
    Raises `ConfigError` as `parse` does.
    """
    if method not in METHODS:
        raise unknown_method(method)
    named = {name: value for name, value in values.items() if is_hyperparameter(name)}
    objective = _objective(method, named)
    if named:
        _refuse(next(iter(named)), objective)
    return objective


def named_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by the options' names, dashes made underscores, data sets and columns made what they are."""
    named = {str(name).replace("-", "_"): value for name, value in values.items()}
    for name in ("data", "eval_data"):
        if isinstance(named.get(name), (list, tuple, Mapping)):
            named[name] = data_sets(name, named[name])
    if "columns" in named:
        named["columns"] = columns_of(named["columns"])
    return named


def section(kind: Any, named: dict[str, Any]) -> Any:
    """Take this dataclass's names out of `named` and build it."""
    return kind(**taken(kind, named, [item.name for item in fields(kind)]))


def taken(kind: Any, named: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Take these fields of a dataclass out of `named`, their values as its types have them."""
    hints = typing.get_type_hints(kind)
    return {name: coerce(name, named.pop(name), hints[name]) for name in names if name in named}


def data_sets(name: str, value: Any) -> tuple[DataSet, ...]:
    """Several data sets as YAML names them: a list of paths, or of blocks with a path and what goes with it."""
    entries = value if isinstance(value, (list, tuple)) else [value]
    found = []
    for entry in entries:
        if isinstance(entry, (str, DataSet)):
            found.append(DataSet(entry) if isinstance(entry, str) else entry)
            continue
        if not isinstance(entry, Mapping):
            raise ConfigError(f"{name}: {entry!r} is no data set; give a path, or a block with path and weight")
        known = [item.name for item in fields(DataSet)]
        unknown = [key for key in entry if key not in known]
        if unknown:
            close = nearest(str(unknown[0]), known)
            raise ConfigError(f"{name}: unknown option {unknown[0]!r} of a data set{close}; known: {', '.join(known)}")
        if "path" not in entry:
            raise ConfigError(f"{name}: a data set without path: {dict(entry)!r}")
        own = dict(entry)
        if "columns" in own:
            own["columns"] = columns_of(own["columns"])
        found.append(section(DataSet, own))
    if not found:
        raise ConfigError(f"{name} is an empty list; name at least one data set")
    return tuple(found)


def _objective(method: str, named: dict[str, Any]) -> Objective:
    kind = METHODS[method]
    try:
        hints = kind.options(named)
        return kind.of({name: coerce(name, named.pop(name), hints[name]) for name in hints if name in named})
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _refuse(name: str, objective: Objective) -> None:
    method = objective.method
    owners = hyperparameter_fields().get(name)
    if not owners and is_hyperparameter(name):
        raise ConfigError(
            f"{name} has no effect on {method}: METHOD.NAME is a hyperparameter of one of the losses that a sum adds, "
            "where that loss has it"
        )
    if owners:
        own = ", ".join(objective.hyperparameters()) or "none"
        raise ConfigError(f"{name} has no effect on {method} (it belongs to {', '.join(owners)}); {method} has: {own}")
    known = [item.name for section in SECTIONS for item in fields(section)] + list(hyperparameter_fields())
    raise ConfigError(f"unknown option {name!r}{nearest(name, known)}")


def coerce(name: str, value: Any, hint: Any) -> Any:
    """The value as the option's type; text from YAML or the command line is read as a number where one is wanted."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
        fits = any(typing.get_origin(kind) is tuple for kind in kinds) and isinstance(value, tuple)
        return value if value is None or fits else coerce(name, value, kinds[0])
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            raise ConfigError(f"{name}={value!r} is not one of: {', '.join(map(str, choices))}")
        return value
    if hint in (int, float):
        return _number(name, value, hint)
    if typing.get_origin(hint) is dict:
        return value
    if typing.get_origin(hint) is tuple:
        several = value if isinstance(value, (list, tuple)) else [value]
        return tuple(coerce(name, one, typing.get_args(hint)[0]) for one in several)
    if hint is str and isinstance(value, date):  # which YAML makes of one without quotation marks
        value = value.isoformat()
    if not isinstance(value, hint):
        raise ConfigError(f"{name}={value!r} is {type(value).__name__}; it must be {hint.__name__}")
    if isinstance(value, str) and "\0" in value:
        raise ConfigError(f"{name}={value!r} holds a null character, which no name can have; remove it")
    return value


def _number(name: str, value: Any, kind: type) -> Any:
    if kind is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    try:
        number = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if not isfinite(number) or (kind is int and number != int(number)):
        raise ConfigError(f"{name}={value!r} is not a {'whole number' if kind is int else 'number'}")
    return kind(number)


def read_yaml(path: str) -> dict[str, Any]:
    """The options of a YAML file, with underscores. Raises `ConfigError` with the line where it cannot be read."""
    try:
        loaded = parse_yaml(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not valid YAML: it is not UTF-8 text; convert the file to UTF-8") from error
    except BrokenYaml as error:
        place = f"{path}:{error.line}:" if error.line else f"{path} is not valid YAML:"
        raise ConfigError(f"{place} {error.reason}") from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path}: expected names and values, found {type(loaded).__name__}")
    return {str(name).replace("-", "_"): value for name, value in loaded.items()}
