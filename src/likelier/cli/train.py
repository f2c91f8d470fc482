"""`likelier train`: one run, or the stages of a file."""

from __future__ import annotations

import argparse
from typing import Any


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `likelier train`: all those of a run."""
    from likelier.cli.flags import add_online_flags, add_run_flags

    parser.add_argument("config", nargs="?", help="a YAML file with the same names as the flags; flags win over it")
    add_run_flags(parser)
    add_online_flags(parser)


def run(flags: argparse.Namespace) -> None:
    """Train by the file, where there is one, and the flags."""
    from likelier.experiments.watched import train_online_watched, train_watched
    from likelier.objectives.online import ONLINE_METHODS
    from likelier.online.config import parse_online
    from likelier.training.config import RIVALS, parse, read_yaml

    given = {name: value for name, value in vars(flags).items() if name != "config"}
    from_file = read_yaml(flags.config) if flags.config else {}
    for name in given:
        from_file.pop(RIVALS.get(name, ""), None)
    if "stages" in from_file:
        _train_stages(from_file, given)
    elif {**from_file, **given}.get("method") in ONLINE_METHODS:
        train_online_watched(parse_online({**from_file, **given}))
    else:
        _refuse_online_options({**from_file, **given})
        train_watched(parse({**from_file, **given}))


def _refuse_online_options(values: dict[str, Any]) -> None:
    """Raises `ConfigError` for an option that only methods have which write their answers."""
    from likelier.objectives.online import ONLINE_METHODS
    from likelier.online.config import ONLINE_NAMES
    from likelier.utils.errors import ConfigError

    for name in values:
        if str(name).replace("-", "_") in ONLINE_NAMES:
            method = values.get("method", "dpo")
            raise ConfigError(f"{name} has no effect on {method}; it belongs to {', '.join(ONLINE_METHODS)}")


def _train_stages(from_file: dict[str, Any], given: dict[str, Any]) -> None:
    from likelier.experiments.stages import parse_stages, train_stages
    from likelier.utils.errors import ConfigError

    blocks = from_file["stages"] if isinstance(from_file["stages"], list) else []
    for number, block in enumerate(blocks, 1):
        for name in given:
            if isinstance(block, dict) and {name, name.replace("_", "-")} & block.keys():
                raise ConfigError(f"{name} was given as a flag, and stage {number} has its own; change it in the file")
    train_stages(parse_stages({**from_file, **given}))
