"""A run that is planned and not begun: its file and its flags, read as `train` reads them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from likelier.utils.errors import ConfigError

if TYPE_CHECKING:
    from likelier.advice.estimate import Estimate

# Options that change what a run which writes its answers holds, or how long it takes.
WRITING = (
    *("reward", "max_new_tokens", "updates_per_rollout", "max_prompt_length", "prompt_truncation"),
    *("sampler", "sampler_url", "answers_per_prompt", "kl_coefficient", "kl_place", "paper"),
)
_MACHINE = ("config", "memory", "gpu", "device", "gpus", "format", "rows", "verify")
_DEFAULTS = {"method": "dpo", "dtype": "auto", "model": None}
# What a run needs and its plan does without: a place for its files, data, and a reward that is no model.
_OPEN = {"output": "planned", "data": "prompts", "reward": ("json",)}


def take_run_file(flags: argparse.Namespace) -> None:
    """Add the options of the run file to the flags, which win over it. Raises `ConfigError` for what is no single run,
    or what `train` would refuse in it.
    """
    from likelier.online.config import parse_run
    from likelier.training.config import RIVALS, read_yaml

    given = _run_values(flags)
    if flags.config:
        from_file = read_yaml(flags.config)
        for name in given:
            from_file.pop(RIVALS.get(name, ""), None)
        if "stages" in from_file:
            raise ConfigError(f"{flags.config} holds stages, and one run is planned at a time; give a stage as flags")
        config = parse_run(_OPEN_OF_ALL | from_file | given)
        for name, value in from_file.items():
            if name not in given:
                setattr(flags, name, value)
        flags.data = config.run.data if "data" in from_file or flags.data else None
    for name, value in _DEFAULTS.items():
        setattr(flags, name, getattr(flags, name, value))
    if flags.model is None:
        raise ConfigError("--model is missing")


_OPEN_OF_ALL = {name: _OPEN[name] for name in ("output", "data")}


def _run_values(flags: argparse.Namespace) -> dict[str, Any]:
    """The options of a run that were given."""
    return {name: value for name, value in vars(flags).items() if name not in _MACHINE and value is not None}


def writes_answers(flags: argparse.Namespace) -> bool:
    """Whether the method writes its answers. Raises `ConfigError` for options about that which another method has no
    use for.
    """
    from likelier.objectives.online import ONLINE_METHODS

    if flags.method in ONLINE_METHODS:
        return True
    for name in ("reference", *WRITING):
        if hasattr(flags, name) and not flags.config:
            belongs = f"it belongs to {', '.join(ONLINE_METHODS)}"
            raise ConfigError(f"{name} has no effect on the plan of {flags.method}; {belongs}")
    return False


def online_estimate_of(flags: argparse.Namespace) -> Estimate:
    """The plans of a run that writes its answers."""
    from likelier.advice.estimate import bytes_of
    from likelier.advice.online_estimate import online_estimate
    from likelier.cli.run_rows import refuse_of_files, refuse_without_data
    from likelier.online.config import parse_online

    config = parse_online(_OPEN | _run_values(flags))
    if flags.gpus != 1 or config.training.shard:
        raise ConfigError(f"the plan of {flags.method} is that of one process; drop gpus and shard")
    if flags.rows is not None and flags.data:
        raise ConfigError("rows has no effect with --data, whose prompts are counted; drop one of them")
    if flags.rows is not None and flags.rows < 1:
        raise ConfigError(f"rows={flags.rows}: at least 1 is needed")
    if not flags.data:
        (refuse_without_data if flags.rows is None else refuse_of_files)(flags)
    return online_estimate(
        config,
        has_data=bool(flags.data),
        rows=flags.rows,
        device=flags.device,
        memory=None if flags.memory is None else bytes_of(flags.memory),
        gpu=flags.gpu,
    )
