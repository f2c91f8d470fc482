"""`likelier sample`: a policy's answers to prompts, with rewards and pairs where they are asked for."""

from __future__ import annotations

import argparse

from likelier.cli.flags import add_section_flags, given_chat_options
from likelier.cli.shared import add_columns_flag, add_dtype_flag, add_overwrite_flag, count, positive
from likelier.data.options import ChatOptions


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `likelier sample`."""
    parser.add_argument(
        "--model", required=True, help="the policy: a run folder, a model or adapter folder, a hub id, demo"
    )
    text = "prompts: rows of `prompt` with any further columns, preferences in any known format, or gym:TASK"
    parser.add_argument("--data", required=True, nargs="+", help=text)
    add_columns_flag(parser)
    text = "JSON lines, an answer a row; a file that an interrupted call left is gone on with"
    parser.add_argument("--output", required=True, help=text)
    add_overwrite_flag(parser)
    parser.add_argument("--answers", type=count, default=8, help="answers to each prompt (default: 8)")
    add_dtype_flag(parser)
    parser.add_argument("--max-prompt-length", type=count, help="tokens of a prompt (default: what the context leaves)")
    policies = ["drop", "cut-prompt-left", "error"]
    text = "what becomes of longer prompts (default: drop, counted)"
    parser.add_argument("--prompt-truncation", choices=policies, default="drop", help=text)
    text = "what draws: this process, or a vLLM server that has the model (default: local)"
    parser.add_argument("--sampler", choices=["local", "vllm"], default="local", help=text)
    parser.add_argument("--sampler-url", help="the server of --sampler vllm, such as http://127.0.0.1:8000")
    text = "seconds that it has for the answers to one prompt (default: 600)"
    parser.add_argument("--sampler-timeout", type=positive(float), help=text)
    _add_sampling(parser.add_argument_group("how answers are drawn"))
    _add_rewards(parser.add_argument_group("rewards and pairs"))
    chat = parser.add_argument_group("conversations (default: as the run)")
    names = ("chat_template", "system_prompt", "reasoning", "fold_system", "date")
    add_section_flags(chat, ChatOptions, names)


def _add_sampling(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--max-new-tokens", type=count, default=256, help="tokens of an answer (default: 256)")
    text = "1 draws from the policy's own distribution (the default), 0 takes the likeliest token"
    group.add_argument("--temperature", type=float, default=1.0, help=text)
    group.add_argument("--top-p", type=float, default=1.0, help="draw from the likeliest tokens of this much chance")
    group.add_argument("--top-k", type=int, default=0, help="draw from so many of the likeliest tokens (default: all)")
    text = "leave out tokens of less chance than this share of the likeliest one's"
    group.add_argument("--min-p", type=float, default=0.0, help=text)
    text = "a text that ends an answer, besides the model's own end; may be given several times"
    group.add_argument("--stop", action="append", default=[], help=text)
    group.add_argument("--seed", type=int, default=42, help="same seed, same answers (default: 42)")


def _add_rewards(group: argparse._ArgumentGroup) -> None:
    text = "what rewards answers: file.py:function, json, contains:COLUMN, model:FOLDER, ...; several one by one"
    group.add_argument("--reward", action="append", default=[], help=text)
    group.add_argument("--reward-weights", type=float, nargs="+", help="a weight for each reward (default: 1)")
    group.add_argument("--reward-timeout", type=positive(float), help="seconds that a reward has for an answer")
    kinds = ["best-worst", "all", "threshold"]
    text = "make pairs to train on: the best and worst answer, all that differ, those on two sides of a threshold"
    group.add_argument("--pairs", choices=kinds, help=text)
    group.add_argument("--pairs-output", help="JSON lines, a pair a row")
    group.add_argument("--threshold", type=float, help="with --pairs threshold: good from this reward on")
    group.add_argument("--keep-cut", action="store_true", help="also pair answers that were cut at --max-new-tokens")


def run(flags: argparse.Namespace) -> None:
    """Sample, reward, write, and say what was found."""
    from likelier.online.answers.sample import Asking, Pairing, sample_file
    from likelier.online.sampling import Sampling, server_of
    from likelier.utils.console import put

    drawn = ("max_new_tokens", "temperature", "seed", "top_p", "top_k", "min_p")
    sampling = Sampling(**{name: getattr(flags, name) for name in drawn}, stop=tuple(flags.stop))
    chat = given_chat_options(flags)
    asking = Asking(flags.data, flags.columns, flags.max_prompt_length, flags.prompt_truncation, chat)
    put(
        sample_file(
            flags.model,
            asking,
            flags.output,
            answers=flags.answers,
            sampling=sampling,
            rewards=flags.reward,
            reward_weights=flags.reward_weights,
            reward_timeout=flags.reward_timeout,
            pairing=Pairing(flags.pairs, flags.pairs_output, flags.threshold, flags.keep_cut),
            dtype=flags.dtype,
            overwrite=flags.overwrite,
            server=server_of(flags.sampler, flags.sampler_url, flags.sampler_timeout),
        )
    )
