"""Flags that several commands have, and what numbers of flags may be. Light to import, for a quick `--help`."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from likelier.data.columns import COLUMNS_HELP, MERGE_VOTES_HELP


def add_overwrite_flag(parser: argparse._ActionsContainer) -> None:
    """The flag of every command that writes a file of a given name."""
    parser.add_argument("--overwrite", action="store_true", help="write even where a file is there already")


def add_merge_votes_flag(parser: argparse._ActionsContainer) -> None:
    """Give a command the flag `--merge-votes`."""
    parser.add_argument("--merge-votes", action="store_true", help=MERGE_VOTES_HELP)


def add_columns_flag(parser: argparse._ActionsContainer) -> None:
    """Give a command the flag `--columns`; what it gives is read by `data.columns.columns_of`."""
    parser.add_argument("--columns", nargs="+", action="extend", metavar="ROLE=COLUMN", help=COLUMNS_HELP)


def add_dtype_flag(parser: argparse._ActionsContainer) -> None:
    """The precision of a model that is loaded to be asked."""
    kinds = ["auto", "float32", "bfloat16"]
    parser.add_argument("--dtype", choices=kinds, default="auto", help="precision of the model (default: auto)")


def write_told(output: str, content: str) -> None:
    """Write a result where the user named it, and say so."""
    from likelier.utils.console import say
    from likelier.utils.files import write_output

    write_output(output, content)
    say(f"written: {output}")


def positive(kind: type) -> Callable[[str], float]:
    """An argparse type: a number above 0."""

    def number(text: str) -> float:
        value = kind(text)
        if not 0 < value < float("inf"):
            raise ValueError(text)
        return value

    number.__name__ = f"positive {kind.__name__}"
    return number


def count(text: str) -> int:
    """An argparse type: a whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(text)
    return int(text)


count.__name__ = "whole number from 1 on"  # argparse names the type in its message
