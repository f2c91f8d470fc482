"""`python -m likelier`, and what `torchrun -m likelier` starts."""

from likelier.cli import run

if __name__ == "__main__":
    run()
