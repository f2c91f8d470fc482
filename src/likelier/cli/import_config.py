"""`likelier import-config`: another tool's configuration as a run file of ours; `importing` translates."""

from __future__ import annotations

import argparse
from pathlib import Path

from likelier.cli.shared import add_overwrite_flag, write_told
from likelier.utils.errors import ConfigError
from likelier.utils.outputs import check_output


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `likelier import-config`."""
    parser.add_argument("file", metavar="FILE", help="the YAML or JSON file of the other tool")
    tools = ["trl", "axolotl", "llama-factory", "verl", "openrlhf"]
    parser.add_argument("--from", dest="tool", choices=tools, help="whose file it is (default: found from its options)")
    parser.add_argument(
        "--trainer",
        choices=["dpo", "kto", "cpo", "orpo", "reward", "grpo", "rloo", "online_dpo", "ppo"],
        help="TRL: the trainer it is for (default: found from its options)",
    )
    parser.add_argument("--output", help="the run file to be written (default: standard output)")
    add_overwrite_flag(parser)


def run(flags: argparse.Namespace) -> None:
    """Translate the file to `--output`, or to standard output, and say the notes."""
    from likelier.cli.importing import import_config
    from likelier.cli.importing.text import note_lines, render
    from likelier.utils.console import put, say

    output = flags.output
    if output is not None:
        check_output(output, inputs=[flags.file], overwrite=flags.overwrite)
        if not Path(output).parent.is_dir():
            raise ConfigError(f"{output} cannot be written: there is no folder {Path(output).parent}; make it first")
    draft = import_config(flags.file, flags.tool, flags.trainer)
    text = render(draft)
    for line in note_lines(draft):
        say(line)
    if output is None:
        put(text, end="", exact=True)
    else:
        write_told(output, text)
