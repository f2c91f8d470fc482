"""Conversation trees, one message a row or one tree a row: every message with ranked replies is a ranking."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from likelier.data.formats.messages import Row, is_assistant
from likelier.data.records import Source
from likelier.utils.errors import DataError

Place: TypeAlias = "tuple[Source, Row]"
Node: TypeAlias = "Mapping[Any, Any]"
_PLACE = object()  # a key that no column has


def rankings_of_trees(rows: Iterable[Place]) -> Iterator[Place]:
    """Rows with a nested `tree` as rows with prompt, answers and ranks or scores."""
    for source, row in rows:
        _check_tree(row["tree"], source)
        yield from _rankings(row["tree"], source)


def _check_tree(tree: Any, source: Source) -> None:
    """Every message must be an object, and its replies a list of such."""
    if not isinstance(tree, Mapping):
        raise DataError(f"{source}: tree is {type(tree).__name__}; it must be a message with its replies")
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if not isinstance(node, Mapping):
            raise DataError(f"{source}: a message of the tree is {type(node).__name__}; it must be an object with text")
        replies = _replies(node)
        if not isinstance(replies, (list, tuple)):
            raise DataError(f"{source}: the replies of a message are {type(replies).__name__}; they must be a list")
        waiting.extend(replies)


def _replies(node: Node) -> Any:
    return node.get("replies") or node.get("children") or []


def rankings_of_messages(rows: Iterable[Place]) -> Iterator[Place]:
    """Rows of one message each (id, parent, text, role, rank or score), in any order, as rankings.

    Raises `DataError` for an id that is missing or comes twice, a parent that is not there, or messages that run in a
    circle.
    """
    nodes: dict[Any, dict[Any, Any]] = {}
    for source, row in rows:
        _check_name(row["id"], "id", source)
        if row["parent"] not in (None, ""):
            _check_name(row["parent"], "parent", source)
        if row["id"] in nodes:
            raise DataError(f"{source}: the id {row['id']!r} comes a second time; every message needs its own")
        nodes[row["id"]] = {**row, "replies": [], _PLACE: source}
    roots = [node for node in nodes.values() if node["parent"] in (None, "")]
    for node in nodes.values():
        if node["parent"] in nodes:
            nodes[node["parent"]]["replies"].append(node)
        elif node["parent"] not in (None, ""):
            raise DataError(f"{node[_PLACE]}: the parent {node['parent']!r} is no message of the file; add it")
    _require_reached(nodes, roots)
    for root in roots:
        yield from _rankings(root, root[_PLACE])


def _check_name(value: Any, column: str, source: Source) -> None:
    if value in (None, "") or not isinstance(value, (str, int, float)):
        raise DataError(f"{source}: {column} is {value!r}; every message needs an id, a text or a number")


def _require_reached(nodes: Mapping[Any, Node], roots: Sequence[Node]) -> None:
    """Every message must hang on a root."""
    reached, waiting = set(), list(roots)
    while waiting:
        node = waiting.pop()
        reached.add(node["id"])
        waiting.extend(node["replies"])
    lost = next((node for name, node in nodes.items() if name not in reached), None)
    if lost is not None:
        count = len(nodes) - len(reached)
        raise DataError(f"{lost[_PLACE]}: {count} messages, this one too, answer each other in a circle; mend parent")


def _rankings(root: Node, source: Source) -> Iterator[Place]:
    """The rankings of one tree, each placed at the message that was answered."""
    waiting: list[tuple[Node, list[dict[str, Any]]]] = [(root, [])]
    while waiting:
        node, before = waiting.pop()
        path = [*before, {"role": node.get("role"), "content": _text(node)}]
        replies = _replies(node)
        ranking = _ranking(path, replies)
        if ranking is not None:
            yield node.get(_PLACE, source), ranking
        waiting.extend((reply, path) for reply in reversed(replies))


def _ranking(path: list[dict[str, Any]], replies: Sequence[Node]) -> Row | None:
    """A row for the replies that somebody judged, where these are at least two."""
    answers = [reply for reply in replies if is_assistant(reply.get("role"))]
    for name in ("rank", "score"):
        judged = [reply for reply in answers if reply.get(name) not in (None, "")]
        if len(judged) > 1:
            asked = next((end for end in range(len(path), 0, -1) if not is_assistant(path[end - 1]["role"])), 0)
            found: list[Any] = [_text(reply) for reply in judged]
            if path[asked:]:  # a reply of the assistant to itself is a further turn, not the rest of the one before
                found = [[*path[asked:], {"role": "assistant", "content": text}] for text in found]
            return {"prompt": path[:asked], "answers": found, f"{name}s": [reply[name] for reply in judged]}
    return None


def _text(node: Node) -> Any:
    return node.get("text", node.get("content"))
