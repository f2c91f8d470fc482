"""`likelier watch`: a run seen from another terminal, until it ends."""

from __future__ import annotations

import argparse

from likelier.utils.errors import ConfigError


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `likelier watch`."""
    parser.add_argument("run", metavar="RUN", help="a run folder; where there is none yet, it waits for one")
    parser.add_argument("--interval", type=float, metavar="S", help="seconds between two looks (default: 2)")
    parser.add_argument("--once", action="store_true", help="show how it stands now, and end")


def run(flags: argparse.Namespace) -> int:
    """Watch; gives 0 for a run that is done, 3 for one that failed or was interrupted. Ctrl-C leaves quietly."""
    if flags.interval is not None and flags.once:
        raise ConfigError("--interval has no effect with --once; drop it")
    interval = 2.0 if flags.interval is None else flags.interval
    if not 0.1 <= interval <= 3600:
        raise ConfigError(f"--interval {interval:g} is out of range; it must lie between 0.1 and 3600 seconds")
    from likelier.insight.live.watch import look_once, watch
    from likelier.utils.files import local

    try:
        return look_once(local(flags.run)) if flags.once else watch(local(flags.run), interval)
    except KeyboardInterrupt:
        return 0
