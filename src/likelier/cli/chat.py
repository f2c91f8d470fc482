"""`likelier chat`: flags; the talk itself is in `conversation`."""

from __future__ import annotations

import argparse

from likelier.cli.shared import positive


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `likelier chat`."""
    parser.add_argument("run", metavar="RUN", help="a run folder, a model or adapter folder, a hub id")
    parser.add_argument("--reference", help="the model beside it (default: the run's own; an adapter's base)")
    parser.add_argument("--system", help="a system turn before the conversation")
    parser.add_argument("--max-new-tokens", type=positive(int), default=256, help="tokens of an answer (default: 256)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest token (the default)")
    parser.add_argument("--seed", type=int, default=42, help="seed of drawn answers (default: 42)")
    parser.add_argument("--prompt", action="append", default=[], help="answer this and end; may be given several times")


def run(flags: argparse.Namespace) -> None:
    """Talk, or answer the given prompts."""
    from likelier.cli.conversation import chat
    from likelier.models.generation import Decoding

    decoding = Decoding(flags.max_new_tokens, flags.temperature, flags.seed)
    chat(flags.run, reference=flags.reference, system=flags.system, decoding=decoding, prompts=flags.prompt)
