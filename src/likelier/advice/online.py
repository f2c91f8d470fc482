"""What is said of methods that let the policy write: what they take, and the command that starts one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from likelier.advice.fit import Way
from likelier.advice.memory import Device, MemoryPlan
from likelier.advice.rollout_memory import OnlinePlanner, online_planner_for
from likelier.advice.tables import size
from likelier.objectives.online import ONLINE_METHODS, online_method
from likelier.objectives.online_base import OnlineObjective
from likelier.online.options import OnlineOptions
from likelier.utils.shell import quoted

FAMILY = next(iter(ONLINE_METHODS))  # the one whose name the family has
WITH_CRITIC = next(name for name, preset in ONLINE_METHODS.items() if preset.has_critic)
ALTERNATIVE = (
    f"online (--method {FAMILY}): the highest ceiling, for a reward that knows more than these rows and much more time"
)
_REWARD = "my_rewards.py:score"
_HELD_OUT = 0.1
_BATCH = 8  # prompts to a step, a run's own
_AT_ONCE = 512  # prompts of an evaluation that are read at once, at most
_ANSWERS = "answers_per_prompt"
_SMALLER = (
    {_ANSWERS: 4},
    {_ANSWERS: 4, "batch_size": 4},
    {_ANSWERS: 2, "batch_size": 4},
)


def online_command(model: str, files: Sequence[str], fitted: OnlineFitted) -> str:
    """A run of the family on the prompts of these files, as it fits; the reward is to be written."""
    words = ["likelier train --method", FAMILY, "--model", quoted(model)]
    for file in files:
        words += ["--data", quoted(file)]
    words += ["--eval-fraction", str(_HELD_OUT), "--reward", _REWARD]
    for name, value in (fitted.way.options() | fitted.options).items():
        flag = f"--{name.replace('_', '-')}"
        words += [flag] if value is True else [flag, str(value)]
    return " ".join([*words, "--output", f"runs/{FAMILY}"])


@dataclass(frozen=True)
class OnlineFitted:
    """The first way of training, number of answers and batch that fit with a tenth of the memory to spare, with their
    plan; else those that take least. `options` are those that differ from a run's own.
    """

    way: Way
    planner: OnlinePlanner
    plan: MemoryPlan
    options: dict[str, Any]

    @property
    def fits(self) -> bool:
        """Whether a tenth is to spare."""
        return self.plan.needed <= self.planner.roomy


def fit_online(
    model: str, prompts: Sequence[int], ways: Sequence[Way], device: Device, memory: int | None
) -> OnlineFitted:
    """Plan a run of the family on prompts of these lengths in one way after the other; in the last one also with fewer
    answers and prompts to a step.
    """
    tried = [(way, dict[str, Any]()) for way in ways] + [(ways[-1], options) for options in _SMALLER]
    found: list[OnlineFitted] = []
    for way, options in tried:
        own = dict(options)
        changed = {name: value for name, value in own.items() if name == _ANSWERS}
        planner = _planner(model, online_method(FAMILY, **changed), prompts, way, own, device, memory)
        budget = planner.default_budget()
        if planner.needed(budget) > planner.roomy and (smaller := planner.fitting_budget(planner.roomy)):
            own["token_budget"] = budget = smaller
        found.append(OnlineFitted(way, planner, planner.plan(budget), own))
        if found[-1].fits:
            return found[-1]
    return min(found, key=lambda one: one.plan.needed)


def _planner(
    model: str,
    objective: OnlineObjective,
    prompts: Sequence[int],
    way: Way,
    options: Mapping[str, Any],
    device: Device,
    memory: int | None,
) -> OnlinePlanner:
    return online_planner_for(
        model,
        objective,
        OnlineOptions(reward=(_REWARD,)),
        prompts=prompts,
        held_out=sorted(prompts)[-_AT_ONCE:],
        lora=way.lora,
        dtype=way.dtype,
        device=device,
        memory=memory,
        activation_checkpointing=way.checkpointing,
        batch_size=options.get("batch_size", _BATCH),
    )


def online_needs(
    model: str, files: Sequence[str], prompts: Sequence[int], ways: Sequence[Way], device: Device, memory: int | None
) -> list[str]:
    """What such a run takes, line by line."""
    fitted = fit_online(model, prompts, ways, device, memory)
    writing, learning = sum(fitted.plan.sampling.values()), sum(fitted.plan.parts.values())
    how = (prompts, fitted.way, fitted.options, device, memory)
    critic = _planner(model, online_method(WITH_CRITIC), *how).plan(fitted.plan.token_budget)
    fits = "" if fitted.fits else f", more than nine tenths of {size(fitted.planner.memory)}: take a smaller model"
    return [
        "prompts alone, as many as possible and like those of the later use; those of these files will do to begin",
        "a reward that knows what the rows do not: a program that checks answers, or labels on the policy's own "
        "answers. A reward model of the policy's size that learnt from these pairs finds about what DPO finds in them",
        f"a command: {online_command(model, files, fitted)}",
        f"memory: {size(fitted.plan.needed)} with libraries ({size(writing)} while it writes, {size(learning)} while "
        f"it learns){fits}; likelier estimate takes the command's options",
        f"or --method {WITH_CRITIC}, which writes one answer to a prompt and has a critic and a reference beside the "
        f"policy: {size(critic.needed)} in the same way; where one reward model is the reward, the critic begins as it",
        "time: most of it goes into writing answers",
    ]
