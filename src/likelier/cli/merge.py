"""`likelier merge`: an adapter and its base as one model folder."""

from __future__ import annotations

import argparse


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `likelier merge`."""
    parser.add_argument("run", metavar="RUN", help="a run folder or an adapter folder")
    parser.add_argument("output", metavar="OUT", help="the model folder to be made")
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16"], help="precision of the written weights (default: the base's)"
    )


def run(flags: argparse.Namespace) -> None:
    """Merge, and say what was written."""
    from likelier.training.merge import merge_run
    from likelier.utils.console import put

    put(merge_run(flags.run, flags.output, dtype=flags.dtype))
