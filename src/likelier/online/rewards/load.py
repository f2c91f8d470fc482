"""Rewards by their names: `json`, `contains:COLUMN`, `short.py:reward`, `model:FOLDER`, `http://...`."""

from __future__ import annotations

import math as numbers
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from likelier.online.rewards import builtin, verifiers
from likelier.training.reward_function import Function, ask
from likelier.utils.errors import ConfigError, nearest
from likelier.utils.service import check_url
from likelier.utils.user_code import load_function, names_function
from likelier.utils.worker import Worker

if TYPE_CHECKING:
    from torch import Tensor

    from likelier.online.rewards.reward import Answered, Reward

_FUNCTIONS: dict[str, Callable[[str, str], Function]] = {
    "exact": builtin.exact,
    "contains": builtin.contains,
    "regex": builtin.regex,
    "json": builtin.json,
    "length": builtin.length,
    "math": verifiers.math,
    "gym": verifiers.gym,
}
_MODELS = ("model", "implicit")
_FORMS = "file.py:function, module:function, model:FOLDER, implicit:RUN, http://HOST/PATH"


def load_reward(spec: str, *, timeout: float | None = None) -> Reward:
    """A reward by its name.

    Args:
        spec: see `docs/rewards.md`.
        timeout: seconds: of a function for each answer, in a process of its own (by default what its attribute
            `time_limit` says, else none, in this process); of a service for each request (60).

    Raises:
        ConfigError: for an unknown name, a function that cannot be loaded, or a time limit without effect.
        ModelError: a model cannot be loaded.
    """
    if timeout is not None and not 0 < timeout < float("inf"):
        raise ConfigError(f"reward_timeout={timeout} is out of range; it must be above 0, and finite")
    from likelier.online.rewards.reward import FunctionReward, LimitedReward

    kind, _, rest = spec.partition(":")
    name, where = log_name(spec), _where(spec)
    if kind in _MODELS:
        if timeout is not None:
            raise ConfigError(f"reward_timeout has no effect on {spec}: a model needs no limit; drop it")
        return _loaded_model(kind, name, spec, rest)
    if kind in ("http", "https"):
        from likelier.online.rewards.service_reward import SECONDS, Service

        return FunctionReward(name, spec, Service(spec, timeout or SECONDS))
    function = function_of(spec)
    seconds = timeout if timeout is not None else _own_limit(function, where)
    if seconds is None:
        return FunctionReward(name, spec, function)
    return LimitedReward(name, spec, function, Worker(answering, spec, where=where), seconds)


def log_name(spec: str) -> str:
    """What a reward is called in logs: the function, the built-in's name, the model's folder, the service's host."""
    kind, _, rest = spec.partition(":")
    if kind in ("http", "https"):
        found = check_url(spec).netloc
    elif kind in _MODELS:
        found = rest.rstrip("/").rpartition("/")[2]
    else:
        found = kind if kind in _FUNCTIONS else spec.rpartition(":")[2]
    return re.sub(r"[^\w.-]+", "_", found)


def function_of(spec: str) -> Function:
    """The function of the protocol that a name stands for. Raises `ConfigError`."""
    kind, _, rest = spec.partition(":")
    if kind in _FUNCTIONS:
        return _FUNCTIONS[kind](rest, _where(spec))
    if names_function(spec):
        return load_function(spec, _where(spec))
    known = ", ".join((*_FUNCTIONS, _FORMS))
    raise ConfigError(f"{_where(spec)} is unknown{nearest(kind, (*_FUNCTIONS, *_MODELS))} (known: {known})")


def answering(spec: str) -> Callable[[dict[str, list[Any]], str], list[float | None]]:
    """What a process of its own calls for each answer."""
    function = function_of(spec)
    return lambda given, place: ask(function, given, _where(spec), [place])


def _where(spec: str) -> str:
    return f"reward={spec!r}"


def _own_limit(function: Function, where: str) -> float | None:
    limit = getattr(function, "time_limit", None)
    if limit is None or (isinstance(limit, (int, float)) and 0 < limit < float("inf")):
        return limit
    raise ConfigError(f"{where}: its time_limit is {limit!r}; it must be seconds above 0")


def _loaded_model(kind: str, name: str, spec: str, rest: str) -> Reward:
    from likelier.online.rewards import models

    if not rest:
        raise ConfigError(f"{_where(spec)} names no {'folder' if kind == 'model' else 'run'}; give {kind}:FOLDER")
    make = {"model": models.model_reward, "implicit": models.implicit_reward}[kind]
    return make(name, spec, rest)


@dataclass
class RewardSet:
    """Several rewards of the same answers. `weights` are for whoever adds them up."""

    rewards: tuple[Reward, ...]
    weights: tuple[float, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """What the rewards are called in logs, in their order."""
        return tuple(reward.name for reward in self.rewards)

    @property
    def overruns(self) -> dict[str, int]:
        """How many answers got no verdict so far because a reward took too long, by its name."""
        return {reward.name: reward.overruns for reward in self.rewards}

    def __call__(self, answers: Sequence[Answered]) -> Tensor:
        """(n, k) float64: each answer's reward by each function, NaN where it has no verdict."""
        import torch

        return torch.stack([reward(answers) for reward in self.rewards], 1)

    def spread(self, parts: Tensor) -> Tensor | None:
        """(n,) how far the reward models among them are apart on each answer: the standard deviation (ddof 1) of their
        scores in `parts` (n, k), NaN where one has no verdict. None where fewer than two are reward models.
        """
        models = [number for number, reward in enumerate(self.rewards) if reward.is_model]
        return parts[:, models].std(1) if len(models) > 1 else None

    def require(self, columns: Collection[str]) -> None:
        """Raises `ConfigError` where a reward needs a column that is not among these."""
        for reward in self.rewards:
            reward.require(columns)

    def close(self) -> None:
        """End the processes that rewards run in."""
        for reward in self.rewards:
            reward.close()


def load_rewards(
    specs: Sequence[str], weights: Sequence[float] | None = None, *, timeout: float | None = None
) -> RewardSet:
    """Several rewards with a weight each (default: 1). Raises what `load_reward` does, and `ConfigError` for weights
    that do not fit, a reward that is named twice and a time limit that none of them can have.
    """
    weights = [1.0] * len(specs) if weights is None else list(weights)
    twice = next((spec for number, spec in enumerate(specs) if spec in specs[:number]), None)
    if not specs or twice is not None:
        raise ConfigError(f"reward={twice!r} stands twice; give it a weight instead" if twice else "no reward is named")
    if len(weights) != len(specs):
        raise ConfigError(f"{len(specs)} rewards have {len(weights)} reward_weights; give one for each, in their order")
    if not all(map(numbers.isfinite, weights)) or not any(weights):
        raise ConfigError(f"reward_weights={weights} must be finite, and not all 0")
    limited = [spec for spec in specs if spec.partition(":")[0] not in _MODELS]
    if timeout is not None and not limited:
        raise ConfigError("reward_timeout has no effect: no reward is a function or a service; drop it")
    rewards = [load_reward(spec, timeout=timeout if spec in limited else None) for spec in specs]
    taken: dict[str, int] = {}
    for reward in rewards:
        taken[reward.name] = taken.get(reward.name, 0) + 1
        if taken[reward.name] > 1:
            reward.name = f"{reward.name}_{taken[reward.name]}"
    return RewardSet(tuple(rewards), tuple(weights))
