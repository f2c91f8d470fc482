"""YAML, written and read.

What we write: whatever text others brought, a value stays a value and a comment stays a comment. YAML ends a line at
U+0085, U+2028 and U+2029 too, and what turns the direction of writing can hide a line from its reader. So comments go
through `one_line`, and values with such characters are written with escapes.

What we read: nothing that stands in a file is lost in silence, and no file is larger than it looks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from likelier.utils.console import one_line

_UNBROKEN = 10**6  # a width that no line reaches
_MOST_VALUES = 100_000  # of a text that is read, with every alias written out


def comment(text: str) -> str:
    """A comment of one line; spaces at its beginning stay."""
    indent = text[: len(text) - len(text.lstrip(" "))]
    return f"# {indent}{one_line(text)}".rstrip()


def as_yaml(content: Any, width: int = _UNBROKEN) -> str:
    """Names and values as a block of YAML, in which every character can be seen."""
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=width)
    if _is_visible(text):
        return text
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=False, width=width)


def inline_yaml(value: Any) -> str:
    """One value on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=_UNBROKEN).removesuffix("...\n").rstrip("\n")
    if _is_visible(text) and "\n" not in text:
        return text
    return yaml.safe_dump(value, default_flow_style=True, default_style='"', width=_UNBROKEN).rstrip("\n")


def _is_visible(text: str) -> bool:
    return text.replace("\n", "").isprintable()


# --- reading -------------------------------------------------------------------------------------------------------


class BrokenYaml(ValueError):
    """Text that is no YAML (`line` is None then, and in the reason), or YAML that cannot be taken as it stands."""

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(reason if line is None else f"line {line}: {reason}")
        self.reason, self.line = reason, line


def parse_yaml(text: str) -> Any:
    """The value that a YAML text holds; of YAML's tags only those of plain values are known.

    Raises `BrokenYaml`, also for a block that has a name twice, at whatever depth (the names `a-b` and `a_b` are the
    same), and for aliases that stand for too many values. What a merge (`<<`) brings may be named anew.
    """
    try:
        loader = yaml.SafeLoader(text)
        tree = loader.get_single_node()
        if tree is None:
            return None
        _refuse_bomb(tree)
        _refuse_twice(tree, loader)
        return loader.construct_document(tree)
    except BrokenYaml:
        raise
    except RecursionError as error:
        raise BrokenYaml("values are nested too deeply") from error
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError) as error:
        # besides its own errors, PyYAML lets out those of Python where a value does not fit its kind (a 13th month)
        raise BrokenYaml(_what_is_wrong(error)) from error


def _what_is_wrong(error: Exception) -> str:
    """What PyYAML says, with line and column, without its names for the text that it was given."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is not None and problem:
        began, while_doing = getattr(error, "context_mark", None), getattr(error, "context", None)
        where = f" ({while_doing} that begins in line {began.line + 1})" if began is not None and while_doing else ""
        return f"line {mark.line + 1}, column {mark.column + 1}: {problem}{where}"
    return " ".join(str(error).split()) or f"a value does not fit its kind ({type(error).__name__})"


def _parts(node: yaml.Node) -> Iterator[yaml.Node]:
    """The nodes directly inside one; of a block its names and its values."""
    for entry in node.value if isinstance(node, yaml.CollectionNode) else ():
        yield from entry if isinstance(entry, tuple) else (entry,)


def _refuse_bomb(tree: yaml.Node) -> None:
    """A few aliases (`*name`) in one another can stand for more values than any memory holds, and one in itself for
    ever more.
    """
    sizes: dict[int, int] = {}

    def size(node: yaml.Node) -> int:
        if id(node) not in sizes:
            sizes[id(node)] = _MOST_VALUES  # what it counts for inside itself
            sizes[id(node)] = 1 + sum(map(size, _parts(node)))
        return sizes[id(node)]

    if size(tree) > _MOST_VALUES:
        raise BrokenYaml("with its aliases (*name) written out it holds too many values; write out the few", 1)


def _refuse_twice(tree: yaml.Node, loader: yaml.SafeLoader) -> None:
    """Before anything is made of the tree: then merges are names like others, not yet what they bring."""
    ahead, done = [tree], set[int]()
    while ahead:
        node = ahead.pop()
        if id(node) in done:
            continue
        done.add(id(node))
        ahead += _parts(node)
        lines: dict[Any, int] = {}
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            name, line = _name(key, loader), key.start_mark.line + 1
            if name in lines:
                was = f"first in line {lines[name]}"
                raise BrokenYaml(f"{name} stands there for the second time ({was}); keep one", line)
            lines[name] = line


def _name(key: yaml.Node, loader: yaml.SafeLoader) -> Any:
    """What a name is compared by: its value, of text with underscores; what cannot be a name is like nothing else."""
    if not isinstance(key, yaml.ScalarNode):
        return key
    if key.tag.endswith((":merge", ":value")):  # << and =
        return key.value
    name = loader.construct_object(key)
    return name.replace("-", "_") if isinstance(name, str) else name
