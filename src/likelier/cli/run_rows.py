"""The flags of `train` that decide which rows a run has and how long it takes, for those who plan one."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from likelier.cli.shared import add_columns_flag
from likelier.data.columns import EVAL_DATA_HELP, EVAL_FRACTION_HELP, MERGE_VOTES_HELP
from likelier.data.options import option
from likelier.utils.errors import ConfigError

if TYPE_CHECKING:
    from likelier.data.options import ChatOptions


@dataclass(frozen=True)
class Loading:
    """What is held out, and whether ratings become votes: as `training.config.RunOptions`, which would need torch."""

    eval_data: str | None = option(None, EVAL_DATA_HELP)
    eval_fraction: float | None = option(None, EVAL_FRACTION_HELP)
    merge_votes: bool = option(False, MERGE_VOTES_HELP)


LOADED = ("eval_data", "eval_fraction", "merge_votes")
SIGNALS = ("use_votes", "use_weights", "use_margins", "min_score_gap")
ROWS = ("truncation", "order", "seed", *SIGNALS)
TIME = ("epochs", "max_steps", "eval_steps", "eval_items", "eval_prompts", "eval_new_tokens")


def add_data_flags(parser: argparse.ArgumentParser, *, times: bool = True) -> None:
    """Those about the data, with the run's names; with `times` also those that make it shorter or longer."""
    from likelier.cli.flags import add_section_flags
    from likelier.data.options import ChatOptions
    from likelier.training.options import TrainingOptions

    group = parser.add_argument_group("data, as for train")
    add_columns_flag(group)
    add_section_flags(group, Loading)
    add_section_flags(group, TrainingOptions, ROWS if times else (*ROWS, "max_length"))
    add_section_flags(parser.add_argument_group("conversations"), ChatOptions)
    if times:
        add_section_flags(parser.add_argument_group("how long it takes"), TrainingOptions, TIME)


def given_loading(flags: argparse.Namespace) -> dict[str, Any]:
    """What is held out, and whether ratings become votes: arguments of `load_preferences`."""
    from likelier.cli.flags import given_options

    return given_options(flags, Loading, LOADED)


def given_of_rows(flags: argparse.Namespace) -> dict[str, Any]:
    """Every option about the data that was typed, by its name in a run file."""
    from likelier.cli.flags import given_chat_options, given_options
    from likelier.training.options import TrainingOptions

    names = (*ROWS, "max_length")
    return given_loading(flags) | given_options(flags, TrainingOptions, names) | given_chat_options(flags)


def given_chat(flags: argparse.Namespace) -> ChatOptions:
    """How conversations become text."""
    from likelier.cli.flags import given_chat_options
    from likelier.data.options import ChatOptions

    return ChatOptions(**given_chat_options(flags))


def refuse_without_data(flags: argparse.Namespace) -> None:
    """Without data every flag about them is inert, hence an error."""
    _refuse(flags, (*LOADED, *ROWS, *TIME))


def refuse_of_files(flags: argparse.Namespace) -> None:
    """Where only the number of rows is known every flag about what a file holds is inert, hence an error."""
    _refuse(flags, ("eval_data", "merge_votes", *(name for name in ROWS if name not in ("order", "seed"))))


def _refuse(flags: argparse.Namespace, names: tuple[str, ...]) -> None:
    from dataclasses import fields

    from likelier.data.options import ChatOptions

    names = (*names, *(item.name for item in fields(ChatOptions)))
    typed = [name for name in names if hasattr(flags, name)]
    for name in (["columns"] if flags.columns else []) + typed:
        raise ConfigError(f"{name} has no effect without --data; drop it")
