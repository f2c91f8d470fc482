"""`likelier score`: the implicit reward of every answer in a file, or what a reward model gives it."""

from __future__ import annotations

import argparse
from typing import Any

from likelier.cli.flags import add_section_flags, given_chat_options
from likelier.cli.shared import add_columns_flag, add_dtype_flag, add_overwrite_flag, positive
from likelier.data.options import ChatOptions


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `likelier score`; of conversations' options those that messages about rows name."""
    scored_by = parser.add_mutually_exclusive_group(required=True)
    scored_by.add_argument("--model", help="the policy: a run folder, a model or adapter folder, a hub id, demo")
    text = (
        "a reward model in its place: a run of --method reward, or a classifier with one output; several are compared"
    )
    scored_by.add_argument("--reward-model", nargs="+", help=text)
    text = (
        "beside a reward model: a run of dpo or the like, whose implicit rewards of the same pairs are held against it"
    )
    parser.add_argument("--agree-with", help=text)
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
    from likelier.scoring.reward_file import score_rewards
    from likelier.scoring.score_file import score_file
    from likelier.utils.console import put
    from likelier.utils.errors import ConfigError

    names = ("per_token", "max_length", "dtype", "token_budget", "columns", "overwrite")
    how: dict[str, Any] = {name: getattr(flags, name) for name in names} | {"chat": given_chat_options(flags)}
    if flags.reward_model is None:
        if flags.agree_with is not None:
            raise ConfigError("agree_with holds a run against a reward model; give --reward-model in place of --model")
        put(score_file(flags.model, flags.reference, flags.data, flags.output, beta=flags.beta, **how))
        return
    if flags.beta is not None:
        raise ConfigError("beta has no effect with --reward-model, which is no policy; drop it")
    if flags.reference is not None and flags.agree_with is None:
        raise ConfigError("reference has no effect with --reward-model, which is no policy; drop it")
    against = {"agree_with": flags.agree_with, "reference": flags.reference}
    put(score_rewards(flags.reward_model, flags.data, flags.output, **against, **how))
