"""A Python function that the user named: the one place where code is run that somebody else wrote."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from likelier.utils.errors import ConfigError, nearest, whole_reason
from likelier.utils.files import local


def names_function(name: str) -> bool:
    """Whether a name has the form of `file.py:function` or `module:function`."""
    home, colon, function = name.rpartition(":")
    return bool(colon) and (home.endswith(".py") or all(map(str.isidentifier, (*home.split("."), function))))


def load_function(name: str, where: str) -> Callable[..., Any]:
    """The function that `file.py:function` or `module:function` names; `where` begins what is told of a failure
    (`reward='short.py:f'`). Raises `ConfigError` for a file, module or function that is not there, or fails.
    """
    home, _, function = name.rpartition(":")
    module = _from_file(local(home), where) if home.endswith(".py") else _imported(home, where)
    found = getattr(module, function, None)
    if not callable(found):
        own = [one for one, value in vars(module).items() if callable(value) and not one.startswith("_")]
        raise ConfigError(f"{where}: {home} has no function {function!r}{nearest(function, own)}")
    return found


def _from_file(path: Path, where: str) -> ModuleType:
    if not path.is_file():
        raise ConfigError(f"{where}: no such file: {path}")
    spec = importlib.util.spec_from_file_location(f"likelier_user_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the user's own code
        raise ConfigError(f"{where}: {path} fails: {type(error).__name__}: {whole_reason(error)}") from error
    return module


def _imported(name: str, where: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name and not name.startswith(f"{error.name}."):  # a module that it needs itself
            raise ConfigError(f"{where}: {name} fails: {whole_reason(error)}") from error
        beside = f"{name.replace('.', '/')}.py"
        mend = f"name the file: {beside}:..." if Path(beside).is_file() else "install it, or name a file.py:function"
        raise ConfigError(f"{where}: no module {name}; {mend}") from error
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{where}: {name} fails: {type(error).__name__}: {whole_reason(error)}") from error
