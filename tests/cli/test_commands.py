"""One file a command: what the table of commands relies on."""

import inspect
from importlib import import_module

import pytest

from likelier.cli.main import COMMANDS
from tests.architecture.tree import imports, modules, room_of


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_a_module_of_its_name(command: str) -> None:
    module = import_module(f"likelier.cli.{command.replace('-', '_')}")
    assert list(inspect.signature(module.add_flags).parameters) == ["parser"]
    assert list(inspect.signature(module.run).parameters) == ["flags"]


@pytest.mark.slow
def test_flags_are_made_and_read_by_commands_only() -> None:
    assert {room_of(name) for name in modules() if "argparse" in imports(name, False)} == {"cli"}
