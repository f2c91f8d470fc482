"""`python -m likelier`, what `torchrun -m likelier` starts, and the console script."""

import os
import sys
from contextlib import suppress


def run() -> None:
    """Run a command; a Ctrl-C before it has begun, or while it ends, is one line as well."""
    try:
        from likelier.cli.main import run as run_command

        run_command()
    except KeyboardInterrupt:
        with suppress(OSError):
            os.write(2, b"interrupted\n")
        sys.exit(130)


if __name__ == "__main__":
    run()
