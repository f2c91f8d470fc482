"""Options about data: which sets, and how conversations become text.

A field's `help` metadata is its `--help`; None means "not given", so that an option without effect can be told from one
that was left alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, Literal

from likelier.data.columns import Columns, columns_of
from likelier.data.names import short_name
from likelier.utils.errors import ConfigError


def option(default: Any, text: str, **more: Any) -> Any:
    """A dataclass field with a help text."""
    return field(default=default, metadata={"help": text, **more})


@dataclass(frozen=True)
class DataSet:
    """One of several data sets of a run.

    `path` is a file, a folder or a hub id; `weight` says how often its rows are seen in an epoch (0.5: a seeded half of
    them, 2: each twice); `subset`, `split` and `revision` choose within a hub id (`subset`, `revision`) or a `datasets`
    folder (`split`, also slices such as `train[:50%]`, `train[10:20]`, `train+test`), or the sheet of a workbook
    (`subset`). `columns` says which column is what (a `Columns`, or a mapping of its fields). `name` stands in the
    account and in the evaluation's metrics (default: the path's last part, and as much more as tells it from others).
    """

    path: str
    name: str = ""
    weight: float = 1.0
    subset: str | None = None
    split: str | None = None
    revision: str | None = None
    columns: Columns | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", columns_of(self.columns))
        if not isinstance(self.path, str):
            raise ConfigError(f"a data set has path={self.path!r}; give a file, a folder or a hub id")
        if not self.weight > 0:
            raise ConfigError(f"{self.path}: weight={self.weight} is out of range; it must be above 0")
        if not self.name:
            object.__setattr__(self, "name", short_name(self.path))


@dataclass(frozen=True)
class ChatOptions:
    """How conversations become text."""

    chat_template: str | None = option(None, "a file with a Jinja chat template, instead of the model's own")
    chat_template_kwargs: dict[str, Any] | None = option(
        None, "more arguments of the template, such as enable_thinking: false (YAML only)", flag=False
    )
    system_prompt: str | None = option(None, "a system turn for the conversations that have none")
    reasoning: Literal["keep", "drop"] | None = option(
        None,
        "what becomes of the reasoning in messages: keep writes it in front of the answer, for templates that do not "
        "print its field; drop leaves it out",
    )
    train_on: Literal["all", "last"] | None = option(
        None,
        "where an answer has several turns (tool calls, a conversation that goes on), train on all of the assistant's, "
        "or on the last one only; the others then belong to the prompt (default: all)",
    )
    fold_system: bool = option(
        False, "put a system turn in front of the first user's text, for chat templates that have no system turn"
    )
    date: str | None = option(
        None,
        "the date that chat templates write into conversations: 2026-11-29, or with a time 2026-11-29T13:45:00 "
        "(default: the moment at which the run began)",
    )

    def __post_init__(self) -> None:
        if self.chat_template_kwargs is not None and not isinstance(self.chat_template_kwargs, dict):
            found = type(self.chat_template_kwargs).__name__
            raise ConfigError(f"chat_template_kwargs: must be a block of names and values, found {found}")
        if self.train_on not in (None, "all", "last"):
            raise ConfigError(f"train_on={self.train_on!r} is unknown; known: all, last")
        if self.date is not None:
            parsed_date(self.date)

    @property
    def given(self) -> list[str]:
        """The names of the options that are not left alone."""
        return [item.name for item in fields(self) if getattr(self, item.name)]

    @property
    def filled(self) -> dict[str, Any]:
        """Every option by its name, None where it is as by default."""
        return {item.name: getattr(self, item.name) or None for item in fields(self)} | {
            "train_on": None if self.train_on == "all" else self.train_on
        }


def parsed_date(text: str) -> datetime:
    """A date with or without a time. Raises `ConfigError` for anything else."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"date={text!r} is no date; write it as 2026-11-29, or 2026-11-29T13:45:00") from None
