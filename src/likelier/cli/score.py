"""`likelier score`: the implicit reward of every answer in a file."""

from __future__ import annotations

import argparse

from likelier.cli.flags import add_section_flags, given_chat_options
from likelier.cli.shared import add_columns_flag, add_dtype_flag, add_overwrite_flag, positive
from likelier.data.options import ChatOptions


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `likelier score`; of conversations' options those that messages about rows name."""
    parser.add_argument(
        "--model", required=True, help="the policy: a run folder, a model or adapter folder, a hub id, demo"
    )
    parser.add_argument("--reference", help="the reference model (default: a run's own; an adapter's base)")
    parser.add_argument("--data", required=True, help="pairs or labelled answers, in any known format")
    add_columns_flag(parser)
    parser.add_argument("--output", required=True, help="JSON lines, one object a row")
    add_overwrite_flag(parser)
    parser.add_argument("--beta", type=positive(float), help="reward scale (default: the run's own, else 0.1)")
    parser.add_argument("--per-token", action="store_true", help="add every answer token with its log-ratio")
    parser.add_argument(
        "--max-length", type=positive(int), help="tokens of prompt + answer (default: the context, at most 2048)"
    )
    add_dtype_flag(parser)
    parser.add_argument(
        "--token-budget", type=positive(int), help="padded tokens of one micro-batch (default: from memory)"
    )
    chat = parser.add_argument_group("conversations (default: as the run)")
    add_section_flags(chat, ChatOptions, ("chat_template", "reasoning", "train_on", "fold_system"))


def run(flags: argparse.Namespace) -> None:
    """Score, write, and say what was found."""
    from likelier.scoring.score_file import score_file
    from likelier.utils.console import put

    put(
        score_file(
            flags.model,
            flags.reference,
            flags.data,
            flags.output,
            beta=flags.beta,
            per_token=flags.per_token,
            max_length=flags.max_length,
            dtype=flags.dtype,
            token_budget=flags.token_budget,
            columns=flags.columns,
            overwrite=flags.overwrite,
            chat=given_chat_options(flags),
        )
    )
