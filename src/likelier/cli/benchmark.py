"""`likelier benchmark`: the model before and after a run on tasks that the run did not train."""

from __future__ import annotations

import argparse

from likelier.cli.shared import add_dtype_flag, count


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `likelier benchmark`."""
    parser.add_argument("run", metavar="RUN", help="a run folder that holds its model")
    parser.add_argument(
        "--tasks",
        nargs="+",
        action="extend",
        default=[],
        metavar="TASK",
        help="more tasks: YAML files of lm-evaluation-harness, or names that it knows (these may use the network)",
    )
    parser.add_argument("--without-default", action="store_true", help="only the named tasks, not the built-in ones")
    parser.add_argument("--limit", type=count, help="the first so many items of each task")
    parser.add_argument("--batch-size", type=count, default=8, help="answers scored at once (default: 8)")
    add_dtype_flag(parser)


def run(flags: argparse.Namespace) -> None:
    """Ask, write, print the table."""
    from likelier.experiments.benchmark.harness import require_harness
    from likelier.utils.console import put, say

    require_harness()  # before torch and transformers are
    from likelier.experiments.benchmark.run import as_text, benchmark

    found = benchmark(
        flags.run,
        tasks=flags.tasks,
        with_default=not flags.without_default,
        limit=flags.limit,
        batch_size=flags.batch_size,
        dtype=flags.dtype,
    )
    put(as_text(found))
    say(f"in {found.seconds / 60:.1f} minutes; benchmark.json lies in the run folder")
