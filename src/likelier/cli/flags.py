"""The flags of `likelier train`, made from the option dataclasses: one name, one help text, one default."""

from __future__ import annotations

import argparse
import typing
from collections.abc import Collection
from dataclasses import MISSING, Field, fields
from typing import Any, Literal

from likelier.data.options import ChatOptions


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """Add every option as a flag. A flag that is not given leaves no trace in the namespace."""
    from likelier.models.options import LoraOptions
    from likelier.training.config import RunOptions
    from likelier.training.options import TrainingOptions

    add_section_flags(parser.add_argument_group("the run"), RunOptions)
    add_hyperparameter_flags(parser.add_argument_group("the method's hyperparameters"))
    add_section_flags(parser.add_argument_group("conversations"), ChatOptions)
    add_section_flags(parser.add_argument_group("adapter"), LoraOptions)
    add_section_flags(parser.add_argument_group("training"), TrainingOptions)


def add_hyperparameter_flags(group: Any, names: Collection[str] | None = None) -> None:
    """Add the hyperparameters of all methods (those of these names), also as METHOD.NAME."""
    from likelier.objectives.base import shown_default
    from likelier.online.config import online_hyperparameters
    from likelier.training.config import hyperparameter_fields, hyperparameter_help

    for name, owners in hyperparameter_fields().items():
        if names is not None and name not in names:
            continue
        defaults = {method: shown_default(item) for method, item in owners.items()}
        known = {method: "from the data" if value is None else value for method, value in defaults.items()}
        known |= {one.method: one.hyperparameters()[name] for one in online_hyperparameters().get(name, ())}
        words = ", ".join(f"{method} {default}" for method, default in known.items() if default is not MISSING)
        text = f"{hyperparameter_help(owners)}{f' ({words})' if words else ''}".replace("%", "%%")
        first = next(iter(owners.values()))
        _flag(group, name, text, isinstance(first.default, bool), many=first.metadata.get("many"))
        for method, item in owners.items():  # in a sum of losses
            _flag(group, f"{method}.{name}", argparse.SUPPRESS, isinstance(item.default, bool))


def add_online_flags(parser: argparse.ArgumentParser, names: Collection[str] | None = None) -> None:
    """Add the options (those of these names) of runs that learn from answers that they write."""
    from likelier.objectives.online import ONLINE_METHODS
    from likelier.online.config import DISTORTIONS, online_fields, paper_help, preset_default
    from likelier.online.options import OnlineOptions
    from likelier.training.config import hyperparameter_fields

    group = parser.add_argument_group("answers that the policy writes", f"For {', '.join(ONLINE_METHODS)}.")
    add_section_flags(group, OnlineOptions, names)
    group = parser.add_argument_group(
        "their loss", "Each method is a preset of these options; one that it has no use for is refused."
    )
    for name, (item, hint) in online_fields().items():
        if name not in hyperparameter_fields() and (names is None or name in names):
            default = preset_default(name)
            text = f"{item.metadata['help']}{f' (default: {default})' if default else ''}".replace("%", "%%")
            _flag(group, name, text, hint is bool, _choices(hint))
    _flag(group, "paper", paper_help(), True)
    for name in DISTORTIONS if names is None else ():  # of sampling; told why they are no options of training
        group.add_argument(f"--{name.replace('_', '-')}", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def add_section_flags(group: Any, section: type, names: Collection[str] | None = None) -> None:
    """Add the options of one dataclass (those of these names). A flag that is not given leaves no trace in the
    namespace.
    """
    hints = typing.get_type_hints(section)
    for item in fields(section):
        if item.metadata.get("flag", True) and (names is None or item.name in names):
            many = item.metadata.get("many")
            action = _OneOrMore if item.metadata.get("repeats") else "store"
            _flag(group, item.name, _help(item), hints[item.name] is bool, _choices(hints[item.name]), many, action)


def _help(item: Field[Any]) -> str:
    text = item.metadata["help"].replace("%", "%%")
    return text if item.default in (None, "", False, ()) or "default" in text else f"{text} (default: {item.default})"


def _choices(hint: Any) -> list[str] | None:
    for kind in (hint, *typing.get_args(hint)):
        if typing.get_origin(kind) is Literal:
            return [str(choice) for choice in typing.get_args(kind)]
    return None


class _OneOrMore(argparse.Action):
    """A flag that may be given again: one value as such, several as a list."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        before = getattr(namespace, self.dest, [])
        several = [*(before if isinstance(before, list) else [before]), values]
        setattr(namespace, self.dest, several if len(several) > 1 else values)


def _flag(
    group: Any,
    name: str,
    text: str,
    is_bool: bool,
    choices: list[str] | None = None,
    many: str | None = None,
    action: Any = "store",
) -> None:
    """One flag; `many` is the shape of each of its words, where it takes several."""
    flag = "--" + name.replace("_", "-")
    if is_bool:
        group.add_argument(flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text)
    elif many:
        group.add_argument(flag, default=argparse.SUPPRESS, help=text, nargs="+", action="extend", metavar=many)
    else:
        metavar = None if choices else name.partition("_per_")[0].rsplit("_", 1)[-1].upper()
        group.add_argument(flag, default=argparse.SUPPRESS, help=text, choices=choices, metavar=metavar, action=action)


def given_options(flags: argparse.Namespace, section: type, names: Collection[str] | None = None) -> dict[str, Any]:
    """The options of one dataclass (those of these names) that were typed, as its types have them.

    Raises `ConfigError` for other values.
    """
    from likelier.training.config import coerce

    hints = typing.get_type_hints(section)
    typed = {item.name: getattr(flags, item.name) for item in fields(section) if hasattr(flags, item.name)}
    typed = {name: value for name, value in typed.items() if names is None or name in names}
    return {name: coerce(name, value, hints[name]) for name, value in typed.items() if value is not None}


def given_chat_options(flags: argparse.Namespace) -> dict[str, Any]:
    """The chat options that were typed (see `add_section_flags`)."""
    return {item.name: getattr(flags, item.name) for item in fields(ChatOptions) if hasattr(flags, item.name)}
