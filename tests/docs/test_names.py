"""Names in the documentation are those of the code, and every finding and verdict stands in it by its name."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from likelier.data.audit.catalogue import CATALOGUE as FINDINGS
from likelier.insight.diagnose.catalogue import CATALOGUE as VERDICTS

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("*.md"))]
PAGES = [page for page in PAGES if page.name != "CHANGELOG.md"]  # it also names what is gone

_FINDING = re.compile(r"`([a-z]+(?:-[a-z]+)+(?:/[a-z-]+)?)`")
_OPTION = re.compile(r"`([a-z]+(?:_[a-z0-9]+)+)`")
_FLAG = re.compile(r"`--(?:no-)?([a-z][a-z0-9-]+)")

# Names of other tools, and of columns that an example makes up.
_FOREIGN = {
    *("trl-micro", "torch-optimi", "cosmic-ray", "mkdocs-material"),
    *("mean_token_accuracy", "is_liked"),
    *("shutdown-timeout", "max-lora-rank", "outtype", "chat-template-file"),
}


@cache
def texts() -> frozenset[str]:
    """Every text that stands in the code."""
    trees = (ast.parse(file.read_text(encoding="utf-8")) for file in (ROOT / "src").rglob("*.py"))
    nodes = (node for tree in trees for node in ast.walk(tree))
    return frozenset(one.value for one in nodes if isinstance(one, ast.Constant) and isinstance(one.value, str))


@cache
def words() -> frozenset[str]:
    """Every word of the code and its tests, also with dashes."""
    files = [*(ROOT / "src").rglob("*.py"), *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
    files = [file for file in files if file != Path(__file__)] + [*(ROOT / "src").rglob("*.yaml")]
    found = {word for file in files for word in re.findall(r"[a-z]\w+", file.read_text(encoding="utf-8"))}
    return frozenset(found | {word.replace("_", "-") for word in found})


def unknown(text: str) -> set[str]:
    """Names between backticks that the code does not have."""
    metrics = {name.removeprefix("eval_") for name in _OPTION.findall(text)}
    lost = {name for name in _FINDING.findall(text) if name not in texts()}
    lost |= {name for name in metrics | set(_FLAG.findall(text)) if name not in words()}
    return lost - _FOREIGN


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_names_are_those_of_the_code(page: Path) -> None:
    assert not unknown(page.read_text(encoding="utf-8"))


def test_names_that_are_not_in_the_code_are_found() -> None:
    text = "`contradicting-labels`, `no_such_option`, `eval_no_such_metric`, `--no-such-flag N`, `contradictory-labels`"
    assert unknown(text) == {"contradicting-labels", "no_such_option", "no_such_metric", "such-flag"}


@pytest.mark.parametrize(("page", "names"), [("audit.md", FINDINGS), ("diagnosis.md", VERDICTS)])
def test_every_finding_and_verdict_is_documented(page: str, names: dict[str, object]) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert not [name for name in names if name not in text]
