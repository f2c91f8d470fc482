"""Tables of all options, made from the dataclasses that the command line is made from: they cannot fall behind."""

import re
from dataclasses import MISSING, Field, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

_MARK = re.compile(r"^<!-- (?:options: (?P<section>\w+)|(?P<made>hyperparameters|presets)) -->$", re.MULTILINE)


def _shown(value: object) -> str:
    if value is None or value == ():
        return ""
    return f"`{value}`" if value != "" and value is not MISSING else "required"


def _row(name: str, default: str, text: str) -> str:
    return f"| `{name}` | {default} | {text.replace('|', '&#124;')} |"


def _section(name: str) -> list[str]:
    from likelier.data.options import ChatOptions
    from likelier.experiments.stages.options import SampleOptions
    from likelier.models.options import LoraOptions
    from likelier.online.options import OnlineOptions
    from likelier.training.config import RunOptions
    from likelier.training.options import TrainingOptions

    sections = (RunOptions, LoraOptions, TrainingOptions, ChatOptions, OnlineOptions, SampleOptions)
    named = {section.__name__: section for section in sections}
    section: Any = named[name]
    hints = get_type_hints(section)
    return [_row(one.name, _shown(one.default), _what(one, hints[one.name])) for one in fields(section)]


def _what(one: Field[Any], hint: Any) -> str:
    choices = [str(word) for kind in (hint, *get_args(hint)) if get_origin(kind) is Literal for word in get_args(kind)]
    named = len(choices) > 1 and not all(word in one.metadata["help"] for word in choices)
    return one.metadata["help"] + (f"; one of {', '.join(choices)}" if named else "")


def _hyperparameters() -> list[str]:
    from likelier.objectives.base import shown_default
    from likelier.training.config import hyperparameter_fields, hyperparameter_help

    rows = []
    for name, owners in hyperparameter_fields().items():
        defaults = {_shown(shown_default(one)) or "from the data" for one in owners.values()}
        each = ", ".join(f"{method} {_shown(shown_default(one)) or 'from the data'}" for method, one in owners.items())
        rows.append(_row(name, each if len(defaults) > 1 else defaults.pop(), hyperparameter_help(owners)))
    return rows


def _presets() -> list[str]:
    from likelier.online.config import online_fields, paper_help, preset_default

    rows = [_row(name, preset_default(name), _what(one, hint)) for name, (one, hint) in online_fields().items()]
    return [*rows, _row("paper", "", paper_help())]


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put a table in the place of each mark."""

    def table(match: re.Match[str]) -> str:
        made = {"hyperparameters": _hyperparameters, "presets": _presets}
        rows = made[match["made"]]() if match["made"] else _section(match["section"])
        return "\n".join(["| option | default | what |", "|---|---|---|", *rows])

    return _MARK.sub(table, markdown)
