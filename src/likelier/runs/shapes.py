"""The check that a file of a run holds what its readers rely on, and what it is read as.

A shape is a kind of value; a block of names, each with the shape of what stands there (a name that ends in `!` must be
there, any other may be absent or null, and names that are not listed hold anything); a list of one shape; or `Every`
name with the same shape.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeAlias, get_args, get_origin, get_type_hints

from likelier.utils.errors import RunFolderError
from likelier.utils.files import read_object, refuse_link


@dataclass(frozen=True)
class Kind:
    """A kind of value in words, and the test for it."""

    words: str
    fits: Callable[[Any], bool]


@dataclass(frozen=True)
class Every:
    """A block in which every name holds the same."""

    shape: Shape


Shape: TypeAlias = "Kind | Every | Mapping[str, Any] | list[Any]"
_LARGEST = 1e100  # beyond it no number of a run can be, and its square is no float any more


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and -_LARGEST < value < _LARGEST


TEXT = Kind("text", lambda value: isinstance(value, str))
NUMBER = Kind("a number", _is_number)
WHOLE = Kind("a whole number from 0 on", lambda value: type(value) is int and 0 <= value < 2**63)
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
ANYTHING = Kind("anything", lambda value: True)

SKIPPED: Shape = {"step!": WHOLE, "cause!": TEXT, "rows!": [{"source!": TEXT}]}

SWEEP_FILE = "sweep.json"
_ENTRY = {"name!": TEXT, "status!": TEXT, "setting!": TEXT, "folder!": TEXT, "error": TEXT}
SWEEP: Shape = {"runs!": [{**_ENTRY, "varied!": Every(ANYTHING)}]}
SWEEP_TO_GO_ON: Shape = {
    "began": TEXT,
    "runs!": [{**_ENTRY, "options!": Every(ANYTHING)}],
    "held_out!": {"named": TEXT, "seed": WHOLE, "from_own_data": FLAG},
    "data!": ANYTHING,
}


def checked(content: Any, shape: Shape, file: object) -> Any:
    """The content of `file`, if it has the shape. Raises `RunFolderError` with the place and the value that do not."""
    _check(content, shape, "", file)
    return content


def read_checked(path: Path, shape: Shape) -> Any:
    """The content of a JSON file. Raises `RunFolderError` for a link, where it cannot be read, and as `checked`."""
    refuse_link(path)
    try:
        return checked(read_object(path), shape, path)
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} cannot be read: {error}") from error


def is_evaluation(row: Mapping[str, Any]) -> bool:
    """Whether a line of metrics.jsonl is that of an evaluation, whatever was measured in it."""
    return any(name.startswith("eval_") for name in row)


def checked_line(row: Any, place: str) -> Any:
    """A line of metrics.jsonl: names and values; that of a step or an evaluation has a step and nothing but numbers."""
    require(isinstance(row, dict), place, "", row, "names and values")
    if "loss" in row or is_evaluation(row):
        require(WHOLE.fits(row.get("step")), place, "step", row.get("step"), WHOLE.words)
        for name, value in row.items():
            require(_is_number(value), place, name, value, NUMBER.words)
    return row


def _check(value: Any, shape: Shape, place: str, file: object) -> None:
    if isinstance(shape, Kind):
        require(shape.fits(value), file, place, value, shape.words)
    elif isinstance(shape, list):
        require(isinstance(value, list), file, place, value, "a list")
        if isinstance(shape[0], Kind) and all(map(shape[0].fits, value)):
            return  # nearly always, and quick
        for number, one in enumerate(value):
            _check(one, shape[0], f"{place}[{number}]", file)
    else:
        require(isinstance(value, dict), file, place, value, "names and values")
        named = dict.fromkeys(value, shape.shape) if isinstance(shape, Every) else shape
        for name, inner in named.items():
            bare = name if isinstance(shape, Every) else name.removesuffix("!")
            found = value.get(bare)
            if found is not None or bare != name:
                _check(found, inner, f"{place}.{bare}" if place else bare, file)


def require(condition: bool, file: object, place: str, value: Any, wanted: str) -> None:
    """Raises `RunFolderError` without the condition: what stands at the place in the file is not what is wanted."""
    if not condition:
        shown = repr(value)
        what = f"{place} is {shown if len(shown) <= 60 else shown[:57] + '...'}" if place else "it holds something else"
        raise RunFolderError(f"{file} is damaged: {what}, where {wanted} should stand; restore the file")


_KINDS: dict[Any, Kind] = {str: TEXT, float: NUMBER, int: WHOLE, bool: FLAG, Any: ANYTHING}


@cache
def _hints(kind: type) -> dict[str, Any]:
    """The types of the fields that a file fills, without `| None`."""
    hints = {name: hint for name, hint in get_type_hints(kind, include_extras=True).items() if name != "raw"}
    return {name: get_args(one)[0] if get_origin(one) is types.UnionType else one for name, one in hints.items()}


def shape_of(hint: Any) -> Shape:
    """The shape of what a field of this type holds; of a dataclass, that of the block that it is read from."""
    if get_origin(hint) is Annotated:
        return hint.__metadata__[0]
    if isinstance(hint, type) and is_dataclass(hint):
        needed = {one.name for one in fields(hint) if one.default is MISSING and one.default_factory is MISSING}
        return {f"{name}!" if name in needed else name: shape_of(inner) for name, inner in _hints(hint).items()}
    inside = get_args(hint)
    if get_origin(hint) is tuple:
        return [shape_of(inside[0])]
    return Every(shape_of(inside[1])) if inside else _KINDS[hint]


def made(hint: Any, value: Any) -> Any:
    """A value of this type, from what a file holds. What is absent or null is the field's default."""
    if isinstance(hint, type) and is_dataclass(hint):
        named = {name: (inner, value.get(name)) for name, inner in _hints(hint).items()}
        return hint(**{name: made(*one) for name, one in named.items() if one[1] is not None})
    if get_origin(hint) is tuple:
        return tuple(made(get_args(hint)[0], one) for one in value)
    return value
