"""The house of docs/design.md: rooms import lower floors only, and no files import each other in a circle."""

import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

from tests.architecture.tree import SOURCES, chain_to, imports, modules, room_of

PAGE = Path(__file__).resolve().parents[2] / "docs" / "design.md"


@cache
def floors() -> dict[str, int]:
    """The floor of each room, as the picture has them."""
    lines = re.findall(r"^ (\d)  ((?:\w+/ ?)+)", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return {room: int(floor) for floor, rooms in lines for room in re.findall(r"(\w+)/", rooms)}


def upward(graph: Mapping[str, frozenset[str]], floor_of: Mapping[str, int]) -> Iterator[str]:
    """Imports that do not go to a lower floor or stay in their room."""
    for module, found in sorted(graph.items()):
        for name in sorted(found):
            here, there = room_of(module), room_of(name)
            if here and there and here != there and floor_of[there] >= floor_of[here]:
                yield f"{module} imports {name}"


def circles(graph: Mapping[str, frozenset[str]]) -> list[list[str]]:
    """Modules that import each other, by however many others."""
    reach = {module: _reached(module, graph) for module in graph}
    found = {frozenset(name for name in reach[module] if module in reach[name]) for module in graph}
    return sorted(sorted(circle) for circle in found if len(circle) > 1)


def _reached(start: str, graph: Mapping[str, frozenset[str]]) -> set[str]:
    seen, ahead = set[str](), [start]
    while ahead:
        for name in graph.get(ahead.pop(), frozenset()):
            if name not in seen:
                seen.add(name)
                ahead.append(name)
    return seen


def whole_graph() -> dict[str, frozenset[str]]:
    """Every module with the modules of the package that it names in any import, wherever in it."""
    return {
        module: frozenset(name for name in imports(module, False) if name in modules() and name != module)
        for module in modules()
        if room_of(module)
    }


def test_every_room_is_in_the_picture() -> None:
    rooms = {path.name for path in SOURCES.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms == floors().keys()
    assert len(rooms) <= 12
    loose = {path.name for path in SOURCES.iterdir() if path.is_file()}
    assert loose == {"__init__.py", "__main__.py", "py.typed"}


def test_rooms_import_lower_floors_only() -> None:
    assert list(upward(whole_graph(), floors())) == []


def test_no_files_import_each_other_in_a_circle() -> None:
    assert circles(whole_graph()) == []


def test_a_circle_and_an_upward_import_are_found() -> None:
    graph = whole_graph()
    graph["likelier.utils.files"] |= {"likelier.runs.folder"}
    assert list(upward(graph, floors())) == ["likelier.utils.files imports likelier.runs.folder"]
    assert any({"likelier.utils.files", "likelier.runs.folder"} <= set(circle) for circle in circles(graph))
    beside = {"likelier.data.load": frozenset({"likelier.runs.folder"})}
    assert list(upward(beside, floors() | {"data": floors()["runs"]})) == [
        "likelier.data.load imports likelier.runs.folder"
    ]


@pytest.mark.parametrize("module", [name for name in sorted(modules()) if room_of(name) == "objectives"])
def test_losses_objectives_and_metrics_stand_alone(module: str) -> None:
    allowed = {"torch", *sys.stdlib_module_names}
    named = {name for name in imports(module, False) if room_of(name) != "objectives"}
    assert {name for name in named if name.split(".")[0] not in allowed} == set()


@pytest.mark.parametrize("room", ["training", "scoring", "models", "runs", "data"])
def test_what_trains_knows_no_reader_and_no_command(room: str) -> None:
    for module in modules():
        if room_of(module) == room:
            assert chain_to(module, ("insight", "advice", "experiments", "cli")) == []


@pytest.mark.parametrize("module", [name for name in sorted(modules()) if room_of(name) == "insight"])
def test_readers_do_not_train(module: str) -> None:
    assert chain_to(module, ("training",)) == []
