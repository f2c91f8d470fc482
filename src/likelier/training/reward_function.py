"""A reward as anybody writes it: `f(prompts, completions, completion_ids, **columns) -> list[float | None]`.

The signature is TRL's. A function is given what it names, and everything where it takes `**kwargs`. One that names
neither `completions` nor `completion_ids` is called with prompts and answers in its first two places.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from inspect import Parameter
from math import isfinite
from numbers import Real
from typing import Any, TypeAlias

from likelier.utils.errors import ConfigError, LikelierError, nearest, whole_reason

Function: TypeAlias = Callable[..., Any]
# What a function may name, each with one value an answer: `prompts`, `completions`, ... and columns of the prompts.
Given: TypeAlias = Mapping[str, Sequence[Any]]

PROTOCOL = ("prompts", "completions", "completion_ids", "stop_reasons")  # given besides the prompts' columns
_ANSWERS = frozenset({"completions", "completion_ids"})
_BY_NAME = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


def ask(function: Function, given: Given, where: str, places: Sequence[str], *, abstains: bool = True) -> list[Any]:
    """One number an answer, or None for no verdict where it `abstains`.

    `where` begins what is told of a failure, and `places` say of each answer where it is from. Raises `ConfigError` for
    a function that raises (it is asked again, answer by answer, for the one at which it does), that names what is not
    given, or gives anything but one finite number an answer.
    """
    require_given(function, given, where)
    try:
        found = _call(function, given)
    except LikelierError:
        raise
    except (Exception, SystemExit) as error:
        place, cause = _culprit(function, given, places) or (_span(places), error)
        raise ConfigError(f"{where}: {place}: it raised {type(cause).__name__}: {whole_reason(cause)}") from cause
    return verdicts(found, where, places, abstains=abstains)


def require_given(function: Function, names: Collection[str], where: str) -> None:
    """Raises `ConfigError` for a function that cannot be called with these names; its attribute `needs`, if any, says
    which columns it asks for besides what it names.
    """
    parameters = _parameters(function)
    if parameters is None:
        return
    if _takes_names(parameters):
        needed = [one.name for one in parameters.values() if one.kind in _BY_NAME and one.default is Parameter.empty]
        missing = next((name for name in (*needed, *getattr(function, "needs", ())) if name not in names), None)
        if missing is not None:
            columns = sorted(set(names) - set(PROTOCOL))
            raise ConfigError(
                f"{where}: it takes {missing!r}, which is no column of the prompts{nearest(missing, columns)} "
                f"(columns: {', '.join(columns) or 'none'})"
            )
        return
    try:
        inspect.signature(function).bind(None, None)
    except TypeError as error:
        raise ConfigError(f"{where}: it must take prompts and completions: {error}") from error
    second = next((name for number, name in enumerate(parameters) if number == 1), "")
    if second in names:
        raise ConfigError(
            f"{where}: it names the column {second!r} and no completions; call what it is given `completions`"
        )


def verdicts(found: Any, where: str, places: Sequence[str], *, abstains: bool = True) -> list[float | None]:
    """What a function returned as one number an answer: a list, a tensor or an array of numbers, true or false (1 or
    0), and None where it has no verdict. Raises `ConfigError`.
    """
    found = found.tolist() if hasattr(found, "tolist") else found  # tensors and arrays
    if found is None or isinstance(found, (str, bytes, Mapping, Real)) or not hasattr(found, "__iter__"):
        raise ConfigError(f"{where}: it returned {_shown(found)}; it must give one number an answer, in a list")
    rewards = [value.item() if hasattr(value, "item") else value for value in _listed(found, where)]
    if len(rewards) != len(places):
        raise ConfigError(
            f"{where}: {len(places)} answers got {len(rewards)} rewards ({_span(places)}); it must give one number an "
            "answer"
        )
    return [_verdict(value, where, place, abstains) for value, place in zip(rewards, places, strict=True)]


def _listed(found: Any, where: str) -> list[Any]:
    try:
        return list(found)
    except Exception as error:  # a generator runs the user's code
        raise ConfigError(f"{where}: it raised {type(error).__name__}: {whole_reason(error)}") from error


def _verdict(value: Any, where: str, place: str, abstains: bool) -> float | None:
    if value is None and abstains:
        return None
    if isinstance(value, Real) and isfinite(value):
        return float(value)
    none = ", and None where it has no verdict" if abstains else ""
    raise ConfigError(f"{where}: {place} got {_shown(value)}; it must give one number an answer (finite){none}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:50]}... ({type(value).__name__})"


def _span(places: Sequence[str]) -> str:
    return places[0] if len(places) == 1 else f"{places[0]} to {places[-1]}"


def _culprit(function: Function, given: Given, places: Sequence[str]) -> tuple[str, BaseException] | None:
    """The first answer at which a function raises that is asked about it alone, and what it raises."""
    for number, place in enumerate(places):
        try:
            _call(function, {name: values[number : number + 1] for name, values in given.items()})
        except (Exception, SystemExit) as error:
            return place, error
    return None


def _call(function: Function, given: Given) -> Any:
    parameters = _parameters(function)
    if parameters is None or not _takes_names(parameters):
        found = function(given["prompts"], given["completions"])
    elif any(one.kind is Parameter.VAR_KEYWORD for one in parameters.values()):
        found = function(**given)
    else:
        found = function(**{name: values for name, values in given.items() if name in parameters})
    return _awaited(found) if inspect.isawaitable(found) else found


def _awaited(found: Any) -> Any:
    """In a thread of its own: a notebook runs a loop already, and a thread has one only."""

    async def whole() -> Any:
        return await found

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, whole()).result()


def _parameters(function: Function) -> Mapping[str, Parameter] | None:
    """None for functions in C, which tell of none."""
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return None


def _takes_names(parameters: Mapping[str, Parameter]) -> bool:
    return bool(_ANSWERS & parameters.keys()) or any(one.kind is Parameter.VAR_KEYWORD for one in parameters.values())
