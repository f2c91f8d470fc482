"""Which modules may import which: the losses stand alone, training knows no reader, readers do not train."""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import likelier

SOURCES = Path(likelier.__file__).parent

PURE = ("objectives",)
TRAINING = (
    *PURE,
    *("training.trainer", "training.evaluation", "scoring", "training.step", "training.log_window", "training.timer"),
    *("training.checkpointing", "runs.folder", "training.run_card", "data.tokenize", "models", "training.options"),
    *("runs.checkpoints", "utils.durable", "training.stop_signals", "training.guards", "training.nonfinite"),
)
COMMANDS = ("insight", "experiments", "cli")


@cache
def modules() -> dict[str, Path]:
    """Every module of the package by its full name."""
    found = {}
    for path in SOURCES.rglob("*.py"):
        parts = path.relative_to(SOURCES.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def within(name: str, parts: tuple[str, ...]) -> bool:
    """Whether a module is one of these parts of the package, or inside one."""
    return any(name == f"likelier.{part}" or name.startswith(f"likelier.{part}.") for part in parts)


def of(parts: tuple[str, ...]) -> list[str]:
    """The modules of these parts, each of which must have some."""
    for part in parts:
        assert any(within(name, (part,)) for name in modules()), f"there is no likelier.{part}"
    return [name for name in sorted(modules()) if within(name, parts)]


def statements(node: ast.AST, only_at_import: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """The import statements below a node; `only_at_import`: those that run when the module is imported."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif only_at_import and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        elif only_at_import and isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from (one for branch in child.orelse for one in statements(ast.Module([branch], []), True))
        else:
            yield from statements(child, only_at_import)


@cache
def imports(module: str, only_at_import: bool) -> frozenset[str]:
    """What a module imports: full names, of modules of the package where that is what a name stands for."""
    found: set[str] = set()
    for one in statements(ast.parse(modules()[module].read_text(encoding="utf-8")), only_at_import):
        if isinstance(one, ast.Import):
            found |= {alias.name for alias in one.names}
        else:
            assert one.level == 0 and one.module, f"{module}: a relative import"
            inner = {f"{one.module}.{alias.name}" for alias in one.names} & modules().keys()
            found |= inner | {one.module}
    return frozenset(found)


def executed_by(name: str) -> Iterator[str]:
    """The module, and the packages that hold it: they run before it."""
    parts = name.split(".")
    return (whole for end in range(1, len(parts) + 1) if (whole := ".".join(parts[:end])) in modules())


def chain_to(start: str, targets: tuple[str, ...]) -> list[str]:
    """How a module comes to import one of the targets: by any import of its own, and by what others import as they
    are loaded. Empty where it does not.
    """
    seen, paths = {start}, [[start]]
    while paths:
        path = paths.pop(0)
        for name in sorted(imports(path[-1], only_at_import=len(path) > 1)):
            for module in executed_by(name):
                if within(module, targets):
                    return [*path, module]
                if module not in seen:
                    seen.add(module)
                    paths.append([*path, module])
    return []


@pytest.mark.parametrize("module", of(PURE))
def test_losses_objectives_and_metrics_stand_alone(module: str) -> None:
    allowed = {"torch", *sys.stdlib_module_names}
    foreign = {name for name in imports(module, False) if not within(name, PURE) and name.split(".")[0] not in allowed}
    assert foreign == set()


@pytest.mark.parametrize("module", of(TRAINING))
def test_what_trains_knows_no_reader_and_no_command(module: str) -> None:
    assert chain_to(module, COMMANDS) == []


@pytest.mark.parametrize("module", of(("insight",)))
def test_readers_do_not_train(module: str) -> None:
    assert chain_to(module, ("training.trainer", "training.run")) == []


def test_a_chain_is_found() -> None:
    assert chain_to("likelier.training.run", ("objectives.losses",))[-1] == "likelier.objectives.losses"
    progress = "likelier.insight.live.progress"
    assert chain_to(progress, ("insight",))[:2] == [progress, "likelier.insight"]
