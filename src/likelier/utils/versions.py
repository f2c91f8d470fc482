"""Versions of what computes, for the run card."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

__version__ = "0.1.0"


def versions() -> dict[str, str]:
    """likelier, Python and the packages whose version can change a number."""
    found = {"likelier": __version__, "python": platform.python_version()}
    for package in ("torch", "transformers", "accelerate", "peft", "tokenizers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
