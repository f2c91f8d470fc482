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
PLACE_OF_REWARD = "my_rewards.py:score"
HELD_OUT = 0.1
_REWARD_MODEL = "runs/reward"
BATCH = 8  # prompts to a step, a run's own
_AT_ONCE = 512  # prompts of an evaluation that are read at once, at most
_ANSWERS = "answers_per_prompt"
_SMALLER = (
    {_ANSWERS: 4},
    {_ANSWERS: 4, "batch_size": 4},
    {_ANSWERS: 2, "batch_size": 4},
)


def judged_by_a_model(reward: Sequence[str]) -> bool:
    """Whether any of these rewards is a model's opinion."""
    return any(one.partition(":")[0] in ("model", "implicit") for one in reward)


def online_command(
    model: str,
    files: Sequence[str],
    fitted: OnlineFitted,
    *,
    method: str = FAMILY,
    reward: Sequence[str] = (PLACE_OF_REWARD,),
) -> str:
    """A run on the prompts of these files, as it fits; the reward is to be written where none is named."""
    words = ["likelier train --method", method, "--model", quoted(model)]
    for file in files:
        words += ["--data", quoted(file)]
    words += ["--eval-fraction", str(HELD_OUT)]
    for one in reward:
        words += ["--reward", quoted(one)]
    for name, value in (fitted.way.options() | fitted.options).items():
        if name == _ANSWERS and not ONLINE_METHODS[method].compares_answers:
            continue
        flag = f"--{name.replace('_', '-')}"
        words += [flag] if value is True else [flag, str(value)]
    return " ".join([*words, "--output", f"runs/{method}"])


def with_critic(model: str, files: Sequence[str], fitted: OnlineFitted, reward: Sequence[str]) -> str:
    """The command of a run with a critic beside the policy."""
    return online_command(model, files, fitted, method=WITH_CRITIC, reward=reward)


def reward_model_command(model: str, files: Sequence[str], way: Way) -> str:
    """A reward model of the pairs in these files."""
    words = ["likelier train --method reward --model", quoted(model)]
    for file in files:
        words += ["--data", quoted(file)]
    adapter = ["--lora-r", str(way.lora.lora_r)] if way.lora.lora_r else []
    return " ".join([*words, "--eval-fraction", str(HELD_OUT), *adapter, "--output", _REWARD_MODEL])


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
    model: str,
    prompts: Sequence[int],
    ways: Sequence[Way],
    device: Device,
    memory: int | None,
    *,
    reward: Sequence[str] = (PLACE_OF_REWARD,),
) -> OnlineFitted:
    """Plan a run of the family on prompts of these lengths in one way after the other; in the last one also with fewer
    answers and prompts to a step.
    """
    tried = [(way, dict[str, Any]()) for way in ways] + [(ways[-1], options) for options in _SMALLER]
    found: list[OnlineFitted] = []
    for way, options in tried:
        own = dict(options)
        changed = {name: value for name, value in own.items() if name == _ANSWERS}
        planner = _planner(model, online_method(FAMILY, **changed), prompts, way, own, device, memory, reward)
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
    reward: Sequence[str] = (PLACE_OF_REWARD,),
) -> OnlinePlanner:
    return online_planner_for(
        model,
        objective,
        OnlineOptions(reward=tuple(reward)),
        prompts=prompts,
        held_out=sorted(prompts)[-_AT_ONCE:],
        lora=way.lora,
        dtype=way.dtype,
        device=device,
        memory=memory,
        activation_checkpointing=way.checkpointing,
        batch_size=options.get("batch_size", BATCH),
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
    judge = [f"model:{_REWARD_MODEL}"]
    return [
        "prompts alone, as many as possible and like those of the later use; those of these files will do to begin",
        "a reward that knows what the rows do not: a program that checks answers, or labels on the policy's own "
        "answers. A reward model brings what its base knows beyond the pairs; one that knows no more than the policy "
        "finds about what DPO finds in them (docs/studies, S18)",
        f"a program at hand: {online_command(model, files, fitted)}",
        f"no program, but a base that knows more than {model}, put in its place: "
        f"{reward_model_command(model, files, fitted.way)}",
        f"and then: {online_command(model, files, fitted, reward=judge)}",
        f"or with a critic that begins as the reward model: {with_critic(model, files, fitted, judge)}",
        "people or a judge at hand for new labels: rounds of writing, judging and learning, by stages with a sample "
        "step (docs/tutorials/stages.md)",
        f"memory: {size(fitted.plan.needed)} with libraries ({size(writing)} while it writes, {size(learning)} while "
        f"it learns){fits}; likelier estimate takes the command's options",
        f"or {size(critic.needed)} with --method {WITH_CRITIC}, which writes one answer to a prompt and has a critic "
        "and a reference beside the policy, in the same way",
        "time: most of it goes into writing answers",
    ]
