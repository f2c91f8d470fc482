"""Files that pages, docstrings and comments name are there: what was moved is moved in words too."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.tree import SOURCES

ROOT = Path(__file__).resolve().parents[2]
TEXTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *SOURCES.rglob("*.py")]
HOLDS = ("src", "tests", "docs", "examples", "benchmarks", "studies")
FILE = re.compile(r"`((?:\w+/)*\w+\.py)`")
NAME = re.compile(r"`((?:[A-Z]\w+\.)?[A-Za-z]*_\w+|[A-Z]\w+(?:\.\w+)?)`")
OTHERS = {"CHANGELOG.md"}  # what was called so then


def there() -> set[str]:
    """Every Python file's path from the root and each of its endings: `a/b/c.py`, `b/c.py`, `c.py`."""
    paths = [path.relative_to(ROOT).parts for place in HOLDS for path in (ROOT / place).rglob("*.py")]
    return {"/".join(parts[start:]) for parts in paths for start in range(len(parts))}


def missing(text: str, known: set[str]) -> Iterator[str]:
    """Python files between backticks that are nowhere."""
    return (name for name in FILE.findall(text) if name not in known)


def test_files_that_texts_name_are_there() -> None:
    known = there()
    found = {str(path.relative_to(ROOT)): list(missing(path.read_text("utf-8"), known)) for path in TEXTS}
    assert {name: names for name, names in found.items() if names and name not in OTHERS} == {}


def test_names_in_the_table_of_changes_are_there() -> None:
    table = (ROOT / "CONTRIBUTING.md").read_text("utf-8").split("## Where does my change go")[1].split("\n## ")[0]
    names = {part for name in NAME.findall(table) for part in name.split(".")}
    assert {"FORMATS", "Checkpoints", "put", "_standing"} <= names
    code = "\n".join(path.read_text("utf-8") for path in SOURCES.rglob("*.py"))
    assert names - set(re.findall(r"\w+", code)) == set()


@pytest.mark.parametrize("page", ["docs/design.md", "README.md"])
def test_the_first_pages_are_short(page: str) -> None:
    assert len((ROOT / page).read_text("utf-8").splitlines()) <= 150


def test_a_file_that_is_gone_is_found() -> None:
    assert list(missing("see `cli/gone.py` and `cli/main.py`, `main.py`", there())) == ["cli/gone.py"]
