"""A run of TRL, Axolotl, LLaMA-Factory, verl or OpenRLHF as a run file of ours.

Nothing is dropped in silence: every option of the source is translated, or named in a note that says what differs,
what needs no option here, or what has no counterpart. What would make another method of it is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from likelier.cli.importing import axolotl, llamafactory, openrlhf, trl, trl_online, trl_ppo, verl
from likelier.cli.importing.common import Draft
from likelier.cli.importing.text import read_source, recognise
from likelier.online.config import parse_run
from likelier.utils.errors import ConfigError


@dataclass(frozen=True)
class Tool:
    """A tool whose configurations are read: its name in words, its own options, its translation."""

    name: str
    marks: frozenset[str]
    translate: Callable[[Draft, str | None], None]


def _of_trl(draft: Draft, trainer: str | None) -> None:
    known, of_ppo = trl_online.online_trainer(draft), bool(draft.values.keys() & trl_ppo.MARKS)
    if of_ppo and known in (None, "online_dpo"):  # whose options PPO's configuration has as well
        known = "ppo"
    trainer = trainer or known
    if trainer == "ppo":
        trl_ppo.translate(draft)
    elif trainer in trl_online.TRAINERS:
        trl_online.translate(draft, trainer)
    else:
        trl.translate(draft, trainer)


TOOLS = {
    "trl": Tool("TRL", trl.MARKS | trl_online.MARKS | trl_ppo.MARKS, _of_trl),
    "axolotl": Tool("Axolotl", axolotl.MARKS, axolotl.translate),
    "llama-factory": Tool("LLaMA-Factory", llamafactory.MARKS, llamafactory.translate),
    "verl": Tool("verl", verl.MARKS, verl.translate),
    "openrlhf": Tool("OpenRLHF", openrlhf.MARKS, openrlhf.translate),
}


def import_config(path: str, tool: str | None = None, trainer: str | None = None) -> Draft:
    """Translate a configuration file; `tool` and TRL's `trainer` are found out where they are None.

    Raises `ConfigError` for a file that cannot be read or recognised, and for a method that is not here.
    """
    values = read_source(path)
    blocks = dict.fromkeys([key.partition(".")[0] for key in values], True)
    tool = tool or recognise(path, {**blocks, **values}, {name: one.marks for name, one in TOOLS.items()})
    if tool == "verl":
        values = verl.flattened(values)
    if trainer is not None and tool != "trl":
        raise ConfigError(f"--trainer is about TRL's files, and {path} is one of {TOOLS[tool].name}; drop it")
    draft = Draft(TOOLS[tool].name, path, values)
    TOOLS[tool].translate(draft, trainer)
    try:
        parse_run(draft.options | ({"trainer": draft.trainer} if draft.trainer else {}))
    except ConfigError as error:
        raise ConfigError(f"{path}: translated, it would not run: {error}") from error
    return draft
