"""`python -m likelier`, what `torchrun -m likelier` starts, and the console script."""

import os
import sys


def run() -> None:
    """Run a command; a Ctrl-C before it has begun is one line as well."""
    try:
        from likelier.cli.main import run as run_command
    except KeyboardInterrupt:
        os.write(2, b"interrupted\n")
        sys.exit(130)
    run_command()


if __name__ == "__main__":
    run()
