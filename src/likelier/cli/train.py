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
    from likelier.experiments.watched import train_any_watched
    from likelier.online.config import parse_run
    from likelier.training.config import RIVALS, read_yaml

    given = {name: value for name, value in vars(flags).items() if name != "config"}
    from_file = read_yaml(flags.config) if flags.config else {}
    for name in given:
        from_file.pop(RIVALS.get(name, ""), None)
    if "stages" in from_file:
        _train_stages(from_file, given)
        return
    train_any_watched(parse_run({**from_file, **given}))


def _train_stages(from_file: dict[str, Any], given: dict[str, Any]) -> None:
    from likelier.experiments.stages import parse_stages, train_stages, written_blocks
    from likelier.utils.errors import ConfigError

    for number, block in enumerate(written_blocks(from_file["stages"]), 1):
        for name in given:
            if {name, name.replace("_", "-")} & block.keys():
                raise ConfigError(f"{name} was given as a flag, and stage {number} has its own; change it in the file")
    train_stages(parse_stages({**from_file, **given}))
