"""The command line: a table of subcommands, each a module of this package.

Exit codes: 0 done, 1 a fault of ours (see `faults`), 2 bad input (one message, no traceback), 3 something was found: by
an audit, in a diagnosis that is an error, in a watched run or runs of a sweep that failed; 4 another process of the run
has ended; 130 interrupted (129 by SIGHUP, 143 by SIGTERM).
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from importlib import import_module
from threading import current_thread, main_thread
from types import ModuleType
from typing import Any, NamedTuple, NoReturn

from likelier.utils.errors import nearest
from likelier.utils.versions import __version__


class Command(NamedTuple):
    """A subcommand: its one-line help and what follows its name in the usage. A module of its name in this package has
    its flags, `add_flags(parser)`, and its work, `run(flags)`, with an exit code or none for 0. One that `waits` for
    somebody or something is not told of while it does.
    """

    help: str
    usage: str
    waits: bool = False


COMMANDS = {
    "demo": Command("train the built-in small model on the built-in preferences and show what changed", "[options]"),
    "audit": Command("what is in a preference file, and what is wrong with it", "FILE [options]"),
    "preview": Command(
        "what each row trains on, token by token, before anything is trained", "FILE --model M [options]"
    ),
    "convert": Command("write a preference file as the JSON lines that every tool reads", "IN OUT [options]"),
    "estimate": Command(
        "how much memory a run takes, part by part, and the token budget that fits",
        "[run.yaml] --model M [options]",
    ),
    "recommend": Command(
        "which method and settings suit the data and the memory, with reasons and a run.yaml",
        "FILE [FILE ...] --model M [options]",
    ),
    "train": Command("train a policy on preferences, by flags or a YAML file", "[CONFIG.yaml] [options]"),
    "sweep": Command(
        "several runs that differ in what is named and in nothing else, and how they compare",
        "[CONFIG.yaml] --vary METHOD.OPTION=V1,V2 ... [--seeds N] [options]",
    ),
    "compare": Command("runs, or the settings of a sweep, side by side", "RUN [RUN ...] [options]"),
    "score": Command(
        "implicit reward of every answer in a file, with accuracy where pairs are given",
        "--model M --data F --output O [options]",
    ),
    "sample": Command(
        "the policy's answers to prompts, with rewards, and pairs of them to train on",
        "--model M --data F --output O [options]",
    ),
    "diagnose": Command("what is wrong with a run: verdicts, the numbers behind them, what to try", "RUN [--json]"),
    "inspect": Command(
        "which tokens carry the reward of a row, and the whole chain from them to the loss", "RUN --row N [options]"
    ),
    "watch": Command("look at a run while it trains, from another terminal", "RUN [options]", waits=True),
    "chat": Command(
        "the policy's answer beside its reference's, each with its implicit reward", "RUN [options]", waits=True
    ),
    "report": Command(
        "one self-contained HTML file about a run: verdicts, curves, tokens, answers", "RUN [--output FILE]"
    ),
    "benchmark": Command("the model before and after a run on tasks that it was not trained on", "RUN [options]"),
    "merge": Command("write an adapter and its base as one ordinary model folder, checked", "RUN OUT [options]"),
    "import-config": Command(
        "a run file of TRL, Axolotl, LLaMA-Factory, verl or OpenRLHF as one of ours", "FILE [options]"
    ),
}


class _Parser(argparse.ArgumentParser):
    """A parser that knows what a mistyped flag may have been meant to be."""

    def takes(self, flag: str) -> bool:
        """Whether there is such a flag."""
        return flag in self._option_string_actions

    def error(self, message: str) -> NoReturn:
        said, mistyped, words = message.partition("unrecognized arguments: ")
        flag = next((word.partition("=")[0] for word in words.split() if word.startswith("-")), "")
        super().error(said + mistyped + words + (nearest(flag, self._option_string_actions) if flag else ""))


def _module(command: str) -> ModuleType:
    with _interrupted_at_once():
        return import_module(f"likelier.cli.{command.replace('-', '_')}")


@contextmanager
def _interrupted_at_once() -> Iterator[None]:
    """While modules are imported a Ctrl-C ends the process itself: as an exception it would reach torch's C++, which
    aborts.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler or current_thread() is not main_thread():
        yield
        return
    signal.signal(signal.SIGINT, _end_as_interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end_as_interrupted(*_: Any) -> NoReturn:
    with suppress(OSError):
        os.write(2, b"interrupted\n")
    os._exit(130)


def _parser(command: str) -> _Parser:
    entry = COMMANDS[command]
    parser = _Parser(usage=f"likelier {command} {entry.usage}", description=entry.help, allow_abbrev=False)
    _module(command).add_flags(parser)
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
            _top_parser().parse_args(words or ["--help"])
            return 2
        parser = _parser(command)
        flags = parser.parse_args(words[1:])
        from likelier.utils.console import plain_warnings
        from likelier.utils.shell import carrying_out

        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        plain_warnings()
        with carrying_out(words if parser.takes("--columns") else ()):
            return _module(command).run(flags) or 0
    except (KeyboardInterrupt, Exception) as error:
        from likelier.cli.faults import report_error

        return report_error(error)


def _told_of(words: Sequence[str]) -> AbstractContextManager[Any]:
    """Whatever a command does that takes long and has no name of its own is told of under the command's."""
    command = words[0] if words else ""
    if command not in COMMANDS or COMMANDS[command].waits or not {"-h", "--help"}.isdisjoint(words):
        return nullcontext()
    from likelier.utils.terminal import under_way

    return under_way(f"likelier {command}")


def run(argv: Any = None) -> None:
    """The console script."""
    from likelier.cli.streams import end_streams, prepare_streams

    prepare_streams()
    try:
        with _told_of(sys.argv[1:] if argv is None else argv):
            code = main(argv)
    except SystemExit as ended:  # of argparse
        code = ended.code if isinstance(ended.code, int) else 2
    sys.exit(end_streams(code))


if __name__ == "__main__":
    run()
