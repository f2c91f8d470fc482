"""The package's modules and what they import, read from the tree."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import likelier

SOURCES = Path(likelier.__file__).parent


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
            named = {f"{one.module}.{alias.name}" for alias in one.names}
            found |= (inner := named & modules().keys()) | (set() if named == inner else {one.module})
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


def room_of(module: str) -> str:
    """The room that a module lies in; empty for the package itself and for foreign modules."""
    parts = module.split(".")
    inside = module in modules() and len(parts) > 1 and (SOURCES / parts[1]).is_dir()
    return parts[1] if inside else ""
