"""The command line: subcommands of a few lines each, over the library.

Exit codes: 0 done, 1 a fault of ours (see `faults`), 2 bad input (one message, no traceback), 3 something was found: by
an audit, in a diagnosis that is an error, in a watched run or runs of a sweep that failed; 4 another process of the run
has ended; 130 interrupted (129 by SIGHUP, 143 by SIGTERM).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NoReturn

from likelier.utils.errors import nearest
from likelier.utils.outputs import add_overwrite_flag
from likelier.utils.versions import __version__


@dataclass(frozen=True)
class Command:
    """A subcommand: its one-line help, its flags, what it does (with an exit code, or none for 0). Flags are built only
    for the command that runs.
    """

    help: str
    usage: str
    add_flags: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int | None]


def _module(name: str) -> tuple[Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int | None]]:
    """The flags and the work of a command whose module has `add_flags` and `run`, imported when they are called."""

    def add_flags(parser: argparse.ArgumentParser) -> None:
        import_module(name).add_flags(parser)

    def run(flags: argparse.Namespace) -> int | None:
        return import_module(name).run(flags)

    return add_flags, run


def _positive(kind: type) -> Callable[[str], float]:
    """An argparse type: a number above 0."""

    def number(text: str) -> float:
        value = kind(text)
        if not 0 < value < float("inf"):
            raise ValueError(text)
        return value

    number.__name__ = f"positive {kind.__name__}"
    return number


def _demo_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="demo", help="a hub id or folder instead of the built-in small model")
    parser.add_argument("--output", help="the run folder (default: runs/demo, or the next free runs/demo-N)")
    parser.add_argument("--max-steps", type=_positive(int), help="stop after this many optimizer steps")


def _demo(flags: argparse.Namespace) -> None:
    from likelier.cli.demo import run_demo

    run_demo(model=flags.model, output=flags.output, max_steps=flags.max_steps)


def _train_flags(parser: argparse.ArgumentParser) -> None:
    from likelier.cli.flags import add_run_flags

    parser.add_argument("config", nargs="?", help="a YAML file with the same names as the flags; flags win over it")
    add_run_flags(parser)


def _train(flags: argparse.Namespace) -> None:
    from likelier.experiments.watched import train_watched
    from likelier.training.config import RIVALS, parse, read_yaml

    given = {name: value for name, value in vars(flags).items() if name not in ("config", "command")}
    from_file = read_yaml(flags.config) if flags.config else {}
    for name in given:
        from_file.pop(RIVALS.get(name, ""), None)
    if "stages" in from_file:
        _train_stages(from_file, given)
    else:
        train_watched(parse({**from_file, **given}))


def _train_stages(from_file: dict[str, Any], given: dict[str, Any]) -> None:
    from likelier.experiments.stages import parse_stages, train_stages
    from likelier.utils.errors import ConfigError

    blocks = from_file["stages"] if isinstance(from_file["stages"], list) else []
    for number, block in enumerate(blocks, 1):
        for name in given:
            if isinstance(block, dict) and {name, name.replace("_", "-")} & block.keys():
                raise ConfigError(f"{name} was given as a flag, and stage {number} has its own; change it in the file")
    train_stages(parse_stages({**from_file, **given}))


def _score_flags(parser: argparse.ArgumentParser) -> None:
    from likelier.data.columns import add_columns_flag

    parser.add_argument(
        "--model", required=True, help="the policy: a run folder, a model or adapter folder, a hub id, demo"
    )
    parser.add_argument("--reference", help="the reference model (default: a run's own; an adapter's base)")
    parser.add_argument("--data", required=True, help="pairs or labelled answers, in any known format")
    add_columns_flag(parser)
    parser.add_argument("--output", required=True, help="JSON lines, one object a row")
    add_overwrite_flag(parser)
    parser.add_argument("--beta", type=_positive(float), help="reward scale (default: the run's own, else 0.1)")
    parser.add_argument("--per-token", action="store_true", help="add every answer token with its log-ratio")
    parser.add_argument(
        "--max-length", type=_positive(int), help="tokens of prompt + answer (default: the context, at most 2048)"
    )
    parser.add_argument("--dtype", choices=["auto", "float32", "bfloat16"], default="auto", help="arithmetic")
    parser.add_argument(
        "--token-budget", type=_positive(int), help="padded tokens of one micro-batch (default: from memory)"
    )
    _add_mends(parser.add_argument_group("conversations (default: as the run)", argument_default=argparse.SUPPRESS))


def _add_mends(group: Any) -> None:
    """The options of conversations that messages about rows name, without importing their class."""
    group.add_argument("--chat-template", metavar="TEMPLATE", help="a file with a Jinja chat template")
    group.add_argument(
        "--reasoning", choices=["keep", "drop"], help="reasoning that messages hold: written or left out"
    )
    group.add_argument("--train-on", choices=["all", "last"], help="of an answer of several turns, what is scored")
    fold = "put a system turn in front of the first user's text"
    group.add_argument("--fold-system", action=argparse.BooleanOptionalAction, help=fold)


def _score(flags: argparse.Namespace) -> None:
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


def _chat_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="a run folder, a model or adapter folder, a hub id")
    parser.add_argument("--reference", help="the model beside it (default: the run's own; an adapter's base)")
    parser.add_argument("--system", help="a system turn before the conversation")
    parser.add_argument("--max-new-tokens", type=_positive(int), default=256, help="tokens of an answer (default: 256)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest token (the default)")
    parser.add_argument("--seed", type=int, default=42, help="of answers drawn at a temperature (default: 42)")
    parser.add_argument("--prompt", action="append", default=[], help="answer this and end; may be given several times")


def _chat(flags: argparse.Namespace) -> None:
    from likelier.cli.chat import chat
    from likelier.models.generation import Decoding

    decoding = Decoding(flags.max_new_tokens, flags.temperature, flags.seed)
    chat(flags.run, reference=flags.reference, system=flags.system, decoding=decoding, prompts=flags.prompt)


def _merge_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="a run folder or an adapter folder")
    parser.add_argument("output", metavar="OUT", help="the model folder to be made")
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16"], help="of the written weights (default: that of the base on disk)"
    )


def _merge(flags: argparse.Namespace) -> None:
    from likelier.training.merge import merge_run
    from likelier.utils.console import put

    put(merge_run(flags.run, flags.output, dtype=flags.dtype))


def _import_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="the YAML or JSON file of the other tool")
    tools = ["trl", "axolotl", "llama-factory"]
    parser.add_argument("--from", dest="tool", choices=tools, help="whose file it is (default: found from its options)")
    parser.add_argument(
        "--trainer", choices=["dpo", "kto", "cpo"], help="TRL: the trainer it is for (default: found from its options)"
    )
    parser.add_argument("--output", help="the run file to be written (default: standard output)")
    add_overwrite_flag(parser)


def _import(flags: argparse.Namespace) -> None:
    from likelier.cli.importing import write_import

    write_import(flags.file, flags.tool, flags.trainer, flags.output, overwrite=flags.overwrite)


def _convert_flags(parser: argparse.ArgumentParser) -> None:
    from likelier.data.columns import add_columns_flag

    parser.add_argument("input", metavar="IN", help="a preference file, a datasets folder or a hub id")
    parser.add_argument("output", metavar="OUT", help="JSON lines: a name that ends in .jsonl")
    kinds = ["pairs", "labels", "answers"]
    parser.add_argument("--to", choices=kinds, help="what to write (default: what the file holds)")
    parser.add_argument("--keep-undecided", action="store_true", help="write pairs with as many votes for as against")
    parser.add_argument("--subset", help="a subset of the hub id, or a sheet of the workbook")
    parser.add_argument("--split", help="a split of the hub id or datasets folder, or a slice: train[:50%%]")
    parser.add_argument("--revision", help="a revision of the hub id")
    add_overwrite_flag(parser)
    add_columns_flag(parser)


def _convert(flags: argparse.Namespace) -> None:
    from likelier.data.columns import columns_of
    from likelier.data.convert import convert_file
    from likelier.data.options import DataSet
    from likelier.utils.console import put

    choices = {name: getattr(flags, name) for name in ("subset", "split", "revision")}
    source = DataSet(flags.input, **choices, columns=columns_of(flags.columns))
    put(convert_file(source, flags.output, to=flags.to, keep_undecided=flags.keep_undecided, overwrite=flags.overwrite))


COMMANDS = {
    "demo": Command(
        "train the built-in small model on the built-in preferences and show what changed",
        "[options]",
        _demo_flags,
        _demo,
    ),
    "audit": Command(
        "what is in a preference file, and what is wrong with it", "FILE [options]", *_module("likelier.cli.audit")
    ),
    "preview": Command(
        "what each row trains on, token by token, before anything is trained",
        "FILE --model M [options]",
        *_module("likelier.cli.preview"),
    ),
    "convert": Command(
        "write a preference file as the JSON lines that every tool reads", "IN OUT [options]", _convert_flags, _convert
    ),
    "estimate": Command(
        "how much memory a run takes, part by part, and the token budget that fits",
        "--model M [options]",
        *_module("likelier.cli.estimate"),
    ),
    "recommend": Command(
        "which method and settings suit the data and the memory, with reasons and a run.yaml",
        "FILE [FILE ...] --model M [options]",
        *_module("likelier.cli.recommend"),
    ),
    "train": Command(
        "train a policy on preferences, by flags or a YAML file", "[CONFIG.yaml] [options]", _train_flags, _train
    ),
    "sweep": Command(
        "several runs that differ in what is named and in nothing else, and how they compare",
        "[CONFIG.yaml] --vary METHOD.OPTION=V1,V2 ... [--seeds N] [options]",
        *_module("likelier.cli.sweep"),
    ),
    "compare": Command(
        "runs, or the settings of a sweep, side by side",
        "RUN [RUN ...] [options]",
        *_module("likelier.cli.compare"),
    ),
    "score": Command(
        "implicit reward of every answer in a file, with accuracy where pairs are given",
        "--model M --data F --output O [options]",
        _score_flags,
        _score,
    ),
    "diagnose": Command(
        "what is wrong with a run: verdicts, the numbers behind them, what to try",
        "RUN [--json]",
        *_module("likelier.cli.diagnose"),
    ),
    "inspect": Command(
        "which tokens carry the reward of a row, and the whole chain from them to the loss",
        "RUN --row N [options]",
        *_module("likelier.cli.inspect"),
    ),
    "watch": Command(
        "look at a run while it trains, from another terminal", "RUN [options]", *_module("likelier.insight.live.watch")
    ),
    "chat": Command(
        "the policy's answer beside its reference's, each with its implicit reward", "RUN [options]", _chat_flags, _chat
    ),
    "report": Command(
        "one self-contained HTML file about a run: verdicts, curves, tokens, answers",
        "RUN [--output FILE]",
        *_module("likelier.insight.report.page"),
    ),
    "merge": Command(
        "write an adapter and its base as one ordinary model folder, checked", "RUN OUT [options]", _merge_flags, _merge
    ),
    "import-config": Command(
        "a run file of TRL, Axolotl or LLaMA-Factory as one of ours, with notes",
        "FILE [options]",
        _import_flags,
        _import,
    ),
}


class _Parser(argparse.ArgumentParser):
    """A parser that knows what a mistyped flag may have been meant to be."""

    def error(self, message: str) -> NoReturn:
        said, mistyped, words = message.partition("unrecognized arguments: ")
        flag = next((word.partition("=")[0] for word in words.split() if word.startswith("-")), "")
        super().error(said + mistyped + words + (nearest(flag, self._option_string_actions) if flag else ""))


def _parser(command: str | None) -> argparse.ArgumentParser:
    if command is None:
        return _top_parser()
    entry = COMMANDS[command]
    parser = _Parser(usage=f"likelier {command} {entry.usage}", description=entry.help, allow_abbrev=False)
    entry.add_flags(parser)
    return parser


def _top_parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    listing = "\n".join(f"  {name:<{width}} {entry.help}" for name, entry in COMMANDS.items())
    parser = argparse.ArgumentParser(
        usage="likelier COMMAND [options]",
        description=f"Make the answers that people preferred likelier.\n\ncommands:\n{listing}",
        epilog="'likelier COMMAND --help' tells more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"likelier {__version__}")
    parser.add_argument("command", choices=list(COMMANDS), metavar="COMMAND", help=argparse.SUPPRESS)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code. Nothing but `SystemExit` of a wrong or helping word leaves it."""
    words = list(sys.argv[1:] if argv is None else argv)
    command = words[0] if words and words[0] in COMMANDS else None
    try:
        if command is None:
            _parser(None).parse_args(words or ["--help"])
            return 2
        flags = _parser(command).parse_args(words[1:])
        from likelier.utils.console import plain_warnings

        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        plain_warnings()
        return COMMANDS[command].run(flags) or 0
    except (KeyboardInterrupt, Exception) as error:
        from likelier.cli.faults import told

        return told(error)


def run(argv: Any = None) -> None:
    """The console script."""
    from likelier.cli.streams import end_streams, prepare_streams

    prepare_streams()
    try:
        code = main(argv)
    except SystemExit as ended:  # of argparse
        code = ended.code if isinstance(ended.code, int) else 2
    sys.exit(end_streams(code))


if __name__ == "__main__":
    run()
