"""What a reader meets is short and typed: functions, files, and every public signature."""

import ast
from collections.abc import Callable, Iterator

import pytest

from tests.architecture.tree import modules

LINES_OF_A_FUNCTION = 60  # with its signature and docstring
LINES_OF_A_FILE = 400

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(node: ast.AST, where: str = "", is_public: bool = True) -> Iterator[tuple[str, Function, bool]]:
    """Every function below a node with its full name, and whether it can be called from outside its file."""
    for child in ast.iter_child_nodes(node):
        name = getattr(child, "name", "")
        if isinstance(child, Function):
            yield where + name, child, is_public and (not name.startswith("_") or name.endswith("__"))
            yield from functions(child, f"{where}{name}.", False)
        elif isinstance(child, ast.ClassDef):
            yield from functions(child, f"{where}{name}.", is_public and not name.startswith("_"))
        else:
            yield from functions(child, where, is_public)


def long_functions(source: str) -> Iterator[str]:
    for name, one, _ in functions(ast.parse(source)):
        lines = (one.end_lineno or one.lineno) - one.lineno + 1
        if lines > LINES_OF_A_FUNCTION:
            yield f"{name}: {lines} lines"


def long_file(source: str) -> Iterator[str]:
    lines = len(source.splitlines())
    if lines > LINES_OF_A_FILE:
        yield f"{lines} lines"


def untyped(source: str) -> Iterator[str]:
    """Public functions and methods without the type of an argument or of what they return."""
    for name, one, is_public in functions(ast.parse(source)):
        if is_public:
            left, rest = one.args, [one.args.vararg, one.args.kwarg]
            for argument in filter(None, [*left.posonlyargs, *left.args, *left.kwonlyargs, *rest]):
                if argument.annotation is None and argument.arg not in ("self", "cls"):
                    yield f"{name}: {argument.arg}"
            if one.returns is None:
                yield f"{name}: what it returns"


@pytest.mark.parametrize("rule", [long_functions, long_file, untyped])
def test_every_file_keeps_the_rule(rule: Callable[[str], Iterator[str]]) -> None:
    assert len(modules()) > 100
    found = {name: list(rule(path.read_text(encoding="utf-8"))) for name, path in modules().items()}
    assert {name: broken for name, broken in found.items() if broken} == {}


SHORT, LONG = "\n    pass" * 59, "\n    pass" * 60


@pytest.mark.parametrize(
    ("rule", "source", "broken"),
    [
        (long_functions, f"def f() -> None:{SHORT}", []),
        (long_functions, f"def f() -> None:{LONG}", ["f: 61 lines"]),
        (long_functions, f"class C:\n  async def g(self):{LONG}", ["C.g: 61 lines"]),
        (long_functions, f"def f():\n  def inner():{SHORT}", ["f: 61 lines"]),
        (long_file, "\n" * 400, []),
        (long_file, "\n" * 401, ["401 lines"]),
        (untyped, "def f(a: int, *b: int, **c: int) -> None: ...", []),
        (untyped, "def f(a, /, *b, c, **d): ...", [f"f: {name}" for name in [*"acbd", "what it returns"]]),
        (untyped, "class C:\n  def __init__(self, a) -> None: ...", ["C.__init__: a"]),
        (untyped, "if True:\n  class C:\n    def g(self): ...", ["C.g: what it returns"]),
        (untyped, "def _f(a): ...\nclass _C:\n  def g(self): ...\ndef f() -> int:\n  def inner(a): ...", []),
    ],
)
def test_what_breaks_a_rule_is_found(rule: Callable[[str], Iterator[str]], source: str, broken: list[str]) -> None:
    assert list(rule(source)) == broken
