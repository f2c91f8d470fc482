"""What a sweep runs: the options of a YAML file, and words that say what differs from run to run.

`dpo.beta=0.05,0.1` gives two settings; several options of one method give every combination; a method alone is one
setting with its defaults. Each setting runs once with each seed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from likelier.objectives import METHODS
from likelier.objectives.online import ONLINE_METHODS
from likelier.training.config import RIVALS, RunConfig, is_hyperparameter, parse, trains_alone
from likelier.training.options import OF_REFERENCE
from likelier.utils.errors import ConfigError, nearest
from likelier.utils.files import local
from likelier.utils.shell import quoted
from likelier.utils.yaml_text import BrokenYaml, parse_yaml

MOST_SEEDS = 20
_OF_THE_WHOLE = {
    "method": "a method stands before the point, as in dpo.beta",
    "model": "all runs begin with the same model",
    "output": "every run has a folder of its own below the output",
    "eval_data": "all runs are held to the same rows",
    "eval_fraction": "all runs are held to the same rows",
    "seed": "seeds are given by --seeds",
    "resume": "--resume goes on with the whole sweep",
    "push_to_hub": "a sweep uploads nothing",
}
_WITH_REFERENCE_ONLY = ("reference", *OF_REFERENCE)

Values = Mapping[str, Any]


@dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep. `varied` holds the options in which its setting differs, as they were written."""

    name: str
    setting: str
    method: str
    varied: Values
    config: RunConfig


@dataclass(frozen=True)
class SweepPlan:
    """All runs of a sweep, in their order; `base` is the run that the file describes, `words` what varies."""

    output: Path
    resume: bool
    words: tuple[str, ...]
    seeds: tuple[int, ...]
    base: RunConfig
    runs: tuple[PlannedRun, ...]

    @property
    def settings(self) -> list[str]:
        """The settings, in their order."""
        return list(dict.fromkeys(run.setting for run in self.runs))


def plan_sweep(values: Values, vary: Sequence[str], seeds: Sequence[int]) -> SweepPlan:
    """Make the runs of a sweep from a run's named values, words that say what varies, and seeds (see `seeds_of`).

    Every run is checked here, before anything starts. Raises `ConfigError` naming the word and the mend.
    """
    shared = {str(name).replace("-", "_"): value for name, value in values.items()}
    _check_shared(shared)
    base = parse({**shared, "resume": False})
    _check_evaluation(base)
    settings = list(_settings(shared, base, vary or [base.run.method]))
    numbers = seeds_of(seeds, base.training.seed)
    runs = [_with_seed(setting, seed) for seed in numbers for setting in settings]
    _refuse_twice(settings)
    output = local(base.run.output)
    return SweepPlan(output, bool(shared.get("resume", False)), tuple(vary), numbers, base, tuple(runs))


def seeds_of(given: Sequence[int], first: int) -> tuple[int, ...]:
    """The seeds: of one number that many, from `first` on; of several the numbers themselves."""
    if len(given) > 1:
        twice = next((seed for seed in given if given.count(seed) > 1), None)
        if twice is not None:
            raise ConfigError(f"--seeds names {twice} twice; keep one of them")
        return tuple(given)
    count = given[0] if given else 1
    if not 1 <= count <= MOST_SEEDS:
        raise ConfigError(
            f"--seeds {count}: one number says how many, from 1 to {MOST_SEEDS}; for more name the seeds themselves, "
            "for a single other one --seed"
        )
    return tuple(range(first, first + count))


def _check_shared(shared: Values) -> None:
    if "stages" in shared:
        raise ConfigError("a sweep is of single runs, and the file has stages; give each stage a file of its own")
    if shared.get("push_to_hub") is not None:
        raise ConfigError("push_to_hub: a sweep uploads nothing; drop it, and upload the run that you choose")


def _check_evaluation(base: RunConfig) -> None:
    if base.run.eval_data is None and base.run.eval_fraction is None:
        raise ConfigError(
            "a sweep compares its runs on held-out rows, and none are named; give eval_data, or eval_fraction: 0.2"
        )


# --- what varies ---------------------------------------------------------------------------------------------------


def _settings(shared: Values, base: RunConfig, words: Sequence[str]) -> Iterator[PlannedRun]:
    """The settings, each with the base's seed."""
    varied = variations(words)
    _refuse_unused(shared, base.run.method, varied)
    names: set[str] = set()
    for method, options in varied.items():
        for values in product(*options.values()):
            own = dict(zip(options, values, strict=True))
            name = _free("-".join([method, *(f"{option}-{_slug(value)}" for option, value in own.items())]), names)
            setting = " ".join([method, *(f"{option}={_word(value)}" for option, value in own.items())])
            try:
                config = parse(_values(shared, base.run.method, method, own))
            except ConfigError as error:
                raise ConfigError(f"{setting}: {error}") from error
            yield PlannedRun(name, setting, method, own, config)


def variations(words: Sequence[str]) -> dict[str, dict[str, list[Any]]]:
    """For each method its options with their values. Raises `ConfigError` for words that do not say that."""
    found: dict[str, dict[str, list[Any]]] = {}
    alone = set()
    for word in words:
        name, equals, text = word.partition("=")
        method, point, option = name.partition(".")
        option = option.replace("-", "_")
        if method not in METHODS:
            raise ConfigError(f"{word}: {_no_method(word, method, bool(point or not equals))}")
        if bool(point) != bool(equals) or bool(point) != bool(option):
            raise ConfigError(f"{word}: say METHOD, or METHOD.OPTION=VALUE,VALUE, such as dpo.beta=0.05,0.1")
        if option in _OF_THE_WHOLE:
            raise ConfigError(f"{word}: {option} cannot vary by method: {_OF_THE_WHOLE[option]}")
        own = found.setdefault(method, {})
        if (not option and method in alone) or option in own:
            raise ConfigError(f"{word}: {name} stands there twice; keep one, with all its values")
        if option:
            own[option] = _listed(word, text)
        else:
            alone.add(method)
    for method in alone:
        if found[method]:
            raise ConfigError(f"{method} stands there alone and with {', '.join(found[method])}; drop one of them")
    return found


def _no_method(word: str, name: str, is_method: bool) -> str:
    if word.endswith((".yaml", ".yml")):
        return f"the file comes first: likelier sweep {quoted(word)} --vary ..."
    if not is_method:
        return f"no method is named; write METHOD.{name}=..., such as dpo.{name}=..."
    if name in ONLINE_METHODS:
        return trains_alone(name)
    return f"unknown method {name!r}{nearest(name, METHODS)}; known: {', '.join(METHODS)}"


def _listed(word: str, text: str) -> list[Any]:
    """The values: a YAML list without its brackets, so that quotes, null and lists in lists can stand in it."""
    try:
        values = parse_yaml(f"[{text}]")
    except BrokenYaml as error:
        raise ConfigError(f"{word}: the values cannot be read as YAML: {error.reason}") from error
    if not values:
        raise ConfigError(f"{word}: no value is given; write one, or several with commas between them")
    twice = next((value for value in values if values.count(value) > 1), None)
    if twice is not None:
        raise ConfigError(f"{word}: {twice} stands there twice; keep one")
    return values


def _refuse_unused(shared: Values, own_method: str, varied: Values) -> None:
    """A hyperparameter of the file belongs to the file's method; where that does not run, it has no effect."""
    unused = [name for name in shared if is_hyperparameter(name)]
    if unused and own_method not in varied:
        raise ConfigError(
            f"{unused[0]} in the file belongs to its method, {own_method}, which this sweep does not run; drop it, or "
            f"name it with a method: METHOD.{unused[0]}={shared[unused[0]]}"
        )


def _values(shared: Values, own_method: str, method: str, varied: Values) -> dict[str, Any]:
    """The named values of a setting. The file's hyperparameters are those of its own method."""
    merged = {name: value for name, value in shared.items() if method == own_method or not is_hyperparameter(name)}
    if not METHODS[method].needs_reference:
        merged = {name: value for name, value in merged.items() if name not in _WITH_REFERENCE_ONLY}
    for name in varied:
        merged.pop(RIVALS.get(name, ""), None)
    if "data" in varied:
        merged.pop("columns", None)  # the columns of other data
    return {**merged, **varied, "method": method, "resume": False}


def _with_seed(setting: PlannedRun, seed: int) -> PlannedRun:
    name = f"{setting.name}-seed-{seed}"
    run = replace(setting.config.run, output=str(Path(setting.config.run.output) / name))
    training = replace(setting.config.training, seed=seed)
    return replace(setting, name=name, config=replace(setting.config, run=run, training=training))


def _refuse_twice(settings: Sequence[PlannedRun]) -> None:
    for number, one in enumerate(settings):
        for other in settings[:number]:
            if one.config == other.config:
                raise ConfigError(f"{other.setting} and {one.setting} are the same run; keep one of them")


# --- names ---------------------------------------------------------------------------------------------------------


def _word(value: Any) -> str:
    return "null" if value is None else str(value)


def _slug(value: Any) -> str:
    """A value as a part of a folder's name; of a path its last part."""
    text = _word(value).rstrip("/").rsplit("/", 1)[-1]
    return re.sub(r"[^\w.-]+", "-", text).strip("-.")[:40] or "value"


def _free(name: str, taken: set[str]) -> str:
    """The name, or with a number behind it the first that is not taken."""
    numbered = (name if number == 1 else f"{name}-{number}" for number in range(1, len(taken) + 2))
    found = next(one for one in numbered if one not in taken)
    taken.add(found)
    return found
