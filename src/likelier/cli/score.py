"""`likelier score`: the implicit reward of every answer in a file."""

from __future__ import annotations

import argparse

from likelier.cli.shared import add_columns_flag, add_overwrite_flag, positive


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `likelier score`."""
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
    parser.add_argument(
        "--dtype",
        choices=["auto", "float32", "bfloat16"],
        default="auto",
        help="precision of the model (default: auto)",
    )
    parser.add_argument(
        "--token-budget", type=positive(int), help="padded tokens of one micro-batch (default: from memory)"
    )
    _add_mends(parser.add_argument_group("conversations (default: as the run)", argument_default=argparse.SUPPRESS))


def _add_mends(group: argparse._ArgumentGroup) -> None:
    """The options of conversations that messages about rows name, without importing their class."""
    group.add_argument("--chat-template", metavar="TEMPLATE", help="a file with a Jinja chat template")
    group.add_argument(
        "--reasoning", choices=["keep", "drop"], help="reasoning that messages hold: written or left out"
    )
    group.add_argument("--train-on", choices=["all", "last"], help="which turns of an answer are scored")
    fold = "put a system turn in front of the first user's text"
    group.add_argument("--fold-system", action=argparse.BooleanOptionalAction, help=fold)


def run(flags: argparse.Namespace) -> None:
    """Score, write, and say what was found."""
    from likelier.cli.flags import given_chat_options
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
