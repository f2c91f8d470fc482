"""A method knows itself: outside `objectives/` and `cli/importing/` nothing is decided by a method's name."""

import ast
from collections.abc import Iterator

import pytest

from likelier.objectives import METHODS
from tests.architecture.tree import SOURCES

CLASSES = {kind.__name__ for kind in METHODS.values()}
EXEMPT = ("objectives/", "cli/importing/")
NAMES = METHODS.keys() - {"reward"}  # which is also what a row, a metric and a column are called
GOALS = {"quick", "robust", "ceiling"}  # of `recommend`; one of them is spelled like a method


def is_name(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Constant) and node.value in NAMES


def is_class(node: ast.AST) -> bool:
    """Whether it stands for a method's class: `KTO`, `objectives.KTO`."""
    return getattr(node, "id", getattr(node, "attr", None)) in CLASSES


def decides(node: ast.AST) -> bool:
    """Whether a method's name, or its class, is compared with, looked up, listed or is the key of something."""
    match node:
        case ast.Compare(left=left, comparators=others):
            return any(is_name(one) or is_class(one) for side in (left, *others) for one in ast.walk(side))
        case ast.Dict(keys=keys):
            return any(map(is_name, keys))
        case ast.Tuple(elts=listed) | ast.List(elts=listed) | ast.Set(elts=listed):
            return any(map(is_name, listed)) and {one.value for one in listed if isinstance(one, ast.Constant)} != GOALS
        case ast.Subscript(slice=key) | ast.MatchValue(value=key):
            return is_name(key)
        case ast.Call(func=ast.Name(id="isinstance" | "issubclass"), args=[_, kinds]):
            return any(map(is_class, ast.walk(kinds)))
        case ast.Call(func=ast.Attribute(attr="get" | "startswith" | "endswith" | "index" | "count"), args=[first, *_]):
            return is_name(first)
        case ast.Call(func=ast.Name(id="dict"), keywords=keywords):
            return any(keyword.arg in NAMES for keyword in keywords)
    return False


def decisions(source: str) -> Iterator[str]:
    """Where this code decides by a method's name. The `choices` of a flag decide nothing."""
    tree = ast.parse(source)
    choices = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "choices"}
    for node in ast.walk(tree):
        if id(node) not in choices and decides(node):
            yield f"{getattr(node, 'lineno', '?')}: {ast.unparse(node)[:100]}"


def test_nothing_else_decides_by_a_methods_name() -> None:
    files = {path.relative_to(SOURCES).as_posix(): path for path in sorted(SOURCES.rglob("*.py"))}
    judged = {name: path for name, path in files.items() if not name.startswith(EXEMPT)}
    assert len(files) > len(judged) > 100
    found = [f"{name}:{one}" for name, path in judged.items() for one in decisions(path.read_text(encoding="utf-8"))]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        'if run.method != "kto": pass',
        'rows = "rows" if run.method in ("kto", "sft") else "pairs"',
        'is_down = facts.run.method not in DOWN and "apo_down" == name',
        'if methods == ("kto",): pass',
        'REACH = {"ipo": 1, "hinge": 2}',
        "REACH = dict(ipo=1, hinge=2)",
        'DOWN_BY_DESIGN = ("apo_down",)',
        'PAIRED = frozenset(["dpo", "robust"])',
        'words = WORDS["simpo"]',
        'objective = METHODS.get("sft")',
        'if method.startswith("dpo"): pass',
        'match method:\n    case "dpo" | "ipo": pass',
        "if isinstance(objective, (KTO, SFT)): pass",
        "if type(objective) is objectives.KTO: pass",
    ],
)
def test_a_decision_by_name_is_found(source: str) -> None:
    assert list(decisions(source))


@pytest.mark.parametrize(
    "source",
    [
        'def plan_memory(*, method: str = "dpo") -> None: ...',
        'method: str = option("dpo", "the objective")',
        'name = str(own.get("method", "dpo"))',
        'planner = planner.for_method("dpo")',
        'RUN = {"method": "dpo"}',
        'parser.add_argument("--trainer", choices=["dpo", "kto", "cpo"])',
        'GOALS = ("quick", "robust", "ceiling")',
        "objective = objective or DPO()",
    ],
)
def test_a_default_is_none(source: str) -> None:
    assert not list(decisions(source))
